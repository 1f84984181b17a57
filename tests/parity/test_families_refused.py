"""What a family's config cannot say is refused, and the error names the field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_families_fields import MODELS, written

from openbook.errors import Fault
from openbook.lm.weights.config import FAMILIES, spec_from_config

LOCAL, GLOBAL = "sliding_attention", "full_attention"
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "clipped": ("Olmoe", {"clip_qkv": 8.0}, "clip_qkv is 8.0"),
    "a cap that nobody applies": ("Gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    "both ways": ("Gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    "two activations": ("Gemma2", {"hidden_act": "relu"}, "hidden_act differs from hidden_activation"),
    "no scale": ("Gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
    "a cap of nought": ("Gemma2", {"final_logit_softcapping": 0.0}, "logit_cap is 0.0"),
    "a kind of layer": ("Gemma3", {"layer_types": [LOCAL, GLOBAL, "chunked_attention"]}, "chunked_attention"),
    "too few layers": ("Qwen3", {"layer_types": [GLOBAL]}, "layer_types is not a list of 3"),
    "layer types that are none": ("Qwen3", {"layer_types": {"0": GLOBAL}}, "layer_types is not a list"),
    "windows unasked": ("Qwen2", {"use_sliding_window": False}, "layer_types has sliding_attention"),
    "windows of no size": ("Qwen2", {"sliding_window": None}, "layer_types has sliding_attention"),
    "half a layer": ("Qwen2", {"max_window_layers": 0.5}, "max_window_layers is 0.5"),
    "axes": ("Qwen2", {"use_mrope": True}, "use_mrope is True"),
    "a rope a layer type": ("Llama", {"rope_parameters": {GLOBAL: {"rope_theta": 1e4}}}, "full_attention is a field"),
    "a rope of neither": ("Gemma3", {"rope_parameters": {"rope_theta": 1e4}}, "rope_theta is a field"),
    "a rope of a third": ("Gemma3", {"rope_parameters": {GLOBAL: {"rope_type": "ntk"}}}, "full_attention: rope_type"),
    "two spellings": ("Gemma3", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling stands beside"),
    "a part of a head": ("Mistral", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "more than a head": (
        "Phi3",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.5}},
        "partial_rotary_factor is 1.5",
    ),
    "factors for another head": (
        "Phi3",
        {"rope_parameters": LONG | {"short_factor": [1.0]}},
        "short_factor must be a list of 2",
    ),
    "factors that are none": ("Phi3", {"rope_parameters": LONG | {"long_factor": [1.0, 0]}}, "long_factor must be"),
    "two lengths": (
        "Phi3",
        {"rope_parameters": LONG | {"original_max_position_embeddings": 9}},
        "original_max_position_embeddings is 9",
    ),
    "an unused field": (
        "Llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "alpha": 3}},
        "alpha is a field",
    ),
    "a length nobody reads": (
        "Llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 9}},
        "original_max_position_embeddings is 9",
    ),
    "biases": ("Phi3", {"attention_bias": True}, "attention_bias is True"),
    "no expert": ("Mixtral", {"num_local_experts": 0}, "num_local_experts is 0"),
    "too many active": ("Mixtral", {"num_experts_per_tok": 5}, "5 of 4 experts"),
    "two counts": ("Qwen3Moe", {"num_experts": 5}, "num_experts is 5"),
    "no such layer": ("Qwen3Moe", {"mlp_only_layers": [3]}, "mlp_only_layers is"),
    "windows from a layer on": (
        "Qwen3Moe",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
        "max_window_layers is 2",
    ),
    "a residual after the norm": (
        "Falcon",
        {"apply_residual_connection_post_layernorm": True},
        "apply_residual_connection_post_layernorm is True",
    ),
    "grouped, one after the other": ("Falcon, grouped", {"parallel_attn": False}, "parallel_attn is False"),
    "three norms": ("Falcon, grouped", {"num_ln_in_parallel_attn": 3}, "num_ln_in_parallel_attn is 3"),
    "two norms of old": ("Falcon", {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn is 2"),
    "groups of old": ("Falcon", {"multi_query": False, "num_kv_heads": 2}, "num_kv_heads is 2"),
    "two contexts": ("GPT2", {"n_ctx": 16}, "n_ctx is 16"),
    "heads that do not divide": ("GPT2", {"n_head": 3}, "n_head is 3, which does not divide the width 16"),
    "an activation": ("GPT2", {"activation_function": "xielu"}, "activation_function is 'xielu'"),
    "crossed": ("GPT2", {"add_cross_attention": True}, "add_cross_attention"),
    "an encoder too": ("Llama", {"is_encoder_decoder": True}, "is_encoder_decoder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_name(case: str) -> None:
    name, changes, said = REFUSED[case]
    kind, make, sizes = MODELS[name]
    config = written(kind, make(**sizes)) | changes
    with pytest.raises(Fault, match=said):
        spec_from_config(config)


@pytest.mark.parametrize("name", MODELS)
def test_no_heads_or_heads_that_do_not_divide(name: str) -> None:
    kind, make, sizes = MODELS[name]
    fields = written(kind, make(**sizes))
    field = "n_head" if name == "GPT2" else "num_attention_heads"
    for absurd in (0, -4, 10**12, "4", None, 3.5):
        with pytest.raises(Fault, match=field):
            spec_from_config(fields | {field: absurd})


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=4,
)


@given(name=st.sampled_from(sorted(MODELS)), data=st.data())
@settings(max_examples=300, deadline=None)
def test_anything_in_any_field_is_a_spec_or_a_fault(name: str, data: st.DataObject) -> None:
    """Also within the fields of RoPE: never another error, and never a wait."""
    kind, make, sizes = MODELS[name]
    fields = written(kind, make(**sizes))
    field = data.draw(st.sampled_from(sorted(set(fields) - {"architectures"})))
    value = data.draw(ANYTHING)
    rope = fields.get("rope_parameters")
    if field == "rope_parameters" and rope and data.draw(st.booleans()):
        value = {**rope, data.draw(st.sampled_from([*rope, "type", "factor"])): value}
    try:
        spec_from_config(fields | {field: value})
    except Fault as fault:
        assert "\n" not in str(fault)


def test_every_family_is_drawn_here() -> None:
    """A decoder family that is added to the registry is added to `MODELS`, or it is not held to these laws."""
    ours = {kind.__name__ for kind, _, _ in MODELS.values()}
    decoders = {name for name in FAMILIES if name.endswith(("ForCausalLM", "LMHeadModel"))}
    assert ours == decoders - {"OpenbookForCausalLM"}
