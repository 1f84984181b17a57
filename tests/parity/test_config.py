"""Configs and checkpoints that transformers writes, read by us: the same sizes, the same weights, nothing silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from openbook.errors import Fault
from openbook.lm.rules import rule
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.config import ACTIVATIONS, spec_from_config
from openbook.lm.weights.families.bert import BERT
from openbook.lm.weights.names import LLAMA, NameTable, parameters

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def tiny(**changes: Any) -> dict[str, Any]:
    """A config of a Llama of two layers as a checkpoint of 2024 has it."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64,
    }
    return {**config, **changes}


def tiny_bert(**changes: Any) -> dict[str, Any]:
    config = tiny(architectures=["BertModel"], model_type="bert", type_vocab_size=2, layer_norm_eps=1e-12)
    for name in ("num_key_value_heads", "rms_norm_eps"):
        del config[name]
    return {**config, **changes}


def saved(model: Any, folder: Path, **options: Any) -> Path:
    torch.manual_seed(0)
    for tensor in model.parameters():
        torch.nn.init.normal_(tensor)
    model.save_pretrained(folder, **options)
    return folder


def assert_same_state(folder: Path, model: Any, table: NameTable) -> None:
    """Each parameter under our name is the one that transformers calls by the table's."""
    checkpoint = open_checkpoint(folder)
    theirs = model.state_dict()
    seen = dict(checkpoint.state(torch.float32))
    assert {name: tuple(t.shape) for name, t in seen.items()} == parameters(checkpoint.spec)
    for ours, tensor in seen.items():
        names = [prefix + table.theirs(ours) for prefix in table.prefixes]
        assert torch.equal(tensor, next(theirs[name] for name in names if name in theirs)), ours


@given(
    kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([None, 4, 6]),
    attention_bias=st.booleans(),
    mlp_bias=st.booleans(),
    tied=st.booleans(),
    rope=st.sampled_from([None, {"rope_type": "linear", "factor": 4.0}, LLAMA3_ROPE]),
)
@settings(max_examples=12, deadline=None)
def test_llama_as_transformers_saves_it(
    tmp_path_factory: pytest.TempPathFactory,
    kv_heads: int,
    head_dim: int | None,
    attention_bias: bool,
    mlp_bias: bool,
    tied: bool,
    rope: dict[str, Any] | None,
) -> None:
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
        tie_word_embeddings=tied,
        max_position_embeddings=64,
        rope_parameters={"rope_theta": 500.0, **(rope or {"rope_type": "default"})},
    )
    model = LlamaForCausalLM(config)
    folder = saved(model, tmp_path_factory.mktemp("llama"))
    spec = open_checkpoint(folder).spec
    attention, feed_forward = spec.layers[0].attention, spec.layers[0].feed_forward
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (4, kv_heads, head_dim or 4)
    assert attention.qkv_bias == attention.out_bias == attention_bias and feed_forward.bias == mlp_bias
    assert spec.tied == tied and len(spec.layers) == 2 and spec.max_positions == 64
    assert attention.rope is not None and attention.rope.base == 500.0
    assert (
        attention.rope.scaling
        == {
            None: None,
            "linear": rule("linear", factor=4.0),
            "llama3": rule("llama3", factor=8.0, low=1.0, high=4.0, original=8192),
        }[rope and rope["rope_type"]]
    )
    assert spec.final_norm == spec.layers[0].norm and spec.layers[0].norm.epsilon == config.rms_norm_eps
    assert_same_state(folder, model, LLAMA)


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**tiny()))
    folder = saved(model, tmp_path / "sharded", max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert_same_state(folder, model, LLAMA)


def test_bert_with_and_without_prefix_and_pooler(tmp_path: Path) -> None:
    for kind in (BertModel, BertForMaskedLM):
        model = kind(BertConfig(**tiny_bert()))
        folder = saved(model, tmp_path / kind.__name__)
        spec = open_checkpoint(folder).spec
        assert not spec.head and spec.positions == "learned" and spec.token_types == 2 and spec.final_norm is None
        assert not spec.layers[0].attention.causal and spec.layers[0].place == "post"
        assert_same_state(folder, model, BERT)


def test_bert_of_tensorflow_calls_norms_gamma_and_beta(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = BertModel(BertConfig(**tiny_bert()))
    saved(model, tmp_path)
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for name, t in model.state_dict().items()
    }
    save_file(old, tmp_path / "model.safetensors")
    assert_same_state(tmp_path, model, BERT)


@pytest.mark.parametrize("theirs", sorted(ACTIVATIONS))
def test_activations_are_those_of_transformers(theirs: str) -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-4, 4, 101)
    ours = {
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "relu": torch.relu,
    }[spec_from_config(tiny(hidden_act=theirs)).layers[0].feed_forward.activation]
    torch.testing.assert_close(ours(x), ACT2FN[theirs](x), atol=1e-6, rtol=1e-5)


