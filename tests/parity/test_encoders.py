"""Encoders and classifiers against transformers, same random weights, fp32, batches padded on the right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import pair
from gguf_writer import write_gguf
from number_tokens import with_tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from openbook.errors import Fault
from openbook.lm.classifier import load_classifier
from openbook.lm.encoder import Encoder, load_encoder, pad
from openbook.lm.spec import ModelSpec
from openbook.lm.weights.config import spec_from_config

V = 40
TEXTS = [[2, 5, 9, 33, 7, 3], [2, 6, 3], [2, 39, 38, 37, 36, 35, 34, 33, 31, 3]]
SHAPE = {
    "vocab_size": V,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 36,
    "max_position_embeddings": 20,
}
DISTIL = {"vocab_size": V, "dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 36, "max_position_embeddings": 20}
ENCODERS: dict[str, tuple[Any, Any]] = {
    "bert": (BertModel, BertConfig(**SHAPE, type_vocab_size=2)),
    "bert, another activation": (BertModel, BertConfig(**SHAPE, hidden_act="gelu_new", layer_norm_eps=1e-5)),
    "bert with a head": (BertForMaskedLM, BertConfig(**SHAPE, hidden_act="relu")),
    "roberta": (RobertaModel, RobertaConfig(**SHAPE, type_vocab_size=1)),
    "roberta, another padding": (RobertaForMaskedLM, RobertaConfig(**SHAPE, pad_token_id=0)),
    "xlm-r": (XLMRobertaModel, XLMRobertaConfig(**SHAPE, type_vocab_size=1)),
    "distilbert": (DistilBertModel, DistilBertConfig(**DISTIL)),
    "distilbert, sinusoids stored": (DistilBertForMaskedLM, DistilBertConfig(**DISTIL, sinusoidal_pos_embds=True)),
}
LABELS = {"id2label": {0: "bad", 1: "so so", 2: "good"}, "label2id": {"bad": 0, "so so": 1, "good": 2}}
CLASSIFIERS: dict[str, tuple[Any, Any]] = {
    "bert": (BertForSequenceClassification, BertConfig(**SHAPE, **LABELS)),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**SHAPE, **LABELS)),
    "xlm-r": (XLMRobertaForSequenceClassification, XLMRobertaConfig(**SHAPE, **LABELS)),
    "distilbert": (DistilBertForSequenceClassification, DistilBertConfig(**DISTIL, **LABELS)),
}


def padded(oracle: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The texts as the oracle reads them: padding ids, and a mask."""
    tokens, positions = pad(TEXTS)
    mask = (positions >= 0).long()
    return tokens.masked_fill(mask == 0, oracle.config.pad_token_id or 0), mask


@torch.no_grad()
@pytest.mark.parametrize("case", ENCODERS)
def test_hidden_states_are_transformers(case: str, tmp_path: Path) -> None:
    oracle, checkpoint = pair(*ENCODERS[case], tmp_path)
    assert isinstance(checkpoint.spec, ModelSpec)
    encoder = Encoder(checkpoint.spec)
    encoder.load_state_dict(dict(checkpoint.state()))
    tokens, mask = padded(oracle)
    theirs = oracle.base_model(tokens, attention_mask=mask).last_hidden_state
    ours = encoder(*pad(TEXTS))
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(ours[row, : len(text)], theirs[row, : len(text)], rtol=0, atol=1e-4)
        alone = encoder(torch.tensor([text]))
        torch.testing.assert_close(ours[row, : len(text)], alone[0], rtol=0, atol=1e-5)


def spelled(text: list[int]) -> str:
    return " ".join(f"w{token}" for token in text[1:-1])


