"""Phi-3 and 4-mini: Llama with fused projections, a part of each head turned, LongRoPE."""

from __future__ import annotations

from dataclasses import replace

from openbook.lm.spec import AttentionSpec, ModelSpec, NormSpec
from openbook.lm.weights.config import decoder, family, head_counts, layer_count, words
from openbook.lm.weights.families.llama import gated, window_from
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import LLAMA
from openbook.lm.weights.recipes import GATE_UP, QKV, Rows, fused
from openbook.lm.weights.ropes import rope_from

PHI3 = replace(
    LLAMA,
    modules=LLAMA.modules
    | fused(Rows("layers.{i}.self_attn.qkv_proj", QKV), QKV)
    | fused(Rows("layers.{i}.mlp.gate_up_proj", GATE_UP), GATE_UP),
)

# Dropout is of training; auto_map names the code that was shipped before transformers had its own.
HARMLESS = words("resid_pdrop embd_pdrop auto_map")


@family("Phi3ForCausalLM", model_type="phi3", names=PHI3)
def phi3(fields: Fields) -> ModelSpec:
    """Phi-3 (2404.14219); "su" and "yarn" are its early names of longrope."""
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        fields.only(name, False)
    for name in ("full_attn_mod", "interpolate_factor"):  # in the config of Phi-4-mini, and in no code
        fields.only(name, 1)
    heads, kv_heads, head_dim = head_counts(fields)
    norm, count = NormSpec("rms", fields.real("rms_norm_eps", 1e-5)), layer_count(fields)
    renamed = {"su": "longrope", "yarn": "longrope"}
    attention = AttentionSpec(
        heads,
        kv_heads,
        head_dim,
        window=window_from(fields, None),
        rope=rope_from(fields, head_dim, 4096, original=4096, partial=True, renamed=renamed),
    )
    fields.take("original_max_position_embeddings")  # of longrope, which has read it; without a scaling it says nothing
    return decoder(fields, norm, [attention] * count, [gated(fields)] * count, max_positions=4096, harmless=HARMLESS)
