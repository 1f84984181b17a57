"""A stored answer as a source of a mixture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openbook.book.faq.entries import fold
from openbook.book.faq.knowledge import Match
from openbook.book.faq.pairs import Pair
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.source import Label
from openbook.mix.sources.faq import SURE, StoredAnswer, log_prior, pair_branches

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
