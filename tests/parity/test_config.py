"""Configs and checkpoints that transformers writes, read by us: the same sizes, the same weights, nothing silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
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
    MistralConfig,
    MistralForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from openbook.errors import Fault
from openbook.lm.rules import rule
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.config import ACTIVATIONS, spec_from_config
from openbook.lm.weights.gguf_spec import llama3_divisors
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


def test_mistral_has_a_window_that_counts_the_query(tmp_path: Path) -> None:
    config = tiny(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=8)
    model = MistralForCausalLM(MistralConfig(**config))
    folder = saved(model, tmp_path / "mistral")
    assert open_checkpoint(folder).spec.layers[1].attention.window == 8
    assert_same_state(folder, model, LLAMA)
    assert spec_from_config({**config, "sliding_window": None}).layers[0].attention.window is None
    del config["sliding_window"]
    assert spec_from_config(config).layers[0].attention.window == MistralConfig().sliding_window


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


def test_divisors_of_llama3_are_those_of_transformers() -> None:
    config = LlamaConfig(head_dim=64, rope_parameters={"rope_theta": 500000.0, **LLAMA3_ROPE})
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** (-torch.arange(32) / 32)
    ours = torch.tensor(llama3_divisors(rule("llama3", factor=8.0, low=1.0, high=4.0, original=8192), 500000.0, 32))
    torch.testing.assert_close(plain / ours, scaled, rtol=1e-5, atol=0)


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


def test_a_tied_head_stored_again_is_no_matter(tmp_path: Path) -> None:
    folder = wrong_folder(tmp_path, lambda t: None, tie_word_embeddings=True)
    assert open_checkpoint(folder).spec.tied


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
