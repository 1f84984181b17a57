"""Beams over a mixture: the likeliest text under weights that learn, and the evidence of the one that is found."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.make import CacheSpec
from openbook.lm.decoding.beam import Beams, beam_search
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.hypotheses import Text
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.model import LanguageModel
from openbook.mix.beam import Written, search
from openbook.mix.decode import generate
from openbook.mix.evidence import Evidence
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.prompt import Framing
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, Branch, Branches
from openbook.mix.weights import Array, normalise

END = 0
TAUS = st.sampled_from([0.0, 0.5, 1.0])
SHARED_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
PASSAGES = ["A comet.", "A bridge over the river, 212 metres long.", "Moss."]


class Chains:
    """A source of Markov chains over a few tokens, that parts in hypotheses: it remembers nothing but its tokens."""

    def __init__(self, first_SV: Tensor, next_SVV: Tensor) -> None:
        self.first_SV, self.next_SVV = first_SV, next_SVV
        self.labels = tuple(Label(f"p{s}", "passage") for s in range(len(first_SV)))

    def start(self) -> Tensor:
        return self.first_SV

    def step(self, token: int) -> Tensor:
        return self.next_SVV[:, token]

    def step_beams(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        return self.next_SVV[:, list(tokens)].transpose(0, 1)


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Chains, Weights]:
    S, V = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    sharp = draw(st.sampled_from([0.5, 2.0]))
    first = (sharp * torch.randn(S, V, generator=generator)).log_softmax(-1)
    following = (sharp * torch.randn(S, V, V, generator=generator)).log_softmax(-1)
    prior = draw(st.lists(st.floats(0.05, 1.0), min_size=S, max_size=S))
    return Chains(first, following), Weights(
        normalise(np.log(prior)), draw(TAUS), draw(st.sampled_from([0.4, 0.7, 1.0]))
    )


def forced(mixture: Mixture, text: Sequence[int]) -> list[float]:
    """Log p of each token of a text that is written whatever the mixture thinks."""
    log_p = []
    for token in text:
        log_p.append(float(mixture.distribution()[token]))
        mixture.advance(token)
    return log_p


def texts_of(vocabulary: int, limit: int) -> list[tuple[int, ...]]:
    found = [(*body, END) for n in range(limit) for body in itertools.product(range(1, vocabulary), repeat=n)]
    return found + list(itertools.product(range(1, vocabulary), repeat=limit))


@given(mixtures(), st.integers(1, 3), st.sampled_from([0.0, 1.0]))
@settings(deadline=None, max_examples=40)
def test_with_a_beam_for_every_beginning_the_best_is_found(
    drawn: tuple[Chains, Weights], limit: int, alpha: float
) -> None:
    """Under every persistence: at τ = 1 and no cap it is the text of the highest RAG-Sequence probability."""
    source, weights = drawn
    V = source.first_SV.shape[1]
    best = search(Mixture([source], weights), Beams(V ** (limit - 1), alpha, "never"), Draft({END}), limit)[0]
    scores = {text: sum(forced(Mixture([source], weights), text)) / len(text) ** alpha for text in texts_of(V, limit)}
    assert best.score == pytest.approx(max(scores.values()), abs=1e-4)
    assert scores[tokens_of(best)] == pytest.approx(best.score, abs=1e-4)


def tokens_of(written: Written) -> tuple[int, ...]:
    """With the end token."""
    return (*(step.token for step in written.steps), *[END] * (written.reason == "end"))


@given(mixtures(), st.integers(1, 6), st.integers(1, 4), st.sampled_from([0.0, 1.0]))
@settings(deadline=None, max_examples=40)
def test_every_answer_has_the_evidence_that_it_would_have_if_it_were_forced(
    drawn: tuple[Chains, Weights], limit: int, width: int, alpha: float
) -> None:
    source, weights = drawn
    for found in search(Mixture([source], weights), Beams(width, alpha), Draft({END}), limit):
        text, mixture = tokens_of(found), Mixture([source], weights)
        log_p = forced(mixture, text)
        assert found.log_p == pytest.approx(sum(log_p), abs=1e-4)
        assert found.score == pytest.approx(sum(log_p) / len(text) ** alpha, abs=1e-4)
        mixture = Mixture([source], weights)
        for step in found.steps:
            np.testing.assert_allclose(step.log_p_S, mixture.log_p_of(step.token), atol=1e-6)
            np.testing.assert_allclose(step.log_w_S, mixture.log_w_S, atol=1e-6)
            assert step.log_p == pytest.approx(float(mixture.distribution()[step.token]), abs=1e-5)
            assert step.certified is None
            mixture.advance(step.token)
        if found.steps:
            evidence = Evidence.of(mixture.labels, weights, list(found.steps))
            np.testing.assert_allclose(evidence.responsibility_TS.sum(1), 1.0, atol=1e-9)


@given(mixtures(), st.integers(1, 8), st.sampled_from([0.0, 1.0]), st.sampled_from([True, False, "never"]))
@settings(deadline=None, max_examples=40)
def test_one_beam_is_greedy(drawn: tuple[Chains, Weights], limit: int, alpha: float, early: bool) -> None:
    source, weights = drawn
    greedy = list(generate(Mixture([source], weights), Sampling(), Draft({END}), limit))
    (found,) = search(Mixture([source], weights), Beams(1, alpha, early), Draft({END}), limit)
    assert [step.token for step in found.steps] == [step.token for step in greedy]


def test_a_source_that_cannot_part_is_refused() -> None:
    class Straight:
        labels = (Label("p1", "passage"),)

        def start(self) -> Tensor:
            return torch.zeros(1, 2)

        def step(self, token: int) -> Tensor:
            return torch.zeros(1, 2)

    with pytest.raises(Fault, match="Straight"):
        search(Mixture([Straight()], Weights(np.zeros(1))), Beams(2), Draft(), 3)


# Branches of a model.


def branches(model: LanguageModel, passages: Sequence[str], closed: bool = True) -> Branches:
    rows = [Branch(Label(f"p{i}", "passage"), f"p{i}", (text,)) for i, text in enumerate(passages)]
    return Branches(model, Framing(model.tokenizer), [*rows, *[CLOSED_BOOK] * closed], "How long?", room=8)


def even(count: int, tau: float = 0.5) -> Weights:
    return Weights(normalise(np.zeros(count)), tau)


def ways(found: Sequence[Written]) -> list[tuple[tuple[int, ...], float]]:
    return [(tokens_of(text), text.score) for text in found]


def assert_same(found: Sequence[Written], expected: Sequence[Written]) -> None:
    for (tokens, score), (others, other) in zip(ways(found), ways(expected), strict=True):
        assert tokens == others
        assert score == pytest.approx(other, abs=1e-4)


@given(st.sampled_from(PASSAGES), st.integers(1, 4), st.integers(1, 3), TAUS)
@settings(deadline=None, max_examples=12, suppress_health_check=SHARED_FIXTURE)
def test_one_passage_many_times_is_the_plain_model_on_its_prompt(
    tiny_model: LanguageModel, passage: str, copies: int, width: int, tau: float
) -> None:
    framing, ends = Framing(tiny_model.tokenizer), tiny_model.tokenizer.eos_ids
    mixture = Mixture([branches(tiny_model, [passage] * copies, closed=False)], even(copies, tau))
    found = search(mixture, Beams(width), Draft(ends), 8)
    suffix = framing.suffix("How long?")
    prompt = [*framing.prefix((passage,)), *suffix.question, *suffix.tail]
    plain = beam_search(Text(tiny_model.runner, [prompt], 8), [Draft(ends)], Beams(width), 8)[0]
    assert [tuple(step.token for step in text.steps) for text in found] == [text.tokens for text in plain]
    for text, other in zip(found, plain, strict=True):
        assert text.score == pytest.approx(other.score, abs=1e-4)


class Again(Branches):
    """Branches whose every step reads all of the answer anew, with `step` alone: no hypothesis ever parts."""

    def remember(self, model: LanguageModel) -> Again:
        self.model, self.texts = model, [[]]
        return self

    def step_beams(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        self.texts = [[*self.texts[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        rows = []
        for text in self.texts:
            fresh = branches(self.model, PASSAGES)
            rows.append([fresh.step(token) for token in text][-1])
        return torch.stack(rows)


@pytest.mark.parametrize("layout", ["dense", "ring", "paged"])
def test_hypotheses_that_part_equal_branches_read_anew(tiny_model: LanguageModel, layout: str) -> None:
    """Law 1 for beams of a mixture: whatever keeps the keys of hypotheses × branches."""
    model = replace(tiny_model, runner=TorchRunner(tiny_model.runner.decoder, CacheSpec(layout, block=5)))
    weights = Weights(normalise(np.log([0.4, 0.3, 0.2, 0.1])), 0.5, 0.8)
    again = branches(tiny_model, PASSAGES)
    again.__class__ = Again
    found = search(Mixture([branches(model, PASSAGES)], weights), Beams(3), Draft(), 6)
    expected = search(Mixture([again.remember(tiny_model)], weights), Beams(3), Draft(), 6)  # type: ignore[attr-defined]
    assert_same(found, expected)
    for text, other in zip(found, expected, strict=True):
        for step, same in zip(text.steps, other.steps, strict=True):
            np.testing.assert_allclose(step.log_p_S, same.log_p_S, atol=1e-4)
            np.testing.assert_allclose(step.log_w_S, same.log_w_S, atol=1e-4)


def test_one_beam_of_branches_writes_what_generate_writes(tiny_model: LanguageModel) -> None:
    weights: Array = normalise(np.log([0.4, 0.3, 0.2, 0.1]))
    greedy = generate(Mixture([branches(tiny_model, PASSAGES)], Weights(weights, 0.5)), Sampling(), Draft(), 8)
    (found,) = search(Mixture([branches(tiny_model, PASSAGES)], Weights(weights, 0.5)), Beams(1), Draft(), 8)
    assert [step.token for step in found.steps] == [step.token for step in greedy]
