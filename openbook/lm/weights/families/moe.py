"""Mixtures of experts: Mixtral, Qwen3-MoE, OLMoE. Llama's block with experts for its MLP."""

from __future__ import annotations

from dataclasses import replace

from openbook.lm.spec import AttentionSpec, ExpertsSpec, FeedForwardSpec, ModelSpec, NormSpec, QKNormSpec
from openbook.lm.weights.config import activation, decoder, family, head_counts, layer_count, words
from openbook.lm.weights.families.llama import gated, window_from
from openbook.lm.weights.families.qwen import QWEN3
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import LLAMA
from openbook.lm.weights.recipes import GATE_UP, Either, PerExpert, Rows, Value
from openbook.lm.weights.ropes import rope_from


def banks(gate: str, up: str, down: str) -> dict[str, Value]:
    """Where the experts are: a tensor each, called so, or all in one, as transformers 5 holds them in memory."""
    together: Value = Rows("layers.{i}.mlp.experts.gate_up_proj", GATE_UP, dim=1)
    return {
        "layers.{i}.feed_forward.gate": Either(PerExpert(gate), together),
        "layers.{i}.feed_forward.up": Either(PerExpert(up), together),
        "layers.{i}.feed_forward.down": Either(PerExpert(down), "layers.{i}.mlp.experts.down_proj"),
    }


MIXTRAL = replace(
    LLAMA,
    modules=LLAMA.modules
    | {"layers.{i}.feed_forward.router": Either("layers.{i}.block_sparse_moe.gate", "layers.{i}.mlp.gate")},
    tensors=banks(*(f"layers.{{i}}.block_sparse_moe.experts.{{e}}.{w}.weight" for w in ("w1", "w3", "w2"))),
)
EXPERTS = replace(
    QWEN3,
    modules=QWEN3.modules | {"layers.{i}.feed_forward.router": "layers.{i}.mlp.gate"},
    tensors=banks(*(f"layers.{{i}}.mlp.experts.{{e}}.{w}_proj.weight" for w in ("gate", "up", "down"))),
)

# The losses that balance experts, and the noise on their input, are of training alone.
TRAINING = words("output_router_logits router_aux_loss_coef router_jitter_noise")


@family("MixtralForCausalLM", model_type="mixtral", names=MIXTRAL)
def mixtral(fields: Fields) -> ModelSpec:
    """Mixtral (2401.04088): the softmax of all experts' logits, its top k renormalised."""
    heads, kv_heads, head_dim = head_counts(fields, kv_heads=8)
    norm, count = NormSpec("rms", fields.real("rms_norm_eps", 1e-5)), layer_count(fields)
    attention = AttentionSpec(
        heads,
        kv_heads,
        head_dim,
        window=window_from(fields, None),
        rope=rope_from(fields, head_dim, 131_072, base=1e6),
    )
    experts = ExpertsSpec(experts_in(fields, 8), fields.whole("num_experts_per_tok", 2), gated(fields))
    return decoder(fields, norm, [attention] * count, [experts] * count, max_positions=131_072, harmless=TRAINING)


@family("OlmoeForCausalLM", model_type="olmoe", names=EXPERTS)
def olmoe(fields: Fields) -> ModelSpec:
    """OLMoE (2409.02060): norms over whole projections of queries and keys; weights of the top k as they are."""
    fields.only("clip_qkv")
    heads, kv_heads, head_dim = head_counts(fields)
    norm, count = NormSpec("rms", fields.real("rms_norm_eps", 1e-5)), layer_count(fields)
    bias = fields.flag("attention_bias", False)
    attention = AttentionSpec(
        heads,
        kv_heads,
        head_dim,
        rope=rope_from(fields, head_dim, 4096),
        qk_norm=QKNormSpec(norm, over="projection"),
        qkv_bias=bias,
        out_bias=bias,
    )
    experts = ExpertsSpec(
        experts_in(fields, 64),
        fields.whole("num_experts_per_tok", 8),
        gated(fields),
        renormalise=fields.flag("norm_topk_prob", False),
    )
    return decoder(fields, norm, [attention] * count, [experts] * count, max_positions=4096, harmless=TRAINING)


@family("Qwen3MoeForCausalLM", model_type="qwen3_moe", names=EXPERTS)
def qwen3_moe(fields: Fields) -> ModelSpec:
    """Qwen3-MoE (2505.09388): Qwen 3 with experts in every `decoder_sparse_step`-th layer but `mlp_only_layers`."""
    heads, kv_heads, head_dim = head_counts(fields, kv_heads=4)
    norm, count = NormSpec("rms", fields.real("rms_norm_eps", 1e-6)), layer_count(fields)
    bias, used = fields.flag("attention_bias", False), fields.flag("use_sliding_window", False)
    window = window_from(fields, 4096) if used else None
    fields.take("sliding_window")
    if window is None:
        fields.take("max_window_layers")
    else:  # Qwen 2 and 3 give the first layers none; transformers' Qwen3-MoE does not look
        fields.only("max_window_layers", 0)
    attention = AttentionSpec(
        heads,
        kv_heads,
        head_dim,
        window=window,
        rope=rope_from(fields, head_dim, 32_768),
        qk_norm=QKNormSpec(norm),
        qkv_bias=bias,
        out_bias=bias,
    )
    dense = gated(fields)
    experts = ExpertsSpec(
        experts_in(fields, 128),
        fields.whole("num_experts_per_tok", 8),
        FeedForwardSpec(fields.whole("moe_intermediate_size", 768), activation(fields, "silu")),
        renormalise=fields.flag("norm_topk_prob", False),
    )
    step, without = fields.whole("decoder_sparse_step", 1), fields.take("mlp_only_layers", [])
    if not isinstance(without, list) or not all(isinstance(i, int) and 0 <= i < count for i in without):
        raise fields.fault("mlp_only_layers", f"is {without!r}, not a list of layers from 0 to {count - 1}")
    feed_forwards = [dense if i in without or (i + 1) % step else experts for i in range(count)]
    return decoder(fields, norm, [attention] * count, feed_forwards, max_positions=32_768, harmless=TRAINING)


def experts_in(fields: Fields, default: int) -> int:
    """How many experts there are, under either of the two names that transformers writes."""
    local = fields.take("num_local_experts")
    if local is not None:
        fields.only("num_experts", local)
        return fields.whole("num_local_experts")
    return fields.whole("num_experts", default)
