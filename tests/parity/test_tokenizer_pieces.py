"""WordPiece and unigram tokenizers from the metadata of GGUF, against transformers' own; and character maps."""

from __future__ import annotations

import base64
import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_texts import TEXT
from tokenizer_metadata import gemma_metadata
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from openbook.errors import Fault
from openbook.home import home
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.charsmap import check_charsmap

CORPUS = ["the cat sat on the mat 123 times", "don't stop; 中文 and naïve café", "The Cat X = y ** 2 fine"] * 20
MINILM = home() / "models/minilm/tokenizer.json"


def spelled(token: str) -> str:
    """A piece of WordPiece as GGUF spells it."""
    return token if token[:1] == "[" and token[-1:] == "]" else token[2:] if token[:2] == "##" else f"▁{token}"


def wordpiece_metadata(vocabulary: dict[str, int]) -> dict[str, Any]:
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    control = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [spelled(token) for token in tokens],
        "tokenizer.ggml.token_type": [3 if token in control else 1 for token in tokens],
        "tokenizer.ggml.unknown_token_id": vocabulary["[UNK]"],
        "tokenizer.ggml.cls_token_id": vocabulary["[CLS]"],
        "tokenizer.ggml.seperator_token_id": vocabulary["[SEP]"],
    }


@cache
def wordpiece(cased: bool) -> tuple[Tokenizer, Any]:
    from transformers import BertTokenizer

    backend = Backend(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    backend.train_from_iterator(CORPUS if cased else map(str.lower, CORPUS), trainer)
    vocabulary = backend.get_vocab()
    return Tokenizer.from_gguf(wordpiece_metadata(vocabulary)), BertTokenizer(vocab=vocabulary, do_lower_case=not cased)


@pytest.mark.parametrize("cased", [True, False])
@given(text=TEXT)
@settings(max_examples=100, deadline=None)
def test_wordpiece_as_transformers(cased: bool, text: str) -> None:
    ours, theirs = wordpiece(cased)
    assert ours.encode(text, special=True) == theirs(text).input_ids
    assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
    assert ours.decode(ours.encode(text)) == theirs.backend_tokenizer.decode(ours.encode(text))


def test_no_text_becomes_a_control_token_of_wordpiece() -> None:
    ours, _ = wordpiece(cased=True)
    assert {2, 3, 4}.isdisjoint(ours.encode("[CLS] the [SEP][MASK] cat"))
    with pytest.raises(Fault, match="no token begins with ▁"):
        Tokenizer.from_gguf({**wordpiece_metadata({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}), "x": 1})


@given(text=TEXT)
@settings(max_examples=100, deadline=None)
def test_a_berts_gguf_as_its_folder(text: str) -> None:
    ours, theirs = _minilm()
    assert ours.encode(text, special=True) == theirs.encode(text, special=True)


@cache
def _minilm() -> tuple[Tokenizer, Tokenizer]:
    if not MINILM.is_file():
        pytest.skip("needs: openbook models pull minilm")
    vocabulary = json.loads(MINILM.read_text())["model"]["vocab"]
    return Tokenizer.from_gguf(wordpiece_metadata(vocabulary)), Tokenizer.from_folder(MINILM.parent)


# Unigram, with a character map made here: SentencePiece's own format, a double array and the replacements.

MAPPED = {"ﬁ": "fi", "\t": " ", "\n": " ", "Ａ": "A", "\u3000": " ", "\u00a0": " ", "…": "...", "e\u0301": "é"}


def charsmap(mapped: dict[str, str]) -> bytes:
    """A double array in which every node has a block of 256 units to itself."""
    replacements, places = b"", {}
    for key, value in mapped.items():
        places[key.encode()] = len(replacements)
        replacements += value.encode() + b"\0"
    nodes = sorted({key[:n] for key in places for n in range(len(key) + 1)}, key=len)
    units = [0xFF] * (256 * (len(nodes) + 1))  # a label that no step has
    at = {b"": 0}
    for block, node in enumerate(nodes, 1):
        here = at[node]
        base = (block << 8) | (here & 255)
        units[here] = ((here ^ base) >> 8) << 10 | 512 | (256 if node in places else 0) | (node[-1] if node else 0)
        if node in places:
            units[base] = 1 << 31 | places[node]
        for child in nodes:
            if len(child) == len(node) + 1 and child.startswith(node):
                at[child] = base ^ child[-1]
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + replacements


@cache
def unigram_metadata() -> dict[str, Any]:
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    options: dict[str, Any] = {"special_tokens": special, "unk_token": special[2], "show_progress": False}
    trainer = trainers.UnigramTrainer(vocab_size=90, **options)
    backend.train_from_iterator(CORPUS, trainer)
    pieces = json.loads(backend.to_str())["model"]["vocab"]
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": [piece for piece, _ in pieces],
        "tokenizer.ggml.scores": [score for _, score in pieces],
        "tokenizer.ggml.token_type": [3, 3, 2] + [1] * (len(pieces) - 3),
        "tokenizer.ggml.precompiled_charsmap": list(charsmap(MAPPED)),
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    }