@torch.no_grad()
@pytest.mark.parametrize("case", CLASSIFIERS)
def test_classifiers_are_transformers(case: str, tmp_path: Path) -> None:
    oracle, _ = pair(*CLASSIFIERS[case], tmp_path)
    classifier = load_classifier(with_tokenizer(tmp_path, V), "cpu")
    tokens, mask = padded(oracle)
    theirs = oracle(tokens, attention_mask=mask).logits
    texts = [spelled(text) for text in TEXTS]
    assert classifier.labels == ("bad", "so so", "good")
    np.testing.assert_allclose(classifier.logits(texts), theirs.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(classifier.classify(texts), theirs.softmax(-1).numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        classifier.classify(texts), np.concatenate([classifier.classify([text]) for text in texts]), rtol=0, atol=1e-6
    )
    assert classifier.classify([]).shape == (0, 3)


def test_labels_that_hold_by_themselves(tmp_path: Path) -> None:
    config = BertConfig(**SHAPE, **LABELS, problem_type="multi_label_classification")
    pair(BertForSequenceClassification, config, tmp_path)
    classifier = load_classifier(with_tokenizer(tmp_path, V), "cpu")
    logits = classifier.logits(["w5 w6"])
    np.testing.assert_allclose(classifier.classify(["w5 w6"]), 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-6)


def test_a_text_longer_than_the_positions_is_cut(tmp_path: Path) -> None:
    pair(*CLASSIFIERS["roberta"], tmp_path)
    classifier = load_classifier(with_tokenizer(tmp_path, V), "cpu")
    assert classifier.max_tokens == 18  # 20 rows, two before the first position
    long = " ".join(["w5"] * 1000)
    np.testing.assert_array_equal(classifier.logits([long]), classifier.logits([long + " w6"]))


def test_a_classifier_is_no_encoder_and_an_encoder_no_classifier(tmp_path: Path) -> None:
    pair(*CLASSIFIERS["bert"], tmp_path / "classifier")
    pair(*ENCODERS["bert"], tmp_path / "encoder")
    with pytest.raises(Fault, match="load_classifier"):
        load_encoder(with_tokenizer(tmp_path / "classifier", V), "cpu")
    with pytest.raises(Fault, match="load_encoder opens it"):
        load_classifier(with_tokenizer(tmp_path / "encoder", V), "cpu")


def test_an_encoder_from_gguf_is_that_from_a_folder(tmp_path: Path) -> None:
    kind, shape = ENCODERS["bert"]
    oracle, _ = pair(kind, shape, tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{chr(97 + i % 26)}{i // 26}" for i in range(4, V))]
    metadata = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [word if word[0] == "[" else f"▁{word}" for word in words],
        "tokenizer.ggml.token_type": [3, 2, 3, 3] + [1] * (V - 4),
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
    }
    file = write_gguf(oracle, "bert", tmp_path / "m.gguf", tokenizer=metadata, **{"attention.causal": False})
    encoder = load_encoder(file, "cpu", backend="torch")
    texts = ["we0 wm1 wh0", "wz0", "unknown we0"]
    ids = [[2, 4, words.index("wm1"), words.index("wh0"), 3], [2, words.index("wz0"), 3], [2, 1, 4, 3]]
    tokens, positions = pad(ids)
    mask = (positions >= 0).long()
    with torch.no_grad():
        hidden = oracle(tokens, attention_mask=mask).last_hidden_state * mask[..., None]
    mean = torch.nn.functional.normalize(hidden.sum(1) / mask.sum(1, keepdim=True), dim=-1)
    np.testing.assert_allclose(encoder.embed(texts), mean.numpy(), rtol=0, atol=1e-4)


def config(kind: Any, **changes: Any) -> dict[str, Any]:
    """What a model's config.json says."""
    model, built = CLASSIFIERS[kind]
    return json.loads(json.dumps({**built.to_diff_dict(), "architectures": [model.__name__], **changes}))  # type: ignore[no-any-return]


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "position_embedding_type": ("bert", {"position_embedding_type": "relative_key"}),
    "is_decoder": ("bert", {"is_decoder": True}),
    "is_encoder_decoder": ("distilbert", {"is_encoder_decoder": True}),
    "problem_type": ("bert", {"problem_type": "regression"}),
    "id2label": ("bert", {"id2label": {"0": "a", "2": "b"}}),
    "num_labels": ("roberta", {"num_labels": 7}),
    "n_heads": ("distilbert", {"n_heads": 5}),
    "pad_token_id": ("roberta", {"pad_token_id": -1}),
    "max_position_embeddings": ("roberta", {"max_position_embeddings": 2}),
    "hidden_act": ("roberta", {"hidden_act": "mish"}),
    "ffn_bias": ("distilbert", {"ffn_bias": False}),
    "add_cross_attention": ("bert", {"add_cross_attention": True}),
    "embedding_size": ("bert", {"embedding_size": 12}),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_changes_the_arithmetic_is_refused_by_name(field: str) -> None:
    kind, changes = REFUSED[field]
    with pytest.raises(Fault, match=field):
        spec_from_config(config(kind, **changes))


def test_labels_without_names_are_numbered() -> None:
    spec = spec_from_config(config("bert", id2label=None, label2id=None, num_labels=4))
    assert isinstance(spec, ModelSpec) and spec.classifier is not None
    assert spec.classifier.labels == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")
