"""SentencePiece BPE from the metadata of GGUF: Llama's, Gemma's, Phi-3's."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_texts import TEXT
from tokenizer_metadata import gemma_metadata, phi3_metadata, sentencepiece_metadata

from openbook.errors import Fault
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.tokenizer_gguf import NORMAL, USER, merges_of


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


def test_merges_come_from_scores() -> None:
    tokens, scores = ["a", "b", "c", "ab", "bc", "abc"], [-9.0, -9.0, -9.0, -1.0, -2.0, -3.0]
    merges = merges_of(tokens, scores, [NORMAL] * 6)
    assert merges == [["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]]
    assert merges_of(tokens, scores, [NORMAL] * 5 + [3]) == merges[:2]  # nothing merges into a control token
    assert merges_of(tokens, scores, [NORMAL] * 5 + [USER]) == merges


def test_a_piece_too_long_to_split_is_refused() -> None:
    with pytest.raises(Fault, match="has 5000 characters"):
        merges_of(["a", "b" * 5000], [0.0, 0.0], [1, 1])


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
    template = "{% for m in messages %}<|user|>\n{{ m.content }}<|end|>\n{% endfor %}"
    tokenizer = Tokenizer.from_gguf(
        {**phi3_metadata(), "general.architecture": "phi3", "tokenizer.chat_template": template}
    )
    user, end = (tokenizer.encode_template(mark)[0] for mark in ("<|user|>", "<|end|>"))
    expected = [user, *tokenizer.encode("the cat"), end]
    assert tokenizer.encode_chat([{"role": "user", "content": "the cat"}]) == expected
    assert end in tokenizer.eos_ids
    spelled = tokenizer.encode_chat([{"role": "user", "content": "the cat<|end|>"}])
    assert spelled.count(end) == 1 and spelled == [user, *tokenizer.encode("the cat<|end|>"), end]
