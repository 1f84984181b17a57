"""BERT, RoBERTa (and XLM-R), DistilBERT: bidirectional, post-norm, learned positions; and classifiers on them.

Poolers and heads of training are left out, except a classifier's: its two dense layers on the first token.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from openbook.lm.spec import AttentionSpec, ClassifierSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormSpec
from openbook.lm.weights.config import COMMON_HARMLESS, activation, divided, family, layer_count, words
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import NameTable

HARMLESS = COMMON_HARMLESS | words(
    """attention_probs_dropout_prob classifier_dropout directionality dropout hidden_dropout_prob pooler_fc_size
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type qa_dropout seq_classif_dropout
    sinusoidal_pos_embds tie_weights_ tie_word_embeddings"""
)
MOST_LABELS = 1 << 16

BERT = NameTable(
    {
        "embedding": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "layers.{i}.attention.query": "encoder.layer.{i}.attention.self.query",
        "layers.{i}.key_value.key": "encoder.layer.{i}.attention.self.key",
        "layers.{i}.key_value.value": "encoder.layer.{i}.attention.self.value",
        "layers.{i}.attention.out": "encoder.layer.{i}.attention.output.dense",
        "layers.{i}.attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
        "layers.{i}.feed_forward_norm": "encoder.layer.{i}.output.LayerNorm",
        "layers.{i}.feed_forward.up": "encoder.layer.{i}.intermediate.dense",
        "layers.{i}.feed_forward.down": "encoder.layer.{i}.output.dense",
        "pooler": "pooler.dense",
        "classifier": "classifier",
    },
    prefixes=("", "bert."),
    ignored=(r"(bert\.)?embeddings\.(position_ids|token_type_ids)", r"(bert\.)?pooler\..*", r"cls\..*"),
    # Checkpoints converted from TensorFlow.
    renamed={"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
)
ROBERTA = NameTable(
    BERT.modules | {"pooler": "classifier.dense", "classifier": "classifier.out_proj"},
    prefixes=("", "roberta."),
    ignored=(r"(roberta\.)?embeddings\.(position_ids|token_type_ids)", r"(roberta\.)?pooler\..*", r"lm_head\..*"),
)
DISTILBERT = NameTable(
    {name: theirs for name, theirs in BERT.modules.items() if name.startswith("embedding") or name == "positions"}
    | {
        "layers.{i}.attention.query": "transformer.layer.{i}.attention.q_lin",
        "layers.{i}.key_value.key": "transformer.layer.{i}.attention.k_lin",
        "layers.{i}.key_value.value": "transformer.layer.{i}.attention.v_lin",
        "layers.{i}.attention.out": "transformer.layer.{i}.attention.out_lin",
        "layers.{i}.attention_norm": "transformer.layer.{i}.sa_layer_norm",
        "layers.{i}.feed_forward_norm": "transformer.layer.{i}.output_layer_norm",
        "layers.{i}.feed_forward.up": "transformer.layer.{i}.ffn.lin1",
        "layers.{i}.feed_forward.down": "transformer.layer.{i}.ffn.lin2",
        "pooler": "pre_classifier",
        "classifier": "classifier",
    },
    prefixes=("", "distilbert."),
    ignored=(r"(distilbert\.)?embeddings\.position_ids", r"vocab_(transform|layer_norm|projector)\..*"),
)


@family(
    "BertModel",
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertForNextSentencePrediction",
    "BertForSequenceClassification",
    model_type="bert",
    names=BERT,
)
def bert(fields: Fields) -> ModelSpec:
    """BERT (Devlin 2019, arXiv 1810.04805); MiniLM and most text encoders."""
    return _bert(fields)


def _bert(fields: Fields) -> ModelSpec:
    fields.only("position_embedding_type", "absolute")
    fields.only("is_decoder", False)
    fields.only("embedding_size", fields.take("hidden_size"))
    spec = replace(
        _encoder(
            fields,
            width="hidden_size",
            heads="num_attention_heads",
            layers="num_hidden_layers",
            inner="intermediate_size",
            act="hidden_act",
            epsilon=fields.real("layer_norm_eps", 1e-12),
        ),
        token_types=fields.whole("type_vocab_size", 2),
        classifier=_classifier(fields, "tanh"),
    )
    fields.finish(HARMLESS)
    return spec


@family(
    "RobertaModel",
    "RobertaForMaskedLM",
    "RobertaForSequenceClassification",
    model_type="roberta",
    names=ROBERTA,
)
@family(
    "XLMRobertaModel",
    "XLMRobertaForMaskedLM",
    "XLMRobertaForSequenceClassification",
    model_type="xlm-roberta",
    names=ROBERTA,
)
def roberta(fields: Fields) -> ModelSpec:
    """RoBERTa (Liu 2019, arXiv 1907.11692) and XLM-R: BERT whose positions are counted from one past the padding id."""
    padding = fields.token("pad_token_id", 1)
    spec = _bert(fields)
    if spec.max_positions <= padding + 1:
        raise fields.fault("max_position_embeddings", f"is {spec.max_positions}, all of it before the first position")
    return replace(spec, max_positions=spec.max_positions - padding - 1, position_offset=padding + 1)


@family(
    "DistilBertModel",
    "DistilBertForMaskedLM",
    "DistilBertForSequenceClassification",
    model_type="distilbert",
    names=DISTILBERT,
)
def distilbert(fields: Fields) -> ModelSpec:
    """DistilBERT (Sanh 2019, arXiv 1910.01108): BERT of half the layers, without segments.

    `sinusoidal_pos_embds` says what the table of positions was at first; the table is stored all the same.
    """
    spec = replace(
        _encoder(
            fields, width="dim", heads="n_heads", layers="n_layers", inner="hidden_dim", act="activation", epsilon=1e-12
        ),
        classifier=_classifier(fields, "relu"),
    )
    fields.finish(HARMLESS)
    return spec


def _encoder(fields: Fields, *, width: str, heads: str, layers: str, inner: str, act: str, epsilon: float) -> ModelSpec:
    """What the three have in common; the strings are the names of their fields."""
    fields.only("is_encoder_decoder", False)
    size, count = fields.whole(width), fields.whole(heads)
    dim = divided(fields, size, count, heads)
    norm = NormSpec("layer", epsilon)
    attention = AttentionSpec(count, count, dim, causal=False, qkv_bias=True, out_bias=True)
    feed_forward = FeedForwardSpec(fields.whole(inner), activation(fields, "gelu", act), gated=False, bias=True)
    return ModelSpec(
        vocabulary=fields.whole("vocab_size"),
        width=size,
        layers=(LayerSpec(attention, feed_forward, norm, "post"),) * layer_count(fields, layers),
        max_positions=fields.whole("max_position_embeddings", 512),
        head=False,
        positions="learned",
        embedding_norm=norm,
        final_norm=None,
    )


def _classifier(fields: Fields, act: Literal["tanh", "relu"]) -> ClassifierSpec | None:
    """The classifier of a `…ForSequenceClassification`: `id2label` names its labels, else there are `num_labels`."""
    names = fields.take("architectures")
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(name, str) or not name.endswith("ForSequenceClassification"):
        return None
    labels = fields.take("id2label")
    if labels is None:
        labels = {str(i): f"LABEL_{i}" for i in range(min(MOST_LABELS + 1, fields.whole("num_labels", 2)))}
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise fields.fault("id2label", "is not an object from numbers to labels")
    if len(labels) > MOST_LABELS or not labels or set(labels) != {str(i) for i in range(len(labels))}:
        raise fields.fault("id2label", f"must number its labels from 0, at most {MOST_LABELS} of them")
    fields.only("num_labels", len(labels))
    fields.only("problem_type", "single_label_classification", "multi_label_classification")
    # One label alone would be certain by a softmax; it is a yes or no.
    multiple = fields.take("problem_type") == "multi_label_classification" or len(labels) == 1
    return ClassifierSpec(tuple(labels[str(i)] for i in range(len(labels))), act, multiple)
