"""Laws 3 and 4: the mixture's arithmetic, on sources drawn by hypothesis and on brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.errors import Fault
from openbook.lm.decoding.draft import Draft
from openbook.mix.certificate import certify
from openbook.mix.decode import Sampling, generate
from openbook.mix.evidence import Evidence
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.source import Label
from openbook.mix.weights import cap_weights, log_prior, normalise, persist, refine

END = 0
FEW = st.integers(2, 4)


class Markov:
    """A source whose rows are Markov chains over a small vocabulary: everything about it can be enumerated."""

    def __init__(self, first_SV: torch.Tensor, next_SVV: torch.Tensor, closed: bool = True) -> None:
        self.first_SV, self.next_SVV = first_SV, next_SVV
        count = len(first_SV)
        kinds = ["passage"] * (count - closed) + ["closed_book"] * closed
        self.labels = tuple(Label(f"s{i}", kind) for i, kind in enumerate(kinds))

    def start(self) -> torch.Tensor:
        return self.first_SV

    def step(self, token: int) -> torch.Tensor:
        return self.next_SVV[:, token]

    def log_p(self, text) -> np.ndarray:
        """Each chain's log-probability of a whole text."""
        total = self.first_SV[:, text[0]].double()
        for a, b in itertools.pairwise(text):
            total = total + self.next_SVV[:, a, b].double()
        return total.numpy()


@st.composite
def chains(draw, sources=FEW):
    S, V = draw(sources), draw(FEW)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    sharp = draw(st.sampled_from([0.3, 1.0, 3.0]))
    first = (sharp * torch.randn(S, V, generator=generator)).log_softmax(-1)
    following = (sharp * torch.randn(S, V, V, generator=generator)).log_softmax(-1)
    return Markov(first, following)


def priors(count: int):
    return st.lists(st.floats(0.01, 1.0), min_size=count, max_size=count).map(lambda w: normalise(np.log(w)))


def written(source: Markov, weights: Weights, text) -> tuple[np.ndarray, Evidence]:
    """log p_mix of each token when the text is forced, and its evidence."""
    mixture = Mixture([source], weights)
    rows, log_mix = [], []
    for token in text:
        log_mix.append(float(mixture.distribution()[token]))
        rows.append((mixture.log_p_of(token), mixture.log_w_S))
        mixture.advance(token)
    p, w = (np.array(column) for column in zip(*rows, strict=True))
    return np.array(log_mix), Evidence(mixture.labels, weights, p, w)


@given(st.data())
@settings(deadline=None)
def test_full_persistence_is_rag_sequence_by_brute_force(data):
    source = data.draw(chains())
    S, V = source.first_SV.shape
    prior = data.draw(priors(S))
    length = 3
    total = 0.0
    for text in itertools.product(range(V), repeat=length):
        log_mix, _ = written(source, Weights(prior, tau=1.0), text)
        sequence = np.logaddexp.reduce(prior + source.log_p(text))
        assert log_mix.sum() == pytest.approx(sequence, abs=1e-4)
        total += np.exp(log_mix.sum())
    assert total == pytest.approx(1.0, abs=1e-4)


@given(st.data(), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([0.4, 0.7, 1.0]))
@settings(deadline=None)
def test_the_mixture_is_a_distribution_and_responsibilities_sum_to_one(data, tau, cap):
    source = data.draw(chains())
    S, V = source.first_SV.shape
    weights = Weights(data.draw(priors(S)), tau, cap)
    text = data.draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=5))
    mixture = Mixture([source], weights)
    for token in text:
        assert float(mixture.distribution().exp().sum()) == pytest.approx(1.0, abs=1e-5)
        assert np.exp(mixture.log_w_S).max() <= max(cap, 1 / S) + 1e-9
        mixture.advance(token)
    log_mix, evidence = written(source, weights, text)
    np.testing.assert_allclose(evidence.responsibility_TS.sum(1), 1.0, atol=1e-9)
    np.testing.assert_allclose(evidence.log_mix_T, log_mix, atol=1e-5)


@given(st.data(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.3, 1.0]))
@settings(deadline=None)
def test_one_passage_k_times_is_the_plain_model(data, tau, cap):
    source = data.draw(chains(sources=st.just(1)))
    copies = data.draw(st.integers(1, 4))
    again = Markov(source.first_SV.repeat(copies, 1), source.next_SVV.repeat(copies, 1, 1))
    text = data.draw(st.lists(st.integers(0, source.first_SV.shape[1] - 1), min_size=1, max_size=5))
    log_mix, _ = written(again, Weights(data.draw(priors(copies)), tau, cap), text)
    assert log_mix.sum() == pytest.approx(source.log_p(text)[0], abs=1e-4)


@given(st.data(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.6, 1.0]))
@settings(deadline=None)
def test_necessity_is_what_a_mixture_without_the_source_loses(data, tau, cap):
    source = data.draw(chains(sources=st.integers(2, 4)))
    S, V = source.first_SV.shape
    prior = data.draw(priors(S))
    text = data.draw(st.lists(st.integers(0, V - 1), min_size=1, max_size=4))
    log_mix, evidence = written(source, Weights(prior, tau, cap), text)
    np.testing.assert_allclose(evidence.sufficiency_S, source.log_p(text), atol=1e-4)
    for s in range(S):
        others = [i for i in range(S) if i != s]
        without = Markov(source.first_SV[others], source.next_SVV[others])
        log_without, _ = written(without, Weights(prior[others], tau, cap), text)
        assert evidence.necessity_S[s] == pytest.approx(log_mix.sum() - log_without.sum(), abs=1e-4)


