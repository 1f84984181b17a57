"""BERT's encoder (1810.04805): post-norm LayerNorm, learned positions, segments."""

from __future__ import annotations

from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormSpec
from openbook.lm.weights.config import COMMON_HARMLESS, activation, divided, family, layer_count, words
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import BERT

HARMLESS = words(
    """attention_probs_dropout_prob classifier_dropout hidden_dropout_prob pooler_fc_size
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type tie_word_embeddings
    directionality"""
)


@family(
    "BertModel",
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertForNextSentencePrediction",
    model_type="bert",
    names=BERT,
)
def bert(fields: Fields) -> ModelSpec:
    """The encoder alone; pooler and heads are left out."""
    fields.only("is_encoder_decoder", False)
    fields.only("position_embedding_type", "absolute")
    fields.only("is_decoder", False)
    fields.only("embedding_size", fields.take("hidden_size"))
    width, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    head_dim = divided(fields, width, heads)
    norm = NormSpec("layer", fields.real("layer_norm_eps", 1e-12))
    attention = AttentionSpec(heads, heads, head_dim, causal=False, qkv_bias=True, out_bias=True)
    feed_forward = FeedForwardSpec(
        fields.whole("intermediate_size"), activation(fields, "gelu"), gated=False, bias=True
    )
    spec = ModelSpec(
        vocabulary=fields.whole("vocab_size"),
        width=width,
        layers=(LayerSpec(attention, feed_forward, norm, "post"),) * layer_count(fields),
        max_positions=fields.whole("max_position_embeddings", 512),
        head=False,
        positions="learned",
        token_types=fields.whole("type_vocab_size", 2),
        embedding_norm=norm,
        final_norm=None,
    )
    fields.finish(COMMON_HARMLESS | HARMLESS)
    return spec
