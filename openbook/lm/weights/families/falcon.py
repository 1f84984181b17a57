"""Falcon (2311.16867): 7B, 40B and 180B with parallel blocks, RW with ALiBi."""

from __future__ import annotations

from openbook.lm.rules import rule
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, ModelSpec, NormSpec, Place
from openbook.lm.weights.config import activation, decoder, divided, family, layer_count, words
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import NameTable
from openbook.lm.weights.recipes import QKV, ByPlace, Grouped, fused
from openbook.lm.weights.ropes import rope_from

FALCON = NameTable(
    {
        "embedding": "word_embeddings",
        **fused(Grouped("h.{i}.self_attention.query_key_value"), QKV),
        "layers.{i}.attention.out": "h.{i}.self_attention.dense",
        "layers.{i}.attention_norm": ByPlace("h.{i}.ln_attn", "h.{i}.input_layernorm"),
        "layers.{i}.feed_forward_norm": ByPlace("h.{i}.ln_mlp", "h.{i}.post_attention_layernorm"),
        "layers.{i}.feed_forward.up": "h.{i}.mlp.dense_h_to_4h",
        "layers.{i}.feed_forward.down": "h.{i}.mlp.dense_4h_to_h",
        "norm": "ln_f",
        "head": "lm_head",
    },
    prefixes=("transformer.", ""),
    ignored=(r"(transformer\.)?(h\.\d+\.self_attention\.)?(maybe_)?rotary(_emb)?\.inv_freq",),
)

# Dropout is of training; auto_map names the code that was shipped before transformers had its own, which is also
# where the residual after the norm was a choice: every released model says false, and is asked to.
HARMLESS = words("hidden_dropout auto_map")


@family("FalconForCausalLM", model_type="falcon", names=FALCON)
def falcon(fields: Fields) -> ModelSpec:
    """MQA with one norm (7B), groups with two (40B), or plain heads one after the other (RW)."""
    fields.only("apply_residual_connection_post_layernorm", False)
    width, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    head_dim, grouped = divided(fields, width, heads), fields.flag("new_decoder_architecture", False)
    norm, bias = NormSpec("layer", fields.real("layer_norm_epsilon", 1e-5)), fields.flag("bias", False)
    alibi = fields.flag("alibi", False)
    rope = rope_from(fields, head_dim, 2048)
    attention = AttentionSpec(
        heads,
        _kv_heads(fields, heads, grouped),
        head_dim,
        rope=None if alibi else rope,
        # Added to q·k before both are divided by √D, so its slopes are too.
        bias=rule("alibi", scale=head_dim**-0.5) if alibi else None,
        qkv_bias=bias,
        out_bias=bias,
    )
    inner = fields.whole("ffn_hidden_size", 4 * width)
    fields.only("ff_factor", inner / width)  # Falcon 2's other way to say it
    feed_forward = FeedForwardSpec(inner, activation(fields, "gelu", "activation"), gated=False, bias=bias)
    count = layer_count(fields)
    return decoder(
        fields,
        norm,
        [attention] * count,
        [feed_forward] * count,
        place=_place(fields, grouped),
        max_positions=2048,
        tied=True,
        harmless=HARMLESS,
    )


def _kv_heads(fields: Fields, heads: int, grouped: bool) -> int:
    """`num_kv_heads` counts where the architecture is the new one; before, there was one, or one a query head."""
    multi_query = fields.flag("multi_query", True)
    if grouped:
        return fields.whole("num_kv_heads", heads)
    if multi_query:
        fields.take("num_kv_heads")  # filled in as the number of query heads, and not used
        return 1
    fields.only("num_kv_heads", heads)
    return heads


def _place(fields: Fields, grouped: bool) -> Place:
    parallel, norms = fields.flag("parallel_attn", True), fields.take("num_ln_in_parallel_attn")
    if grouped:
        if not parallel:
            raise fields.fault("parallel_attn", "is False, which new_decoder_architecture does not know")
        fields.only("num_ln_in_parallel_attn", 1, 2)
        return "parallel_one_norm" if norms == 1 else "parallel"
    fields.only("num_ln_in_parallel_attn", 1)
    return "parallel_one_norm" if parallel else "pre"
