"""Gemma 1–3: norms multiply by 1 + w, embeddings by √M; GeGLU, a tied head."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from openbook.lm.spec import AttentionSpec, FeedForwardSpec, ModelSpec, NormSpec, Place, QKNormSpec, RopeSpec
from openbook.lm.weights.config import activation, decoder, family, head_counts, layer_count, sliding_layers, words
from openbook.lm.weights.families.qwen import QWEN3
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import LLAMA
from openbook.lm.weights.ropes import part, rope_from, scaling_from

GEMMA2 = replace(
    QWEN3,
    modules=QWEN3.modules
    | {
        "layers.{i}.attention_post_norm": "layers.{i}.post_attention_layernorm",
        "layers.{i}.feed_forward_norm": "layers.{i}.pre_feedforward_layernorm",
        "layers.{i}.feed_forward_post_norm": "layers.{i}.post_feedforward_layernorm",
    },
)


@family("GemmaForCausalLM", model_type="gemma", names=LLAMA)
def gemma(fields: Fields) -> ModelSpec:
    """Gemma 1 (2403.08295): Llama's block."""
    attention = replace(_attention(fields, kv_heads=16), rope=rope_from(fields, _head_dim(fields), 8192))
    fields.take("hidden_activation")  # transformers reads hidden_act, and takes its "gelu" for the tanh approximation
    name = "gelu_pytorch_tanh" if fields.take("hidden_act") == "gelu" else fields.take("hidden_act")
    inner = Fields({"hidden_act": name}, "config.json")
    feed_forward = FeedForwardSpec(fields.whole("intermediate_size"), activation(inner, "gelu_pytorch_tanh"))
    return _gemma(fields, [attention] * layer_count(fields), feed_forward, "pre", 8192)


@family("Gemma2ForCausalLM", model_type="gemma2", names=GEMMA2)
def gemma2(fields: Fields) -> ModelSpec:
    """Gemma 2 (2408.00118): every other layer local from the first on, sandwich norms, capped logits."""
    cap, final = _cap(fields, "attn_logit_softcapping", 50.0), _cap(fields, "final_logit_softcapping", 30.0)
    attention = replace(
        _attention(fields, kv_heads=4),
        rope=rope_from(fields, _head_dim(fields), 8192),
        scale=_scale(fields),
        soft_cap=cap,
    )
    sliding = sliding_layers(fields, [index % 2 == 0 for index in range(layer_count(fields))])
    local = replace(attention, window=fields.whole("sliding_window", 4096))
    fields.only("sliding_window_size", local.window)  # its name in the first configs of 9B and 27B, beside the other
    layers = [local if slides else attention for slides in sliding]
    return _gemma(fields, layers, _feed_forward(fields), "sandwich", 8192, logit_cap=final)


@family("Gemma3ForCausalLM", model_type="gemma3_text", names=GEMMA2)
def gemma3(fields: Fields) -> ModelSpec:
    """Gemma 3, text (2503.19786): five local layers to a global one, a RoPE each; queries and keys normed a head."""
    fields.only("attn_logit_softcapping")  # transformers has the field, and does not apply it
    final, count = _cap(fields, "final_logit_softcapping", None), layer_count(fields)
    attention = replace(_attention(fields, kv_heads=4), scale=_scale(fields), qk_norm=QKNormSpec(_norm(fields)))
    local_rope, global_rope = _two_ropes(fields, attention.head_dim, 131_072)
    sliding = sliding_layers(fields, [bool(index % _pattern(fields)) for index in range(1, count + 1)])
    local = replace(attention, window=fields.whole("sliding_window", 4096), rope=local_rope)
    layers = [local if slides else replace(attention, rope=global_rope) for slides in sliding]
    return _gemma(fields, layers, _feed_forward(fields), "sandwich", 131_072, logit_cap=final)


def _gemma(
    fields: Fields,
    attentions: list[AttentionSpec],
    feed_forward: FeedForwardSpec,
    place: Place,
    max_positions: int,
    **more: Any,
) -> ModelSpec:
    fields.only("use_bidirectional_attention", False)
    return decoder(
        fields,
        _norm(fields),
        attentions,
        [feed_forward] * len(attentions),
        place=place,
        max_positions=max_positions,
        tied=True,
        harmless=words("cache_implementation"),  # which of transformers' caches to use
        embedding_scale=math.sqrt(fields.whole("hidden_size")),
        **more,
    )


def _norm(fields: Fields) -> NormSpec:
    return NormSpec("rms", fields.real("rms_norm_eps", 1e-6), offset=1.0)


def _attention(fields: Fields, kv_heads: int) -> AttentionSpec:
    heads, kv_heads, head_dim = head_counts(fields, kv_heads, head_dim=256)
    bias = fields.flag("attention_bias", False)
    return AttentionSpec(heads, kv_heads, head_dim, qkv_bias=bias, out_bias=bias)


def _head_dim(fields: Fields) -> int:
    return fields.whole("head_dim", 256)


def _feed_forward(fields: Fields) -> FeedForwardSpec:
    chosen = activation(fields, "gelu_pytorch_tanh", "hidden_activation")
    # Written beside it by the first releases, with the same meaning, and read by nobody.
    if fields.take("hidden_act") is not None and activation(fields, "", "hidden_act") != chosen:
        raise fields.fault("hidden_act", "differs from hidden_activation; keep the one that is right")
    return FeedForwardSpec(fields.whole("intermediate_size"), chosen)


def _scale(fields: Fields) -> float:
    """Queries are multiplied by `query_pre_attn_scalar`^−½: head_dim, or in Gemma 2 27B M/H."""
    scalar = fields.real("query_pre_attn_scalar", 256.0)
    if scalar == 0:
        raise fields.fault("query_pre_attn_scalar", "is 0; it must be above 0")
    return float(scalar**-0.5)


def _cap(fields: Fields, name: str, default: float | None) -> float | None:
    """A soft-cap; an explicit null means none, whatever an absent field means."""
    if fields.take(name) is None and (default is None or fields.has(name)):
        return None
    return fields.real(name, default)


def _pattern(fields: Fields) -> int:
    """One layer in how many is global. Where `layer_types` says it, the other spelling is only a record."""
    if fields.take("layer_types") is not None:
        fields.take("sliding_window_pattern")
        fields.take("_sliding_window_pattern")
        return 6
    pattern = fields.whole("sliding_window_pattern", 6)
    fields.only("_sliding_window_pattern", pattern)
    return pattern


def _two_ropes(fields: Fields, head_dim: int, max_positions: int) -> tuple[RopeSpec, RopeSpec]:
    """The RoPE of local and of global layers: an object a layer type, or flat fields, whose scaling is the global's."""
    nested, scaling = part(fields, "rope_parameters"), part(fields, "rope_scaling")
    if nested and scaling:
        raise fields.fault("rope_scaling", "stands beside rope_parameters; keep the one that is right")
    kinds = Fields(nested, "config.json: rope_parameters")
    bases = {
        "sliding_attention": fields.real("rope_local_base_freq", 10_000.0),
        "full_attention": fields.real("rope_theta", 1e6),
    }
    ropes = []
    for kind, base in bases.items():
        given = part(kinds, kind) or (scaling if kind == "full_attention" else {})
        inner = Fields(given, f"config.json: rope_parameters of {kind}")
        base = inner.real("rope_theta", base)
        inner.only("partial_rotary_factor", 1, 1.0)
        ropes.append(RopeSpec(base, scaling_from(inner, fields, head_dim, max_positions)))
    kinds.finish(())
    return ropes[0], ropes[1]
