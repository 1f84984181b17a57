"""Qwen 2 and 3: Llama with biases of queries, keys and values, or with norms of queries and keys."""

from __future__ import annotations

from dataclasses import replace

from openbook.lm.spec import AttentionSpec, ModelSpec, NormSpec, QKNormSpec
from openbook.lm.weights.config import decoder, family, head_counts, layer_count, sliding_layers
from openbook.lm.weights.families.llama import gated
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import LLAMA
from openbook.lm.weights.ropes import rope_from

QWEN3 = replace(
    LLAMA,
    modules=LLAMA.modules
    | {
        "layers.{i}.attention.query_norm": "layers.{i}.self_attn.q_norm",
        "layers.{i}.key_value.key_norm": "layers.{i}.self_attn.k_norm",
    },
)


@family("Qwen2ForCausalLM", model_type="qwen2", names=LLAMA)
def qwen2(fields: Fields) -> ModelSpec:
    """Qwen 2 and 2.5 (2407.10671)."""
    fields.only("use_mrope", False)
    heads, kv_heads, head_dim = head_counts(fields, kv_heads=32)
    norm = NormSpec("rms", fields.real("rms_norm_eps", 1e-6))
    rope = rope_from(fields, head_dim, 32_768)
    attentions = [
        AttentionSpec(heads, kv_heads, head_dim, window=window, rope=rope, qkv_bias=True) for window in windows(fields)
    ]
    return decoder(fields, norm, attentions, [gated(fields)] * len(attentions), max_positions=32_768)


@family("Qwen3ForCausalLM", model_type="qwen3", names=QWEN3)
def qwen3(fields: Fields) -> ModelSpec:
    """Qwen 3 (2505.09388): each head of queries and keys is normed before RoPE."""
    heads, kv_heads, head_dim = head_counts(fields, kv_heads=32, head_dim=128)
    norm = NormSpec("rms", fields.real("rms_norm_eps", 1e-6))
    rope, bias = rope_from(fields, head_dim, 32_768), fields.flag("attention_bias", False)
    attentions = [
        AttentionSpec(
            heads,
            kv_heads,
            head_dim,
            window=window,
            rope=rope,
            qk_norm=QKNormSpec(norm),
            qkv_bias=bias,
            out_bias=bias,
        )
        for window in windows(fields)
    ]
    return decoder(fields, norm, attentions, [gated(fields)] * len(attentions), max_positions=32_768)


def windows(fields: Fields) -> list[int | None]:
    """The window of each layer: of those from `max_window_layers` on, if `use_sliding_window`."""
    used, size = fields.flag("use_sliding_window", False), fields.take("sliding_window", 4096)
    count = layer_count(fields)
    first = fields.take("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int) or first < 0:
        raise fields.fault("max_window_layers", f"is {first!r}, not a whole number of 0 or more")
    off = fields.has("sliding_window") and fields.take("sliding_window") is None
    sliding = sliding_layers(fields, [used and not off and index >= first for index in range(count)])
    if any(sliding) and (off or not used):
        raise fields.fault("layer_types", "has sliding_attention, but use_sliding_window or sliding_window is not set")
    return [fields.whole("sliding_window", size) if slides else None for slides in sliding]
