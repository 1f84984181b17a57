"""Perplexity: every token is foretold once, from what is before it, and the figures are what they are called."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.book.embedder import HashedWords
from openbook.book.store import open_book
from openbook.errors import Fault
from openbook.measure import lm
from openbook.measure.held_out import Said
from openbook.measure.lm import Row, Subject, measure, score, ways, windows

TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune must want a wife. "
GOES_ON = "However little known the feelings of such a man may be on his first entering a neighbourhood."


@given(st.integers(0, 200), st.integers(2, 40), st.data())
def test_every_token_but_the_first_is_predicted_once(size, length, data):
    overlap = data.draw(st.integers(1, length - 1))
    text = list(range(size))
    made = windows(text, length, overlap)
    assert [i for w in made for i in range(w.first, w.stop)] == list(range(1, size))
    for window in made:
        assert len(window.tokens) <= length and window.first - window.start == min(overlap, window.first)
        assert window.tokens == text[window.start : window.stop]


def test_an_overlap_as_long_as_the_window_is_refused():
    with pytest.raises(Fault, match="overlap"):
        windows([1, 2, 3], 4, 4)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(2, 30), st.integers(1, 29)), min_size=1, max_size=4), st.booleans())
def test_rows_read_together_are_scored_as_each_alone(tiny_model, sizes, in_pieces):
    runner = tiny_model.runner
    tokens = [[(7 * i + 3 * r) % 250 for i in range(n)] for r, (n, _) in enumerate(sizes)]
    rows = [Row(t, min(count, len(t) - 1)) for t, (_, count) in zip(tokens, sizes, strict=True)]
    kept, lm.LOGIT_NUMBERS = lm.LOGIT_NUMBERS, 3 * 4 * runner.spec.vocabulary if in_pieces else lm.LOGIT_NUMBERS
    try:
        together = score(runner, rows)
    finally:
        lm.LOGIT_NUMBERS = kept
    for row, log_p_T in zip(rows, together, strict=True):
        logits_TV = runner.forward(torch.tensor([row.tokens[:-1]]))[0].double()
        wanted = logits_TV.log_softmax(-1).gather(1, torch.tensor(row.tokens[1:])[:, None])[-row.count :, 0]
        np.testing.assert_allclose(log_p_T, wanted.numpy(), atol=1e-5)


@settings(max_examples=25)
@given(st.integers(1, 20), st.integers(2, 20))
def test_a_row_after_a_prefix_is_scored_as_the_whole_text(tiny_model, before, after):
    text = [(5 * i) % 250 for i in range(before + after)]
    prefix = tiny_model.runner.prefill(text[:before])
    [whole] = score(tiny_model.runner, [Row(text, after - 1)])
    [split] = score(tiny_model.runner, [Row(text[before:], after - 1, prefix)])
    np.testing.assert_allclose(split, whole, atol=1e-5)


def test_the_first_token_of_a_text_is_refused(tiny_model):
    with pytest.raises(ValueError, match="first token"):
        score(tiny_model.runner, [Row([1, 2], 2)])


def test_figures_are_the_mean_over_tokens(tiny_model):
    chosen = [("model alone", ways(False)["model alone"])]
    made = measure(Subject(tiny_model), [TEXT, TEXT * 2], chosen, length=40, overlap=20, tokens=150)
    counted = [len(TEXT) - 1, 150]  # a token a byte
    assert made.tokens == made.bytes == sum(counted)
    figures = made.figures()["model alone"]
    log_p = np.concatenate(made.log_p["model alone"])
    assert len(log_p) == made.tokens
    assert figures["perplexity"] == pytest.approx(math.exp(-log_p.mean()))
    assert figures["bits_per_byte"] == pytest.approx(-log_p.mean() / math.log(2))
    assert (figures["against"], figures["error"]) == (1.0, 0.0)


def test_a_way_against_the_first_is_the_ratio_of_their_perplexities(tiny_model):
    def worse(subject, cut):
        for log_p_T in ways(False)["model alone"](subject, cut):
            yield log_p_T - 0.5

    chosen = [("model alone", ways(False)["model alone"]), ("worse", worse)]
    made = measure(Subject(tiny_model), [TEXT], chosen, length=40, overlap=20).figures()
    assert made["worse"]["against"] == pytest.approx(math.exp(0.5))
    assert made["worse"]["perplexity"] == pytest.approx(math.exp(0.5) * made["model alone"]["perplexity"])
    assert made["worse"]["error"] == pytest.approx(0.0, abs=1e-9)  # as much worse in every window


def test_what_cannot_be_measured_is_said(tiny_model):
    chosen = [("model alone", ways(False)["model alone"])]
    with pytest.raises(Fault, match="too short"):
        measure(Subject(tiny_model), ["x"], chosen)
    with pytest.raises(Fault, match="do not fit"):
        measure(Subject(tiny_model), [TEXT], chosen, length=5000)


def test_what_the_book_says_word_for_word_is_told_from_what_it_does_not(tmp_path, tiny_model):
    words = [f"wörd{i} {chr(97 + i % 26) * (i % 7 + 1)}" for i in range(200)]
    (tmp_path / "held.txt").write_text(". ".join(words[:100]), encoding="utf-8")
    book = open_book(tmp_path / "held.book")
    book.add(tmp_path / "held.txt", encoder=HashedWords())
    text = " - ".join([*words[150:160], *words[40:60], *words[160:170]]).upper()
    encode = tiny_model.tokenizer.encode
    copied_T = Said.by(book).copied(text, encode(text), tiny_model.tokenizer)
    start = len(encode(text[: text.index(words[40].upper())]))
    stop = len(encode(text[: text.index(words[59].upper()) + len(words[59])]))
    assert copied_T.tolist() == [start <= i < stop for i in range(len(copied_T))]
    assert not Said.by(None).copied(text, encode(text), tiny_model.tokenizer).any()
    assert not Said.by(book).copied(" ".join(words[40:46]), encode("x" * 9), tiny_model.tokenizer).any()


def test_figures_tell_copied_tokens_from_new_ones(tmp_path, tiny_model):
    (tmp_path / "held.txt").write_text(TEXT, encoding="utf-8")
    book = open_book(tmp_path / "held.book")
    book.add(tmp_path / "held.txt", encoder=HashedWords())

    def better_where_copied(subject, cut):
        said = Said.by(subject.book).copied(TEXT + GOES_ON, subject.model.tokenizer.encode(TEXT + GOES_ON), tokenizer)
        for window, log_p_T in zip(cut, ways(False)["model alone"](subject, cut), strict=True):
            yield log_p_T + said[window.first : window.stop]

    tokenizer = tiny_model.tokenizer
    chosen = [("model alone", ways(False)["model alone"]), ("better", better_where_copied)]
    made = measure(Subject(tiny_model, book), [TEXT + GOES_ON], chosen, length=64, overlap=32)
    copied = len(TEXT.rstrip(". ")) - 1
    assert made.share_copied == pytest.approx(copied / made.tokens)
    figures = made.figures()
    assert figures["better"]["against"] == pytest.approx(math.exp(-copied / made.tokens))
    assert figures["better"]["new_against"] == pytest.approx(1.0) and figures["model alone"]["new_against"] == 1.0