@cache
def unigram() -> tuple[Tokenizer, Any]:
    from transformers import T5Tokenizer

    metadata = unigram_metadata()
    pieces = list(zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"], strict=True))
    mapped: Any = charsmap(MAPPED)
    return Tokenizer.from_gguf(metadata), T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=mapped, extra_ids=0)


@given(text=st.lists(st.one_of(TEXT, st.sampled_from(list(MAPPED)))).map("".join))
@settings(max_examples=150, deadline=None)
def test_unigram_as_transformers(text: str) -> None:
    ours, theirs = unigram()
    text = "".join(c for c in text if c in " \t\n\u3000\u00a0" or not c.isspace())  # T5 cuts at all spaces
    assert ours.encode(text, special=True) == theirs(text).input_ids
    assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids


def test_unigram_reads_and_writes() -> None:
    ours, _ = unigram()
    ids = ours.encode("the  cat sat\n on ﬁne mat ")
    assert 2 not in ids and ours.decode(ids) == "the cat sat on fine mat"
    stream = ours.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == "the cat sat on fine mat"
    assert {0, 1}.isdisjoint(ours.encode("</s><pad><unk>")) and len(ours.encode("<unk>")) > 3
    assert ours.encode_template("the</s>")[-1] == 1 and ours.eos_ids == {1}
    kept = Tokenizer.from_gguf({**unigram_metadata(), "tokenizer.ggml.remove_extra_whitespaces": False})
    assert kept.decode(kept.encode("  the  cat ")) == "  the  cat "


def test_a_unigram_tokenizer_json_is_read_and_its_map_checked(tmp_path: Path) -> None:
    ours, _ = unigram()
    content = dict(ours._definition)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(content))
    assert Tokenizer.from_file(file).encode("the cat") == ours.encode("the cat")
    for bad in ("!", base64.b64encode(charsmap(MAPPED)[:99]).decode(), 7):
        step = {"type": "Precompiled", "precompiled_charsmap": bad}
        file.write_text(json.dumps({**content, "normalizer": {"type": "Sequence", "normalizers": [step]}}))
        with pytest.raises(Fault, match="character map"):
            Tokenizer.from_file(file)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_character_map_is_refused_or_harmless(data: st.DataObject) -> None:
    blob = bytearray(charsmap({"ﬁ": "fi", "é": "é"}))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(blob[: data.draw(st.sampled_from([len(blob), len(blob) - 1, 700]))])
    try:
        check_charsmap(cut, "x")
    except Fault:
        return
    metadata = {**unigram_metadata(), "tokenizer.ggml.precompiled_charsmap": list(cut)}
    Tokenizer.from_gguf(metadata).encode("ﬁ é e\u0301 the ab\x00\xff" + data.draw(TEXT))


ODD: list[Any] = [
    None,
    -1,
    1 << 40,
    1.5,
    float("nan"),
    "",
    "x",
    True,
    [],
    [1],
    ["a"],
    [None],
    {},
    ["▁"] * 3,
    [1e300] * 500,
]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "gemma"])
def test_anything_in_any_key_is_read_or_refused(kind: str) -> None:
    vocabulary = wordpiece(cased=True)[1].get_vocab()
    made = {"wordpiece": wordpiece_metadata(vocabulary), "unigram": unigram_metadata(), "gemma": gemma_metadata()}[kind]
    more = ["merges", "add_bos_token", "add_space_prefix", "remove_extra_whitespaces", "precompiled_charsmap"]
    for key in [*made, *(f"tokenizer.ggml.{name}" for name in more), "tokenizer.chat_template"]:
        for value in ODD:
            try:
                tokenizer = Tokenizer.from_gguf({**made, key: value})
                tokenizer.encode_chat([{"role": "user", "content": "the\x00 cat ﬁ"}])
                tokenizer.decode(tokenizer.encode("the\x00 cat ﬁ", special=True))
            except Fault as fault:
                assert "\n" not in str(fault)
