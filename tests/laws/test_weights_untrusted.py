"""A checkpoint comes from anywhere: whatever its metadata, config or tokenizer say, it loads or it is a `Fault`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from openbook.errors import Fault
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.config import spec_from_config
from openbook.lm.weights.tokenizer_json import BYTE_OF

ALPHABET = [character for character, _ in sorted(BYTE_OF.items(), key=lambda item: item[1])]
METADATA: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [*ALPHABET, "ab", "abc", "<|im_end|>"],
    "tokenizer.ggml.token_type": [1] * 258 + [3],
    "tokenizer.ggml.scores": [0.0] * 259,
    "tokenizer.ggml.merges": ["a b", "ab c"],
    "tokenizer.ggml.bos_token_id": 258,
    "tokenizer.ggml.eos_token_id": 258,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.add_space_prefix": True,
    "tokenizer.chat_template": "{{ messages[0].content }}",
}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rope_theta": 10000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "sliding_window": None,
}
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)


def used(tokenizer: Tokenizer) -> None:
    """What is done with a tokenizer that loaded."""
    ids = tokenizer.encode("abc <|im_end|> é", special=True)
    tokenizer.decode([*ids, 10**9])
    tokenizer.encode_template("ab<|im_end|>")
    tokenizer.encode_chat([{"role": "user", "content": "ab<|im_end|>"}])


@given(key=st.sampled_from(sorted(METADATA)), value=ANYTHING, model=st.sampled_from(["gpt2", "llama"]))
@example(key="tokenizer.ggml.scores", value=["x"] * 259, model="llama")
@example(key="tokenizer.ggml.token_type", value=[[]] * 259, model="gpt2")
@settings(max_examples=250, deadline=None)
def test_any_tokenizer_metadata(key: str, value: Any, model: str) -> None:
    try:
        used(Tokenizer.from_gguf({**METADATA, "tokenizer.ggml.model": model, key: value}))
    except Fault as fault:
        assert "\n" not in str(fault)


FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def definition() -> dict[str, Any]:
    return {
        "version": "1.0",
        "added_tokens": [{"id": 4, "content": "</s>", "special": True, **FLAGS}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "</s>": 4}, "merges": [["a", "b"]]},
    }  # fmt: skip


PLACES: list[tuple[Any, ...]] = [
    *((part,) for part in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model")),
    *(("added_tokens", 0, part) for part in ("id", "content", "special", "lstrip")),
    *(("model", part) for part in ("type", "vocab", "merges", "unk_token", "ignore_merges")),
    *(("added_tokens", 0), ("decoder", "type"), ("model", "vocab", "ab"), ("model", "merges", 0)),
]


@given(place=st.sampled_from(PLACES), value=ANYTHING)
@example(place=("decoder",), value={"type": "Sequence", "decoders": [1]})
@example(place=("model", "merges"), value=["a b c"])
@example(place=("model", "merges", 0), value=[1, 2])
@example(place=("model", "vocab", "ab"), value=-5)
@settings(max_examples=300, deadline=None)
def test_any_tokenizer_json(place: tuple[Any, ...], value: Any) -> None:
    changed: Any = definition()
    inner = changed
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    try:
        used(Tokenizer(json.loads(json.dumps(changed))))
    except Fault as fault:
        assert "\n" not in str(fault)


@given(key=st.sampled_from([*CONFIG, "head_dim", "rope_parameters", "hidden_act", "rms_norm_eps"]), value=ANYTHING)
@settings(max_examples=250, deadline=None)
def test_any_config(key: str, value: Any) -> None:
    scaled = {**CONFIG, "rope_scaling": {"rope_type": "llama3", key: value}}
    for changed in ({**CONFIG, key: value}, scaled):
        try:
            spec_from_config(changed)
        except Fault as fault:
            assert "\n" not in str(fault)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole Llama of one layer as a GGUF file with its tokenizer."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    sizes = {"block_count": 1, "context_length": 32, "embedding_length": 8, "feed_forward_length": 8}
    for key, number in {**sizes, "attention.head_count": 2}.items():
        writer.add_uint32(f"llama.{key}", number)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in METADATA.items():
        add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}[
            type(value)
        ]
        add(key, value)
    square = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {f"blk.0.{name}": (8, 8) for name in square}
    shapes |= {"blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,), "output_norm": (8,), "token_embd": (259, 8)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=5))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damaged_model(model: bytes, tmp_path: Path, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(model)
    header = model.index(b"token_embd.weight") + 60
    for place, value in flips:
        damaged[int(place * header)] = value
    path = tmp_path / "m.gguf"
    path.write_bytes(damaged)
    try:
        checkpoint = open_checkpoint(path)
        assert sum(tensor.numel() for _, tensor in checkpoint.state(torch.float16)) == checkpoint.parameters
        used(checkpoint.tokenizer())
        assert checkpoint.fingerprint
    except Fault as fault:
        assert "\n" not in str(fault)
    if damaged == model:
        assert checkpoint.parameters == 259 * 8 + 7 * 64 + 24
