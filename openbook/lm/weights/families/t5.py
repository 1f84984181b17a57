"""T5: pre-norm RMSNorm, no biases, logits of attention unscaled, a learned bias a distance shared by all layers."""

from __future__ import annotations

from openbook.lm.rules import rule
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormSpec, Seq2SeqSpec
from openbook.lm.weights.config import ACTIVATIONS, COMMON_HARMLESS, family, layer_count, words
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import NameTable
from openbook.lm.weights.recipes import Either, Value

HARMLESS = COMMON_HARMLESS | words("classifier_dropout dropout_rate initializer_factor")


def _side(side: str) -> dict[str, Value]:
    """The names of an encoder's or a decoder's parameters."""
    layer, block = f"{side}.layers.{{i}}", f"{side}.block.{{i}}.layer"
    last = 2 if side == "decoder" else 1
    names: dict[str, Value] = {
        f"{side}.biases.0": f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias",
        f"{layer}.attention_norm": f"{block}.0.layer_norm",
        f"{layer}.attention.query": f"{block}.0.SelfAttention.q",
        f"{layer}.key_value.key": f"{block}.0.SelfAttention.k",
        f"{layer}.key_value.value": f"{block}.0.SelfAttention.v",
        f"{layer}.attention.out": f"{block}.0.SelfAttention.o",
        f"{layer}.feed_forward_norm": f"{block}.{last}.layer_norm",
        f"{layer}.feed_forward.gate": f"{block}.{last}.DenseReluDense.wi_0",
        f"{layer}.feed_forward.up": Either(
            f"{block}.{last}.DenseReluDense.wi_1",
            f"{block}.{last}.DenseReluDense.wi",  # with a gate, and without
        ),
        f"{layer}.feed_forward.down": f"{block}.{last}.DenseReluDense.wo",
        f"{side}.norm": f"{side}.final_layer_norm",
    }
    if side == "decoder":
        names |= {
            f"{layer}.cross_norm": f"{block}.1.layer_norm",
            f"{layer}.cross.query": f"{block}.1.EncDecAttention.q",
            f"{layer}.cross_key_value.key": f"{block}.1.EncDecAttention.k",
            f"{layer}.cross_key_value.value": f"{block}.1.EncDecAttention.v",
            f"{layer}.cross.out": f"{block}.1.EncDecAttention.o",
        }
    return names


T5 = NameTable(
    {"encoder.embedding": "shared", "decoder.head": "lm_head", **_side("encoder"), **_side("decoder")},
    ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    again=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    renamed={
        "lm_head.weight": "shared.weight",  # 1.1 as transformers 5 writes it where the head is the embedding after all
        "shared.weight": "encoder.embed_tokens.weight",
    },
)


@family("T5ForConditionalGeneration", model_type="t5", names=T5)
def t5(fields: Fields) -> Seq2SeqSpec:
    """T5 (Raffel 2020, arXiv 1910.10683) and T5 1.1 (Flan-T5): gated, and with a head of its own.

    1.0 uses the embedding as its head and multiplies hidden states by M^−½ before it; `tie_word_embeddings` says
    which of the two it is, or `scale_decoder_outputs` in configs that transformers 5 wrote.
    """
    return _seq2seq(fields, fields.flag("scale_decoder_outputs", fields.flag("tie_word_embeddings", True)), "relu")


@family("MT5ForConditionalGeneration", model_type="mt5", names=T5)
def mt5(fields: Fields) -> Seq2SeqSpec:
    """mT5 (Xue 2020, arXiv 2010.11934): T5 1.1 in 101 languages, whatever the config says of a tied head."""
    fields.flag("tie_word_embeddings", True)
    return _seq2seq(fields, False, "gated-gelu")


def _seq2seq(fields: Fields, scaled: bool, proj: str) -> Seq2SeqSpec:
    """`scaled` says whether the head is the embedding after M^−½; `proj` is the feed-forward where none is said."""
    fields.only("is_encoder_decoder", True)
    fields.only("is_decoder", False)
    layers = layer_count(fields, "num_layers")
    fields.only("num_hidden_layers", layers)
    tall = layer_count(fields, "num_decoder_layers") if fields.take("num_decoder_layers") is not None else layers
    width, norm = fields.whole("d_model"), NormSpec("rms", fields.real("layer_norm_epsilon", 1e-6))
    feed_forward = _feed_forward(fields, proj)
    longest = fields.whole("n_positions", 512)  # what it was trained on; its distances have no end

    def stack(count: int, decodes: bool) -> ModelSpec:
        attention, cross = _attention(fields, causal=decodes)
        return ModelSpec(
            vocabulary=fields.whole("vocab_size"),
            width=width,
            layers=(LayerSpec(attention, feed_forward, norm, cross=cross if decodes else None),) * count,
            max_positions=longest,
            head=decodes,
            tied=scaled or not decodes,
            final_norm=norm,
            logit_scale=width**-0.5 if decodes and scaled else 1.0,
            memory_width=width if decodes else None,
        )

    spec = Seq2SeqSpec(
        stack(layers, decodes=False), stack(tall, decodes=True), fields.token("decoder_start_token_id", 0)
    )
    fields.finish(HARMLESS)
    return spec


def _attention(fields: Fields, causal: bool) -> tuple[AttentionSpec, AttentionSpec]:
    """A layer's attention and its cross-attention, which has no bias of distances."""
    heads, dim = fields.whole("num_heads"), fields.whole("d_kv")
    fields.only("num_attention_heads", heads)
    fields.only("head_dim", dim)
    distances = rule(
        "relative",
        buckets=fields.whole("relative_attention_num_buckets", 32),
        max_distance=fields.whole("relative_attention_max_distance", 128),
        both_ways=not causal,
    )
    return (
        AttentionSpec(heads, heads, dim, causal=causal, bias=distances, scale=1.0),
        AttentionSpec(heads, heads, dim, causal=False, scale=1.0),
    )


def _feed_forward(fields: Fields, default: str) -> FeedForwardSpec:
    """`feed_forward_proj` is an activation, or `gated-` and one; in `gated-gelu` GELU is the one by tanh."""
    value = fields.take("feed_forward_proj", default)
    gated = isinstance(value, str) and value.startswith("gated-")
    name = "gelu_new" if value == "gated-gelu" else value.removeprefix("gated-") if isinstance(value, str) else ""
    if name not in ACTIVATIONS:
        raise fields.fault("feed_forward_proj", f"is {value!r}; supported are {', '.join(ACTIVATIONS)}, gated- or not")
    fields.only("dense_act_fn", *(other for other, act in ACTIVATIONS.items() if act == ACTIVATIONS[name]))
    fields.only("is_gated_act", gated)
    return FeedForwardSpec(fields.whole("d_ff"), ACTIVATIONS[name], gated=gated)
