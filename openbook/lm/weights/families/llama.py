"""Llama 1–3 and Mistral: pre-norm RMSNorm, RoPE, MHA, GQA or MQA, a gated MLP."""

from __future__ import annotations

from openbook.lm.spec import AttentionSpec, FeedForwardSpec, ModelSpec, NormSpec
from openbook.lm.weights.config import activation, decoder, family, head_counts, layer_count
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import LLAMA
from openbook.lm.weights.ropes import rope_from


def gated(fields: Fields, bias: bool = False) -> FeedForwardSpec:
    """The gated MLP that Llama and its kin share."""
    return FeedForwardSpec(fields.whole("intermediate_size"), activation(fields, "silu"), bias=bias)


@family("LlamaForCausalLM", model_type="llama", names=LLAMA)
def llama(fields: Fields) -> ModelSpec:
    """Llama 1–3 (2302.13971, 2407.21783), SmolLM2, TinyLlama."""
    fields.only("pretraining_tp", 1)
    fields.only("rope_interleaved", False)
    fields.only("activation", "swiglu")  # Falcon 3's other word for hidden_act and the gate
    fields.only("max_sequence_length", fields.whole("max_position_embeddings", 2048))  # Llama 1's
    heads, kv_heads, head_dim = head_counts(fields)
    norm = NormSpec("rms", fields.real("rms_norm_eps", 1e-6))
    bias, count = fields.flag("attention_bias", False), layer_count(fields)
    attention = AttentionSpec(
        heads, kv_heads, head_dim, rope=rope_from(fields, head_dim, 2048), qkv_bias=bias, out_bias=bias
    )
    feed_forward = gated(fields, fields.flag("mlp_bias", False))
    return decoder(fields, norm, [attention] * count, [feed_forward] * count, max_positions=2048)


@family("MistralForCausalLM", model_type="mistral", names=LLAMA)
def mistral(fields: Fields) -> ModelSpec:
    """Mistral 7B: Llama whose queries see `sliding_window` keys, itself counted (2310.06825)."""
    heads, kv_heads, head_dim = head_counts(fields, kv_heads=8)
    norm, count = NormSpec("rms", fields.real("rms_norm_eps", 1e-6)), layer_count(fields)
    attention = AttentionSpec(
        heads, kv_heads, head_dim, window=window_from(fields, 4096), rope=rope_from(fields, head_dim, 131_072)
    )
    return decoder(fields, norm, [attention] * count, [gated(fields)] * count, max_positions=131_072)


def window_from(fields: Fields, default: int | None) -> int | None:
    """The field `sliding_window`: an explicit null means none, whatever an absent field means."""
    if fields.take("sliding_window") is None and (default is None or fields.has("sliding_window")):
        return None
    return fields.whole("sliding_window", default)
