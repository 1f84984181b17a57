"""Tokenizers from the metadata of GGUF: every kind and every cut, on vocabularies made here."""

from __future__ import annotations

import json
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from token_texts import TEXT
from tokenizer_metadata import byte_level_metadata, phi3_metadata, write_metadata
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

from openbook.errors import Fault
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.gguf import GGUFFile
from openbook.lm.weights.tokenizer_cuts import CUTS, OF_ARCHITECTURE


@pytest.mark.parametrize("pre", sorted(CUTS))
@given(text=TEXT)
@settings(max_examples=25, deadline=None)
def test_every_cut_gives_the_text_back(pre: str, text: str) -> None:
    tokenizer = _made(pre)
    whole = text + "<|eot_id|> <|bos|>"
    ids = tokenizer.encode(whole)
    assert tokenizer.control_ids.isdisjoint(ids)
    if CUTS[pre]().normalizer is None:  # NFC does not give the text back
        assert tokenizer.decode(ids) == whole
    think = tokenizer.vocabulary - 1
    assert tokenizer.encode("a<think>b").count(think) == 1  # an added token that controls nothing stays one


_MADE: dict[str, Tokenizer] = {}


def _made(pre: str) -> Tokenizer:
    if pre not in _MADE:
        _MADE[pre] = Tokenizer.from_gguf(byte_level_metadata(pre))
    return _MADE[pre]


@pytest.mark.parametrize("pre", ["llama-bpe", "dbrx", "tekken", "gpt-4o", "qwen2", "qwen35"])
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_cuts_are_those_of_transformers(pre: str, text: str) -> None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    ours = CUTS[pre]().steps[0]["pattern"]["Regex"]
    theirs = GGUF_PRE_TOKENIZER_SPLITS[pre]
    from tokenizers import Regex

    left, right = (pre_tokenizers.Split(Regex(regex), "isolated") for regex in (ours, theirs))
    assert left.pre_tokenize_str(text) == right.pre_tokenize_str(text)


def test_a_control_token_that_is_a_whole_word_cannot_be_spelled() -> None:
    # llama-bpe takes a word that is in the vocabulary without merging: the case in which a control token made of
    # letters alone would be reached by plain text.
    metadata = byte_level_metadata("llama-bpe")
    metadata["tokenizer.ggml.tokens"][-3] = "STOP"
    tokenizer = Tokenizer.from_gguf(metadata)
    stop = tokenizer.bos_id
    assert tokenizer.encode_template("STOP") == [stop]
    assert stop not in tokenizer.encode("STOP") and tokenizer.decode(tokenizer.encode("STOP")) == "STOP"


def test_bos_comes_only_when_asked_for() -> None:
    for pre, own in (("llama-bpe", True), ("smollm", False)):
        for stated in (None, True, False):
            metadata = byte_level_metadata(pre)
            if stated is not None:
                metadata["tokenizer.ggml.add_bos_token"] = stated
            tokenizer = Tokenizer.from_gguf(metadata)
            plain = tokenizer.encode("the cat")
            wanted = [tokenizer.bos_id] if (own if stated is None else stated) else []
            assert tokenizer.encode("the cat", special=True) == [*wanted, *plain]
            assert tokenizer.bos_id not in plain and tokenizer.encode_template("the cat") == plain


def test_files_older_than_the_key_are_cut_as_their_family_is() -> None:
    text = "It's 1234 + 5²!"
    for architecture, pre in OF_ARCHITECTURE.items():
        for silent in ("default", None):
            metadata = {**byte_level_metadata(pre), "general.architecture": architecture, "tokenizer.ggml.pre": silent}
            assert Tokenizer.from_gguf(metadata).encode(text) == _made(pre).encode(text)


def test_falcon_parts_digits_by_threes_and_punctuation() -> None:
    model = {"type": "BPE", "vocab": {}, "merges": []}
    cut = {"type": "Sequence", "pretokenizers": CUTS["falcon"]().steps}
    backend = Backend.from_str(json.dumps({"version": "1.0", "pre_tokenizer": cut, "model": model}))
    pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("ab 12345, it's $5!?")]
    assert pieces == ["ab", "Ġ", "123", "45", ",", "Ġit", "'", "s", "Ġ", "$", "5", "!?"]


def test_marks_of_turns_are_control_whatever_the_file_says() -> None:
    metadata = byte_level_metadata("smollm")
    size = len(metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"] += ["<start_of_turn>", "<|user|>", "[INST]", "<table>"]
    metadata["tokenizer.ggml.token_type"] += [4, 1, 4, 4]
    tokenizer = Tokenizer.from_gguf(metadata)
    ids = set(range(size, size + 3))
    assert ids <= tokenizer.control_ids and size + 3 not in tokenizer.control_ids
    assert ids.isdisjoint(tokenizer.encode("<start_of_turn><|user|>[INST]"))
    assert tokenizer.encode_template("<start_of_turn><|user|>[INST]<table>") == [*sorted(ids), size + 3]


def test_what_is_not_supported_is_refused_by_name(tmp_path: Path) -> None:
    good = byte_level_metadata("smollm")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"tokenizer.ggml.pre": "mystery"}, "'mystery' is not supported; .*smollm"),
        ({"tokenizer.ggml.pre": "default"}, "does not say how text is cut"),
        ({"tokenizer.ggml.pre": None, "general.architecture": "llama"}, "does not say how text is cut"),
        ({"tokenizer.ggml.model": "rwkv"}, "'rwkv' is not supported; gpt2, llama, bert, t5 are"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens is missing"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "'a b c'"),
        ({"tokenizer.ggml.merges": ["qq zz"]}, "'qq zz'"),
    ]
    for change, said in cases:
        with pytest.raises(Fault, match=said):
            Tokenizer.from_gguf({**good, **change})
    for content in (
        {},
        {"model": {"type": "WordLevel", "vocab": {}}},
        {"model": {"type": "Unigram", "vocab": {}}},
        {"model": {"type": "Unigram", "vocab": [["a", "b"]]}},
        {"model": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 1}},
        {"model": {"vocab": {"a": "b"}}},
        {"model": {"vocab": {}}, "added_tokens": [1]},
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(Fault, match=r"tokenizer\.json"):
            Tokenizer.from_file(tmp_path / "tokenizer.json")


@cache
def _pair(architecture: str, pre: str | None) -> tuple[Tokenizer, Any]:
    from tempfile import TemporaryDirectory

    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

    metadata = byte_level_metadata(pre) if pre else phi3_metadata()
    metadata["general.architecture"] = architecture
    with TemporaryDirectory() as folder:
        path = write_metadata(metadata, Path(folder) / "t.gguf")
        found, described, _ = get_gguf_tokenizer(str(path))
        backend, _ = convert_gguf_tokenizer(found, described)
        ours = Tokenizer.from_gguf(GGUFFile.open(path).metadata)
    fast: Any = PreTrainedTokenizerFast
    return ours, fast(tokenizer_object=backend)


IN_FILES = [
    ("gpt2", "gpt-2"), ("llama", "llama-bpe"), ("llama", "tekken"), ("qwen2", "qwen2"), ("phi3", "gpt-4o"),
    ("phi3", None),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "pre"), IN_FILES)
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_files_as_transformers_reads_them(architecture: str, pre: str | None, text: str) -> None:
    ours, theirs = _pair(architecture, pre)
    if CUTS[pre or "gpt-2"]().normalizer:
        text = unicodedata.normalize("NFC", text)  # which transformers leaves out
    assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
