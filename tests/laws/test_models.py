"""Whole model folders whose parts do not fit: one line that names the file, before anything is answered with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Pieces
from tokenizers.models import BPE, WordPiece
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from openbook.errors import Fault
from openbook.lm.encoder import TextEncoder, load_encoder
from openbook.lm.model import LanguageModel, load_model

SIZES: dict[str, Any] = {
    "vocab_size": 8, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 32,
}  # fmt: skip


def loaded_encoder(folder: Path, tokens: int = 8) -> TextEncoder:
    """A BERT with eight rows, and a tokenizer of so many tokens."""
    BertModel(BertConfig(architectures=["BertModel"], **SIZES)).save_pretrained(folder)
    vocabulary = {name: i for i, name in enumerate(["[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(tokens - 3))])}
    pieces = Pieces(WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    pieces.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    if not (folder / "tokenizer.json").exists():
        pieces.save(str(folder / "tokenizer.json"))
    return load_encoder(folder, device="cpu")


def loaded_model(folder: Path, tokens: int) -> LanguageModel:
    config = LlamaConfig(architectures=["LlamaForCausalLM"], num_key_value_heads=2, **SIZES)
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    Pieces(BPE({chr(97 + i): i for i in range(tokens)}, [])).save(str(folder / "tokenizer.json"))
    return load_model(folder, precision="fp32", device="cpu")


def test_a_tokenizer_with_more_tokens_than_weights_is_refused(tmp_path: Path) -> None:
    assert loaded_model(tmp_path, 8).tokenizer.vocabulary == 8
    with pytest.raises(Fault, match="tokenizer has 9 tokens, its weights have 8"):
        loaded_model(tmp_path, 9)


def test_an_encoder_loads_and_one_with_too_many_word_pieces_does_not(tmp_path: Path) -> None:
    assert loaded_encoder(tmp_path).embed(["w1 w2", ""]).shape == (2, 16)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(Fault, match="has 9 tokens, the weights beside it have 8"):
        loaded_encoder(tmp_path, 9)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {"type": "WordPiece", "vocab": {"a": 0}}}', "\x00"])
def test_a_bad_tokenizer_of_an_encoder_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(Fault, match=r"tokenizer\.json"):
        loaded_encoder(tmp_path)


@pytest.mark.parametrize("length", ["0", "33", "-1", "1e9", '"x"', "true", "[]", "1.5"])
def test_a_bad_length_of_an_encoder_is_named(tmp_path: Path, length: str) -> None:
    (tmp_path / "sentence_bert_config.json").write_text(f'{{"max_seq_length": {length}}}')
    with pytest.raises(Fault, match=r"sentence_bert_config\.json: max_seq_length is .* from 1 to 32"):
        loaded_encoder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_bad_configuration_of_an_encoder_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "sentence_bert_config.json").write_text(text)
    with pytest.raises(Fault, match=r"sentence_bert_config\.json"):
        loaded_encoder(tmp_path)


@pytest.mark.parametrize("length", [1, 2, 3, 32])
def test_a_short_length_is_kept(tmp_path: Path, length: int) -> None:
    (tmp_path / "sentence_bert_config.json").write_text(f'{{"max_seq_length": {length}}}')
    assert loaded_encoder(tmp_path).embed(["w1 w2 w3 w4", ""]).shape == (2, 16)
