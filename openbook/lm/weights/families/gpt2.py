"""GPT-2 (Radford 2019): learned positions, LayerNorm before each block, biases everywhere."""

from __future__ import annotations

from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormSpec
from openbook.lm.weights.config import COMMON_HARMLESS, activation, divided, family, layer_count, words
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import NameTable
from openbook.lm.weights.recipes import QKV, Rows, Transposed, fused

GPT2 = NameTable(
    {
        "embedding": "wte",
        "positions": "wpe",
        **fused(Transposed(Rows("h.{i}.attn.c_attn", QKV)), QKV),
        "layers.{i}.attention.out": Transposed("h.{i}.attn.c_proj"),
        "layers.{i}.attention_norm": "h.{i}.ln_1",
        "layers.{i}.feed_forward_norm": "h.{i}.ln_2",
        "layers.{i}.feed_forward.up": Transposed("h.{i}.mlp.c_fc"),
        "layers.{i}.feed_forward.down": Transposed("h.{i}.mlp.c_proj"),
        "norm": "ln_f",
        "head": "lm_head",
    },
    prefixes=("transformer.", ""),
    # Masks that early checkpoints stored.
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",),
)

# Dropout is of training; the summary, and special tokens to predict, are of the head of another model;
# reorder_and_upcast_attn multiplies by the scale before q·k and takes the softmax in fp32: that changes rounding alone.
HARMLESS = words(
    """attn_pdrop embd_pdrop predict_special_tokens reorder_and_upcast_attn resid_pdrop summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj"""
)


@family("GPT2LMHeadModel", model_type="gpt2", names=GPT2)
def gpt2(fields: Fields) -> ModelSpec:
    """GPT-2 and what has its shape: DistilGPT-2, Cerebras-GPT, Mistral's GPT-2s with scales that fall by layer."""
    fields.only("is_encoder_decoder", False)
    width, heads = fields.whole("n_embd"), fields.whole("n_head")
    head_dim = divided(fields, width, heads, "n_head")
    norm = NormSpec("layer", fields.real("layer_norm_epsilon", 1e-5))
    scaled, by_layer = fields.flag("scale_attn_weights", True), fields.flag("scale_attn_by_inverse_layer_idx", False)
    feed_forward = FeedForwardSpec(
        fields.whole("n_inner", 4 * width),
        activation(fields, "gelu_new", "activation_function"),
        gated=False,
        bias=True,
    )

    def layer(index: int) -> LayerSpec:
        scale = (head_dim**-0.5 if scaled else 1.0) / (index + 1 if by_layer else 1)
        attention = AttentionSpec(heads, heads, head_dim, scale=scale, qkv_bias=True, out_bias=True)
        return LayerSpec(attention, feed_forward, norm)

    positions = fields.whole("n_positions", 1024)
    fields.only("n_ctx", positions)
    fields.only("n_special", 0)  # tokens past the vocabulary, in the first GPT
    spec = ModelSpec(
        vocabulary=fields.whole("vocab_size"),
        width=width,
        layers=tuple(layer(index) for index in range(layer_count(fields, "n_layer"))),
        max_positions=positions,
        positions="learned",
        tied=fields.flag("tie_word_embeddings", True),
        final_norm=norm,
    )
    fields.finish(COMMON_HARMLESS | HARMLESS)
    return spec