@given(st.data())
def test_bits_are_what_the_mixture_adds_to_the_closed_book(data):
    source = data.draw(chains())
    text = data.draw(st.lists(st.integers(0, source.first_SV.shape[1] - 1), min_size=1, max_size=4))
    log_mix, evidence = written(source, Weights(data.draw(priors(len(source.labels)))), text)
    closed = source.log_p(text)[-1]
    assert evidence.bits_T.sum() == pytest.approx((log_mix.sum() - closed) / np.log(2), abs=1e-4)
    np.testing.assert_allclose(evidence.bits_TS[:, -1], 0.0, atol=1e-9)


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=8), st.floats(0.05, 1.0))
def test_the_cap_holds_and_keeps_the_order(logs, cap):
    w = np.exp(cap_weights(np.array(logs), cap))
    plain = np.exp(normalise(np.array(logs)))
    assert w.sum() == pytest.approx(1.0)
    assert w.max() <= max(cap, 1 / len(logs)) + 1e-9
    assert all(w[i] >= w[j] - 1e-9 for i in range(len(w)) for j in range(len(w)) if plain[i] >= plain[j])
    if plain.max() <= cap:
        np.testing.assert_allclose(w, plain, atol=1e-9)


def test_a_source_that_finds_the_text_impossible_is_left_out_not_nan():
    with np.errstate(divide="ignore"):
        impossible = np.log([1.0, 0.0])
    np.testing.assert_allclose(np.exp(persist(np.log([0.5, 0.5]), impossible, 0.5)), [1.0, 0.0])
    np.testing.assert_allclose(np.exp(persist(np.log([0.5, 0.5]), impossible, 0.0)), [0.5, 0.5])


def test_refinement_is_bayes_rule():
    refined = np.exp(refine(np.log([0.5, 0.5]), np.log([0.3, 0.1]), 1.0))
    np.testing.assert_allclose(refined, [0.75, 0.25])
    np.testing.assert_allclose(np.exp(log_prior(np.log([0.75, 0.25]), 0.2)), [0.6, 0.2, 0.2])


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_certificate_is_what_brute_force_over_bad_sets_says(data):
    """With weights nobody can set, `certify` equals trying every set of bad passages against every other token."""
    source = data.draw(chains(sources=st.integers(2, 5)))
    log_w = data.draw(priors(len(source.labels)))
    w, p = np.exp(log_w), source.first_SV.exp().numpy().astype(float)
    token = int((w @ p).argmax())
    passages = range(len(w) - 1)
    best = 0
    for j in range(1, len(w)):
        holds = all(
            sum(w[s] * (p[s, token] - p[s, y]) for s in range(len(w)) if s not in bad) > sum(w[s] for s in bad)
            for bad in itertools.combinations(passages, j)
            for y in range(p.shape[1])
            if y != token
        )
        if not holds:
            break
        best = j
    assert certify(log_w, source.first_SV, token, source.labels) == best


def test_only_greedy_choices_under_weights_nobody_can_earn_are_certified():
    source = Markov(torch.tensor([[0.1, 0.9], [0.2, 0.8]]).log(), torch.full((2, 2, 2), 0.5).log())

    def certified(tau=0.0, temperature=0.0, fixed_prior=True):
        mixture = Mixture([source], Weights(np.log([0.4, 0.6]), tau))
        steps = generate(mixture, Sampling(temperature), Draft(), 1, fixed_prior=fixed_prior)
        return next(steps).certified

    assert certified() == 0  # 0.4·0.8 + 0.6·0.6 is less than what one bad passage of weight 0.4 turns, 0.4·1.8
    assert certified(tau=0.5) is certified(temperature=1.0) is certified(fixed_prior=False) is None


def test_no_temperature_is_too_small_to_draw_at():
    log_p = torch.tensor([0.2, 0.5, 0.3]).log()
    for temperature in (1e-45, 1e-40, 1e-5, 1e-2):
        assert Sampling(temperature).pick(log_p, Sampling().generator()) == 1


def test_sampling_is_decided_by_its_seed_and_cut_by_top_k_and_top_p():
    log_p = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = [Sampling(1.0, seed=7).pick(log_p, g) for g in [Sampling(1.0, seed=7).generator()] for _ in range(50)]
    again = [Sampling(1.0, seed=7).pick(log_p, g) for g in [Sampling(1.0, seed=7).generator()] for _ in range(50)]
    assert draws == again and len(set(draws)) > 1
    generator = Sampling(1.0, top_k=2).generator()
    assert {Sampling(1.0, top_k=2).pick(log_p, generator) for _ in range(200)} == {0, 1}
    generator = Sampling(1.0, top_p=0.8).generator()
    assert {Sampling(1.0, top_p=0.8).pick(log_p, generator) for _ in range(200)} == {0, 1}
    assert Sampling().pick(log_p, Sampling().generator()) == 0


def test_sampled_tokens_follow_the_distribution():
    log_p = torch.tensor([0.5, 0.3, 0.2]).log()
    generator = Sampling(1.0, seed=3).generator()
    counts = np.bincount([Sampling(1.0).pick(log_p, generator) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.2], atol=0.04)


@given(chains(), st.integers(1, 6))
@settings(deadline=None)
def test_generation_stops_at_the_end_token_or_the_limit(source, limit):
    mixture = Mixture([source], Weights(normalise(np.zeros(len(source.labels)))))
    steps = list(generate(mixture, Sampling(1.0), Draft({END}), limit))
    assert len(steps) <= limit
    assert all(step.token != END for step in steps)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Weights(np.zeros(1), tau=1.5),
        lambda: Weights(np.zeros(1), cap=0.0),
        lambda: Sampling(temperature=-1),
        lambda: Sampling(temperature=float("nan")),
        lambda: Sampling(top_k=0),
        lambda: Sampling(top_p=1.5),
        lambda: log_prior(np.zeros(1), 1.0),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(Fault):
        wrong()
