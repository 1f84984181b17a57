"""A Llama as GGUF: the same model as from safetensors, its RoPE factors honoured, all else refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_config import LLAMA3_ROPE, saved, tiny
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from openbook.errors import Fault
from openbook.lm.rules import rule
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.gguf_spec import llama3_divisors


def test_divisors_of_llama3_are_those_of_transformers() -> None:
    config = LlamaConfig(head_dim=64, rope_parameters={"rope_theta": 500000.0, **LLAMA3_ROPE})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** (-torch.arange(32) / 32)
    ours = torch.tensor(llama3_divisors(rule("llama3", factor=8.0, low=1.0, high=4.0, original=8192), 500000.0, 32))
    torch.testing.assert_close(plain / ours, scaled, rtol=1e-5, atol=0)


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """What llama.cpp's converter does to the rows of Q and K."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def gguf_of(model: Any, path: Path, architecture: str = "llama", **changes: Any) -> Path:
    """The model as llama.cpp's converter would write it, in F32; `changes` are further keys, None removes one."""
    config = model.config
    keys: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    writer = gguf.GGUFWriter(str(path), architecture)
    factors = changes.pop("rope_freqs", None)
    for key, value in {**keys, **changes}.items():
        if isinstance(value, str):
            writer.add_string(f"llama.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"llama.{key}", value)
        elif value is not None:
            writer.add_uint32(f"llama.{key}", value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        tensor = permuted(tensor, heads) if heads else tensor
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor.contiguous().numpy())
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@given(kv_heads=st.sampled_from([1, 2, 4]), bias=st.booleans(), tied=st.booleans())
@settings(max_examples=8, deadline=None)
def test_gguf_and_safetensors_of_one_model_agree(
    tmp_path_factory: pytest.TempPathFactory, kv_heads: int, bias: bool, tied: bool
) -> None:
    folder = tmp_path_factory.mktemp("both")
    config = tiny(
        num_key_value_heads=kv_heads, attention_bias=bias, mlp_bias=bias, tie_word_embeddings=tied, head_dim=8
    )
    config["num_attention_heads"] = 4
    model = LlamaForCausalLM(LlamaConfig(**config))
    saved(model, folder)
    left, right = (
        open_checkpoint(folder),
        open_checkpoint(gguf_of(model, folder / "m.gguf", **{"attention.key_length": 8})),
    )
    assert left.spec.layers[0].attention == right.spec.layers[0].attention and left.spec.tied == right.spec.tied
    ours, theirs = dict(left.state()), dict(right.state())
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert left.fingerprint == open_checkpoint(folder).fingerprint != right.fingerprint


def test_rope_factors_of_a_gguf_are_honoured_or_refused(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**tiny(head_dim=64)))
    saved(model, tmp_path)
    options: dict[str, Any] = {"attention.key_length": 64, "rope.freq_base": 500000.0}
    scaling = rule("llama3", factor=32.0, low=1.0, high=4.0, original=8192)
    divisors = torch.tensor(llama3_divisors(scaling, 500000.0, 32))
    cases = {"llama3": (divisors, scaling), "none": (torch.ones(32), None)}
    for name, (factors, expected) in cases.items():
        path = gguf_of(model, tmp_path / f"{name}.gguf", rope_freqs=factors, **options)
        rope = open_checkpoint(path).spec.layers[0].attention.rope
        assert rope is not None and rope.scaling == expected
    for name, factors in {"other": torch.linspace(1, 9, 32), "nan": torch.full((32,), torch.nan)}.items():
        path = gguf_of(model, tmp_path / f"{name}.gguf", rope_freqs=factors, **options)
        with pytest.raises(Fault, match=r"rope_freqs\.weight"):
            open_checkpoint(path)
    with pytest.raises(Fault, match="32 factors"):
        open_checkpoint(gguf_of(model, tmp_path / "short.gguf", rope_freqs=torch.ones(4), **options))


GGUF_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "experts": ({"expert_count": 8}, "expert_count is 8"),
    "yarn": ({"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, "original_context_length is missing"),
    "a scale": ({"attention.scale": 0.5}, "attention.scale is a field"),
    "part of a head rotates": ({"rope.dimension_count": 2}, "rope.dimension_count is 2"),
    "odd values": ({"attention.value_length": 6}, "attention.value_length"),
    "another vocabulary": ({"vocab_size": 41}, "vocab_size is 41"),
    "no layers": ({"block_count": None}, "block_count is missing"),
    "one layer too many": ({"block_count": 3}, r"9 tensors \(blk\.2\.attn_q\.weight, .*\) are missing"),
    "one layer too few": ({"block_count": 1}, "blk.1.* are left over"),
}


@pytest.mark.parametrize("case", GGUF_REFUSED)
def test_what_a_gguf_cannot_be_is_refused_by_name(case: str, tmp_path: Path) -> None:
    changes, said = GGUF_REFUSED[case]
    model = LlamaForCausalLM(LlamaConfig(**tiny()))
    with pytest.raises(Fault, match=said):
        open_checkpoint(gguf_of(model, tmp_path / "m.gguf", **changes))


def test_another_gguf_architecture_is_named_and_linear_scaling_is_kept(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**tiny()))
    with pytest.raises(Fault, match="'mamba' is not supported"):
        open_checkpoint(gguf_of(model, tmp_path / "q.gguf", architecture="mamba"))
    linear = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    rope = open_checkpoint(gguf_of(model, tmp_path / "l.gguf", **linear)).spec.layers[0].attention.rope
    assert rope is not None and rope.scaling == rule("linear", factor=4.0)
