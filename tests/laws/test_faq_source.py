"""A stored answer as a source of a mixture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openbook.answer.ask import write
from openbook.book import open_book
from openbook.book.embedder import HashedWords
from openbook.book.faq.entries import fold
from openbook.book.faq.knowledge import Match, open_knowledge
from openbook.book.faq.pairs import MEDIA, Pair
from openbook.lm.model import LanguageModel
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.settings import Settings
from openbook.mix.source import Label
from openbook.mix.sources.faq import SURE, PairReader, StoredAnswer, log_prior, pair_branches, pair_hits

V = 12
TOKENS = st.lists(st.integers(0, V - 1), min_size=1, max_size=6)


def source(tokens: list[int], name: str = "f1") -> StoredAnswer:
    return StoredAnswer(Label(name, "faq"), tokens, V)


@given(TOKENS, st.lists(st.integers(0, V - 1), max_size=8))
def test_every_step_is_a_distribution(tokens: list[int], written: list[int]) -> None:
    one = source(tokens)
    scores = [one.start(), *(one.step(token) for token in written)]
    for scores_1V in scores:
        assert scores_1V.shape == (1, V) and scores_1V.dtype == torch.float32
        assert float(scores_1V.exp().sum()) == pytest.approx(1, abs=1e-5)


@given(TOKENS)
def test_alone_it_says_the_answer_and_then_knows_nothing(tokens: list[int]) -> None:
    one = source(tokens)
    scores_1V = one.start()
    for token in tokens:
        assert int(scores_1V.argmax()) == token and float(scores_1V[0, token].exp()) == pytest.approx(SURE)
        scores_1V = one.step(token)
    assert scores_1V.max() == scores_1V.min()


@given(TOKENS, TOKENS)
def test_two_stored_answers_mixed_are_weighed_by_their_likelihood(first: list[int], second: list[int]) -> None:
    """At τ = 1 the weights are the exact posterior over which answer is being told."""
    prior = np.log([0.3, 0.7])
    mixture = Mixture([source(first), source(second, "f2")], Weights(prior, tau=1.0))
    told = np.zeros(2)
    for token in first:
        log_p = [float(torch.log_softmax(row, -1)[token]) for row in mixture.scores_SV]
        told += log_p
        mixture.advance(token)
    wanted = prior + told
    wanted -= np.log(np.exp(wanted).sum())
    np.testing.assert_allclose(mixture.log_w_S, wanted, atol=1e-4)


@pytest.mark.parametrize("tokens", [[], [V], [-1]])
def test_what_is_no_answer_is_refused(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="no answer"):
        source(tokens)
    with pytest.raises(ValueError, match="above chance"):
        StoredAnswer(Label("f1", "faq"), [1], V, sure=1 / V)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=5), st.floats(0, 1))
def test_confidence_is_shared_out_and_the_rest_is_the_closed_books(scores: list[float], confidence: float) -> None:
    entries = fold([Pair("d", "d", (f"q{i}",), f"a{i}", 0, 1, 0, 1, 1) for i in range(len(scores))])
    matches = [Match(entry, i, score, {}) for i, (entry, score) in enumerate(zip(entries, scores, strict=True))]
    prior = np.exp(log_prior(matches, confidence))
    assert prior.sum() == pytest.approx(1) and len(prior) == len(scores) + 1
    assert prior[:-1].sum() == pytest.approx(min(max(confidence, 1e-6), 1 - 1e-6), abs=1e-9)
    assert np.argmax(prior[:-1]) == np.argmax(scores) or np.ptp(scores) < 1e-6
    branches = pair_branches(matches)
    assert [branch.label for branch in branches] == [Label(f"f{i}", "faq") for i in range(1, len(scores) + 1)]
    assert branches[0].passages == ("q0\na0",) and branches[0].name == ""


def test_a_model_writes_from_pairs_and_says_which(tmp_path: Path, tiny_model: LanguageModel) -> None:
    file = tmp_path / "help.csv"
    file.write_text("How do I reset it?,Hold the button.\nWhat does it cost?,Ten francs.\nWho made it?,We did.\n")
    book, encoder = open_book(tmp_path / "book"), HashedWords()
    book.add(file, encoder=encoder, as_media=MEDIA)
    matches = open_knowledge(book, encoder).find("reset").matches
    settings = Settings(max_tokens=8, margin=None, passages=2)
    answer = write(PairReader(book, tiny_model, encoder, settings, matches=matches), "reset")
    facts = answer.to_dict()
    assert [(s["id"], s["kind"]) for s in facts["sources"]] == [("f1", "faq"), ("f2", "faq"), ("closed", "closed_book")]
    for source in facts["sources"][:-1]:
        assert book.text(source["document"])[slice(*source["span"])] == source["text"]
    for token in facts["tokens"]:
        assert sum(token["responsibility"].values()) == pytest.approx(1, abs=1e-4)
    assert set(facts["tokens"][0]["responsibility"]) == {"f1", "f2", "closed"}


def test_hits_of_pairs_stand_in_their_documents() -> None:
    places = [("Why?", "So.", 0), ("How?", "Thus.", 12)]
    entries = fold(
        [Pair("d.csv", "d", (q,), a, at, at + 9 + len(a), at + 9, at + 9 + len(a), 1) for q, a, at in places]
    )
    hits = pair_hits([Match(e, i, 2.0 - i, {"meaning": 0.5, "words": 0.1}) for i, e in enumerate(entries)])
    assert sum(hit.prior for hit in hits) == pytest.approx(1) and len(hits) == 2
    passage = hits[0].passage
    assert (passage.heading, passage.text, passage.start, passage.end, passage.line) == ("Why?", "So.", 9, 12, 1)
