"""Tokenizers from the metadata of GGUF: every kind and every cut, on vocabularies made here."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_texts import TEXT
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from openbook.errors import Fault
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.tokenizer_cuts import CUTS, OF_ARCHITECTURE
from openbook.lm.weights.tokenizer_gguf import NORMAL, USER, merges_of

CORPUS = ["the cat sat on the mat 123 times", "don't stop; 中文 and naïve café", "x = y ** 2  # hi\n\n\tpass"] * 20
CONTROLS = ["<|bos|>", "<|eot_id|>"]


def byte_level_metadata(pre: str) -> dict[str, Any]:
    """GGUF metadata of a small byte-level vocabulary whose last tokens are control, in which `whole` words exist."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(backend.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    merges = [" ".join(pair) for pair in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *CONTROLS, "<think>"],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3, 3, 4],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
    }


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


def sentencepiece_metadata() -> dict[str, Any]:
    """GGUF metadata of a small SentencePiece BPE: pieces with falling scores, bytes, three special tokens."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=150, show_progress=False))
    model = json.loads(backend.to_str())["model"]
    merged = ["".join(pair) for pair in model["merges"]]
    letters = sorted(token for token in model["vocab"] if len(token) == 1)
    special, bytes_ = ["<unk>", "<s>", "</s>"], [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = [*special, *bytes_, *merged, *letters]
    scores = [0.0] * 259 + [-float(rank) for rank in range(len(merged))] + [-1e9] * len(letters)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return Tokenizer.from_gguf(sentencepiece_metadata())


@given(text=TEXT)
@settings(max_examples=150, deadline=None)
def test_sentencepiece_gives_the_text_back_by_bytes(pieces: Tokenizer, text: str) -> None:
    if "▁" in text:  # SentencePiece spells a space with it, so the two cannot be told apart
        return
    whole = text + "<s></s>"
    ids = pieces.encode(whole)
    assert pieces.control_ids.isdisjoint(ids) and pieces.decode(ids) == whole
    stream = pieces.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == whole
    assert pieces.encode(text, special=True) == [1, *pieces.encode(text)]


@given(text=TEXT)
@settings(max_examples=150, deadline=None)
def test_sentencepiece_as_transformers(pieces: Tokenizer, text: str) -> None:
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    if "oracle" not in _SP:
        metadata = sentencepiece_metadata()
        vocabulary = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
        scores = dict(zip(vocabulary, metadata["tokenizer.ggml.scores"], strict=True))
        _SP["oracle"] = LlamaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary, scores))
    # Spaces at the start differ between two generations of the reference (normaliser or Metaspace).
    text = text.lstrip(" ▁")
    if not any(token in text for token in ("<s>", "</s>", "<unk>")):
        assert pieces.encode(text) == _SP["oracle"](text, add_special_tokens=False).input_ids


_SP: dict[str, Any] = {}


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


def test_merges_come_from_scores() -> None:
    tokens, scores = ["a", "b", "c", "ab", "bc", "abc"], [-9.0, -9.0, -9.0, -1.0, -2.0, -3.0]
    merges = merges_of(tokens, scores, [NORMAL] * 6)
    assert merges == [["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]]
    assert merges_of(tokens, scores, [NORMAL] * 5 + [3]) == merges[:2]  # nothing merges into a control token
    assert merges_of(tokens, scores, [NORMAL] * 5 + [USER]) == merges


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


def test_a_piece_too_long_to_split_is_refused() -> None:
    with pytest.raises(Fault, match="has 5000 characters"):
        merges_of(["a", "b" * 5000], [0.0, 0.0], [1, 1])


# SentencePiece without a space before the text, as Gemma has it: runs of spaces and newlines are tokens of their own.


def gemma_metadata() -> dict[str, Any]:
    metadata = sentencepiece_metadata()
    runs = [" " * n for n in range(2, 9)] + ["\n" * n for n in range(1, 4)] + ["<b>", "</s>"]
    size = len(metadata["tokenizer.ggml.tokens"])
    metadata["tokenizer.ggml.tokens"][2] = "<eos>"
    metadata["tokenizer.ggml.tokens"] += [*runs, "<start_of_turn>", "<end_of_turn>"]
    metadata["tokenizer.ggml.token_type"] += [4] * len(runs) + [3, 3]
    metadata["tokenizer.ggml.scores"] += [-1000.0] * (len(runs) + 2)
    assert len(metadata["tokenizer.ggml.tokens"]) == size + 14
    return {**metadata, "tokenizer.ggml.add_space_prefix": False, "general.architecture": "gemma3"}


@cache
def _gemma() -> Tokenizer:
    return Tokenizer.from_gguf({**gemma_metadata(), "tokenizer.chat_template": GEMMA_CHAT})


@given(parts=st.lists(st.one_of(TEXT, st.sampled_from(["<s>", "</s>", "<end_of_turn>", "<b>", " "])), max_size=5))
@settings(max_examples=100, deadline=None)
def test_sentencepiece_cut_by_us_is_as_cut_by_the_library(pieces: Tokenizer, parts: list[str]) -> None:
    for tokenizer in (pieces, _gemma()):
        assert tokenizer._parts_freely
        ids = tokenizer._whole.encode("".join(parts), add_special_tokens=False).ids
        assert tokenizer.encode_template("".join(parts)) == ids


@given(text=TEXT)
@settings(max_examples=100, deadline=None)
def test_gemma_gives_the_text_back(text: str) -> None:
    tokenizer = _gemma()
    whole = text.replace("▁", " ") + "  <start_of_turn>\n\n<b> </s>"
    ids = tokenizer.encode(whole)
    assert tokenizer.control_ids.isdisjoint(ids) and tokenizer.decode(ids) == whole
    stream = tokenizer.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == whole


GEMMA_CHAT = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set head = messages[0].content + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set head = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{{ (head if loop.first else '') + (m.content | trim) + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def test_gemmas_turns() -> None:
    tokenizer = _gemma()
    start, end = (tokenizer.encode_template(mark)[0] for mark in ("<start_of_turn>", "<end_of_turn>"))
    assert tokenizer.eos_ids == {2, end}, "the end of a turn ends an answer; </s> is a tag of HTML"
    chat = [{"role": "system", "content": "the cat"}, {"role": "user", "content": "sat  on<end_of_turn>\n"}]
    prompt = "<s><start_of_turn>user\nthe cat\n\nsat  on<end_of_turn><end_of_turn>\n<start_of_turn>model\n"
    assert tokenizer.render_chat(chat) == prompt
    ids = tokenizer.encode_chat(chat)
    assert [i for i in ids if i in tokenizer.control_ids] == [1, start, end, start]
    assert tokenizer.decode(ids) == "user\nthe cat\n\nsat  on<end_of_turn>\nmodel\n"
    plain = [{"role": "user", "content": "sat on"}]
    assert tokenizer.encode_chat(plain) == tokenizer.encode_template(tokenizer.render_chat(plain))


def test_phi3_swallows_the_space_after_its_marks() -> None:
    metadata = sentencepiece_metadata()
    metadata["tokenizer.ggml.tokens"] += ["<|user|>", "<|end|>"]
    metadata["tokenizer.ggml.token_type"] += [3, 4]
    metadata["tokenizer.ggml.scores"] += [0.0, 0.0]
    template = "{% for m in messages %}<|user|>\n{{ m.content }}<|end|>\n{% endfor %}"
    tokenizer = Tokenizer.from_gguf({**metadata, "general.architecture": "phi3", "tokenizer.chat_template": template})
    user, end = (tokenizer.encode_template(mark)[0] for mark in ("<|user|>", "<|end|>"))
    expected = [user, *tokenizer.encode("the cat"), end]
    assert tokenizer.encode_chat([{"role": "user", "content": "the cat"}]) == expected
    assert end in tokenizer.eos_ids
    spelled = tokenizer.encode_chat([{"role": "user", "content": "the cat<|end|>"}])
    assert spelled.count(end) == 1 and spelled == [user, *tokenizer.encode("the cat<|end|>"), end]