def test_old_and_new_spelling_of_rope_mean_one_thing() -> None:
    for scaling in ({"type": "linear", "factor": 2.0}, {"rope_type": "linear", "factor": 2.0}, LLAMA3_ROPE):
        old = spec_from_config(tiny(rope_theta=500000.0, rope_scaling=scaling))
        new = spec_from_config(tiny(rope_parameters={"rope_theta": 500000.0, **scaling}))
        assert old == new and old.layers[0].attention.rope is not None
    assert (
        spec_from_config(tiny(rope_scaling=None))
        == spec_from_config(tiny(rope_theta=10000.0))
        == spec_from_config(tiny())
    )


REFUSED = {
    "an architecture": (tiny(architectures=["MambaForCausalLM"]), "MambaForCausalLM.*BertModel.*LlamaForCausalLM"),
    "no architecture": ({"vocab_size": 3}, "architecture None"),
    "a scaling": (tiny(rope_scaling={"type": "ntk", "factor": 4.0}), "rope_type is 'ntk'"),
    "a scaling that is no word": (tiny(rope_parameters={"rope_type": 3, "factor": 4.0}), "rope_type is 3"),
    "a rope field": (tiny(rope_scaling={"type": "linear", "factor": 4.0, "mscale": 2}), "mscale"),
    "half a llama3": (tiny(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "low_freq_factor is missing"),
    "two ropes": (tiny(rope_scaling={"type": "linear", "factor": 4.0}, rope_parameters={"rope_theta": 5.0}), "differs"),
    "partial rotation": (tiny(partial_rotary_factor=0.5), "partial_rotary_factor"),
    "an activation": (tiny(hidden_act="xielu"), "hidden_act is 'xielu'"),
    "tensor parallel": (tiny(pretraining_tp=2), "pretraining_tp is 2"),
    "interleaved": (tiny(rope_interleaved=True), "rope_interleaved"),
    "quantised": (tiny(quantization_config={"bits": 4}), "quantization_config"),
    "unknown": (tiny(attn_logit_softcapping=50.0), "attn_logit_softcapping is a field"),
    "missing": ({k: v for k, v in tiny().items() if k != "hidden_size"}, "hidden_size is missing"),
    "not a number": (tiny(hidden_size="16"), "hidden_size is '16'"),
    "true is no number": (tiny(num_hidden_layers=True), "num_hidden_layers"),
    "endless layers": (tiny(num_hidden_layers=10**8), "at most 4096 layers"),
    "no division": (tiny(num_key_value_heads=3), "kv_heads must divide"),
    "relative positions": (tiny_bert(position_embedding_type="relative_key"), "position_embedding_type"),
    "a BERT decoder": (tiny_bert(is_decoder=True), "is_decoder"),
    "crossed": (tiny_bert(add_cross_attention=True), "add_cross_attention"),
    "pruned": (tiny_bert(pruned_heads={"0": [1]}), "pruned_heads"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(case: str) -> None:
    config, said = REFUSED[case]
    with pytest.raises(Fault, match=said):
        spec_from_config(config)


@given(name=st.text(min_size=1, max_size=12), value=st.one_of(st.none(), st.integers(), st.text(max_size=5)))
@settings(max_examples=60, deadline=None)
def test_any_field_is_known_or_refused(name: str, value: Any) -> None:
    try:
        spec_from_config({**tiny(), name: value})
    except Fault as fault:
        assert name in str(fault) or repr(name) in str(fault) or name in tiny()


def wrong_folder(tmp_path: Path, change: Any, **config: Any) -> Path:
    from safetensors.torch import save_file

    model = LlamaForCausalLM(LlamaConfig(**tiny(**config)))
    saved(model, tmp_path)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_missing_left_over_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    key = "model.layers.1.self_attn.k_proj.weight"
    changes = {
        "missing": (lambda t: t.pop(key), f"{key} is missing"),
        "more": (lambda t: t.update({"model.extra": torch.ones(1)}), "model.extra is left over"),
        "shape": (lambda t: t.update({key: torch.ones(3, 3)}), rf"{key} is of shape \[3, 3\].*\[8, 16\]"),
    }
    for name, (change, said) in changes.items():
        with pytest.raises(Fault, match=said):
            open_checkpoint(wrong_folder(tmp_path / name, change))
    integers = wrong_folder(tmp_path / "int", lambda t: t.update({key: torch.ones(8, 16, dtype=torch.int8)}))
    with pytest.raises(Fault, match=f"{key} is stored as I8"):
        list(open_checkpoint(integers).state())


def test_a_tied_head_stored_again_is_no_matter_if_it_is_the_same(tmp_path: Path) -> None:
    same = open_checkpoint(wrong_folder(tmp_path / "same", lambda t: None, tie_word_embeddings=True))
    assert same.spec.tied and "head.weight" not in dict(same.state())
    head = "lm_head.weight"
    other = wrong_folder(tmp_path / "other", lambda t: t[head].view(-1)[-1:].add_(1.0), tie_word_embeddings=True)
    with pytest.raises(Fault, match=rf"other: {head} differs from model.embed_tokens.weight.*tie_word_embeddings"):
        list(open_checkpoint(other).state())
    shape = wrong_folder(tmp_path / "shape", lambda t: t.update({head: t[head][:-1]}), tie_word_embeddings=True)
    with pytest.raises(Fault, match=f"{head} is of shape"):
        open_checkpoint(shape)


def test_folders_that_are_not_models(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"):
        (tmp_path / name).write_bytes(b"\x80\x04.")
        with pytest.raises(Fault, match=r"only safetensors and GGUF are read: convert it"):
            open_checkpoint(tmp_path / name)
        with pytest.raises(Fault, match=r"is a pickle"):
            open_checkpoint(tmp_path)
        (tmp_path / name).unlink()
    with pytest.raises(Fault, match=r"config\.json is missing"):
        open_checkpoint(tmp_path)
    with pytest.raises(Fault, match="does not exist"):
        open_checkpoint(tmp_path / "absent")
    (tmp_path / "config.json").write_text(json.dumps(tiny()))
    with pytest.raises(Fault, match="neither model"):
        open_checkpoint(tmp_path)
    for content in ("{", "[]", "[" * 100_000, "\xff"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(Fault, match=r"config\.json"):
            open_checkpoint(tmp_path)


@pytest.mark.parametrize("outside", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin"])
def test_an_index_may_not_point_outside(tmp_path: Path, outside: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(tiny()))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": outside}}))
    with pytest.raises(Fault, match="not a safetensors file of its folder"):
        open_checkpoint(tmp_path)


@given(cut=st.floats(0, 0.999))
@settings(max_examples=20, deadline=None)
def test_truncated_safetensors_are_a_fault(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    folder = wrong_folder(tmp_path_factory.mktemp("cut"), lambda t: None)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(Fault, match="not a whole safetensors file"):
        open_checkpoint(folder)
