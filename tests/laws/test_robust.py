"""Certificates under equal votes: brute force over sets of bad passages, and drawn attacks that try to break them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mixture import FEW, Markov, chains, priors

from openbook.errors import Fault
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.constrain import Constraint
from openbook.lm.decoding.draft import Draft
from openbook.mix.certificate import certify, check_robust, equal_votes, vote_of
from openbook.mix.decode import Sampling, generate
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.settings import Settings
from openbook.mix.source import Label
from openbook.mix.weights import cap_weights

LENGTH = 4
LIFTS = st.lists(st.sampled_from([-3.0, 6.0, 30.0]), min_size=1, max_size=4)


def stands(w, p, token, bad, beside, vote):
    """Whether the token is chosen whatever the bad ones, and so many beside those found, say: by the definition."""
    lost = sum(vote if vote is not None else w[s] for s in bad) + (vote or 0.0) * beside
    return all(
        sum(w[s] * (p[s, token] - p[s, y]) for s in range(len(w)) if s not in bad) > lost
        for y in range(p.shape[1])
        if y != token
    )


def brute_force(w, p, token, passages, vote):
    """The largest j for which no set of j bad passages changes the token, by trying every one of them."""
    for j in range(1, len(passages) + 1):
        sets = [(bad, j - n) for n in range(j + 1) for bad in itertools.combinations(passages, n)]
        if not all(stands(w, p, token, bad, beside if vote else 0, vote) for bad, beside in sets if vote or not beside):
            return j - 1
    return len(passages)


@given(st.data(), st.sampled_from([0.3, 0.5, 1.0]))
@settings(max_examples=60)
def test_a_certificate_under_a_cap_is_what_brute_force_says(data, cap):
    source = data.draw(chains(sources=st.integers(2, 5)))
    log_w = cap_weights(data.draw(priors(len(source.labels))), cap)
    compare(source, log_w, None)


@given(st.data(), LIFTS, st.sampled_from([0.05, 0.2, 0.5]))
@settings(max_examples=60)
def test_a_certificate_of_equal_votes_is_what_brute_force_says(data, lifts, share):
    """Bad passages in the place of those found, silent ones too, and beside them."""
    source = data.draw(chains(sources=st.just(len(lifts) + 1)))
    log_w = equal_votes(np.array(lifts), 5.0, share, 4).log_prior_S
    vote = vote_of(log_w, source.labels)
    if np.isinf(vote):
        token = int((np.exp(log_w) @ source.first_SV.exp().numpy()).argmax())
        assert certify(log_w, source.first_SV, token, source.labels, vote=vote) == 0
    else:
        compare(source, log_w, vote)


def compare(source, log_w, vote):
    w, p = np.exp(log_w), source.first_SV.exp().numpy().astype(float)
    token = int((w @ p).argmax())
    passages = [s for s, label in enumerate(source.labels) if label.kind == "passage"]
    exact = brute_force(w, p, token, passages, vote)
    found = certify(log_w, source.first_SV, token, source.labels, vote=vote)
    assert found == exact


@given(st.data(), LIFTS, st.integers(1, 2))
@settings(max_examples=80)
def test_no_bad_passages_change_a_certified_word(data, lifts, bad):
    """Replaced and added passages with drawn words, some of them crafted against the text: what was certified stays."""
    count, V = len(lifts), data.draw(FEW)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    sharp = data.draw(st.sampled_from([1.0, 3.0, 8.0]))
    shared = sharp * torch.randn(V, V, generator=generator)
    noise = data.draw(st.sampled_from([0.1, 1.0]))
    next_SVV = (shared + noise * torch.randn(count + 1, V, V, generator=generator)).log_softmax(-1)
    clean = Markov(next_SVV[:, 0], next_SVV)
    steps = written(clean, np.array(lifts), 0)

    places = data.draw(st.sets(st.integers(0, count - 1), min_size=min(bad, count), max_size=min(bad, count)))
    beside = data.draw(st.booleans())
    evil_VV = torch.full((V, V), -50.0)
    evil_VV[:, data.draw(st.integers(0, V - 1))] = 0.0
    evil_VV = evil_VV.log_softmax(-1)
    lifts, attacked_SVV = np.array(lifts), next_SVV.clone()
    if beside:
        extra = len(places)
        attacked_SVV = torch.cat([evil_VV.expand(extra, V, V), attacked_SVV])
        lifts = np.concatenate([np.full(extra, 99.0), lifts])
    else:
        attacked_SVV[list(places)] = evil_VV
        lifts[list(places)] = 99.0
    attacked = Markov(attacked_SVV[:, 0], attacked_SVV)
    weights = equal_votes(lifts, 5.0, 0.2, 4)
    mixture = Mixture([attacked], weights)
    for step in steps:
        if (step.certified or 0) >= len(places):
            assert int(mixture.distribution().argmax()) == step.token
        mixture.advance(step.token)


def written(source, lifts, robust):
    mixture = Mixture([source], equal_votes(lifts, 5.0, 0.2, 4))
    return list(generate(mixture, Sampling(), Draft(), LENGTH, fixed_prior=True, robust=robust))


@given(st.data(), LIFTS, st.integers(1, 2))
@settings(max_examples=40)
def test_a_robust_text_is_the_beginning_whose_every_word_stands(data, lifts, robust):
    source = data.draw(chains(sources=st.just(len(lifts) + 1)))
    whole, cut = written(source, np.array(lifts), 0), written(source, np.array(lifts), robust)
    length = next((i for i, step in enumerate(whole) if step.certified < robust), len(whole))
    assert [step.token for step in cut] == [step.token for step in whole[:length]]
    assert all(step.certified >= robust for step in cut)


def test_the_end_too_must_stand():
    """Two passages end the text, one goes on: one bad passage decides whether it is over."""
    end, word = 0, 1
    first = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.5, 0.5]]).log()
    source = Markov(first, first[:, None].expand(4, 2, 2))
    mixture = Mixture([source], equal_votes(np.full(3, 30.0), 5.0, 0.05, 3))
    draft = Draft({end})
    assert int(mixture.distribution().argmax()) == end != word
    assert list(generate(mixture, Sampling(), draft, 3, fixed_prior=True, robust=1)) == []
    assert draft.reason == "robust"


def test_what_cannot_be_robust_is_refused():
    source = Markov(torch.full((3, 2), 0.5).log(), torch.full((3, 2, 2), 0.5).log())
    for tau, temperature, fixed in ((0.5, 0.0, True), (0.0, 1.0, True), (0.0, 0.0, False)):
        mixture = Mixture([source], Weights(np.log([0.4, 0.4, 0.2]), tau))
        with pytest.raises(Fault, match="greedy"):
            next(generate(mixture, Sampling(temperature), Draft(), 1, fixed_prior=fixed, robust=1))
    near = Markov(source.first_SV, source.next_SVV)
    near.labels = (*source.labels[:1], Label("m1", "model"), *source.labels[2:])
    with pytest.raises(Fault, match="passages"):
        next(
            generate(
                Mixture([near], Weights(np.log([0.4, 0.4, 0.2]))), Sampling(), Draft(), 1, fixed_prior=True, robust=1
            )
        )
    for robust, passages in ((-1, 5), (3, 6)):
        with pytest.raises(Fault):
            check_robust(robust, passages)
    check_robust(3, 7)
    with pytest.raises(Fault, match="closed book"):
        equal_votes(np.zeros(3), 5.0, 0.0, 3)
    with pytest.raises(Fault, match="persistence"):
        Settings(robust=1)
    made = Settings().robustly(1)
    assert (made.robust, made.persistence, made.beta) == (1, 0.0, 0.0)


def test_nobody_weighs_as_much_as_one_in_two_bad_ones():
    """More than 2j votes: everybody sure of one word withstands j bad passages, and with a vote less does not."""
    for j, n in ((1, 3), (2, 5), (3, 7)):
        sure = torch.tensor([[1 - 1e-7, 1e-7]] * n + [[0.5, 0.5]]).log()
        source = Markov(sure, sure[:, None].expand(n + 1, 2, 2))
        weights = equal_votes(np.full(n, 30.0), 5.0, 0.01, n)
        assert np.exp(weights.log_prior_S).max() < 1 / (2 * j)
        assert (
            certify(weights.log_prior_S, sure, 0, source.labels, vote=vote_of(weights.log_prior_S, source.labels)) == j
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"beams": Beams(2)},
        {"sampling": Sampling(0.7)},
        {"sampling": Sampling(repetition_penalty=1.2)},
        {"constraint": Constraint("regex", "[a-z]+")},
        {"paths": "sets"},
        {"passages": 2},
    ],
)
def test_settings_that_no_certificate_covers_are_refused(wrong):
    Settings().robustly(1)
    with pytest.raises(Fault, match=r"robust|bad"):
        Settings(**wrong).robustly(1)
