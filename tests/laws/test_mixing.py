"""Scores are mixed as the distributions that they stand for: shifted, strided, the impossible and the faint too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from openbook.mix.mixing import mix, normalisers
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.source import Label
from openbook.mix.weights import Array, normalise

NEVER = float("-inf")


@st.composite
def mixed(draw: st.DrawFn) -> tuple[Tensor, Array]:
    """Scores of any size, some of them −∞ (not a whole row), and weights, some of them 0 (not all)."""
    S, V = draw(st.integers(1, 6)), draw(st.integers(1, 300))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    sharp = draw(st.sampled_from([0.1, 1.0, 10.0, 200.0]))
    scores_SV = sharp * torch.randn(S, V, generator=generator) + draw(st.sampled_from([0.0, 50.0, -3000.0]))
    impossible_SV = torch.rand(S, V, generator=generator) < draw(st.sampled_from([0.0, 0.3]))
    impossible_SV[:, draw(st.integers(0, V - 1))] = False
    w_S = np.array(draw(st.lists(st.sampled_from([0.0, 1e-40, 1e-3, 0.5, 1.0]), min_size=S, max_size=S)))
    w_S[draw(st.integers(0, S - 1))] = 1.0
    with np.errstate(divide="ignore"):
        return scores_SV.masked_fill(impossible_SV, NEVER), normalise(np.log(w_S))


def by_definition(scores_SV: Tensor, log_w_S: Array) -> tuple[Tensor, Tensor]:
    """In fp64, source by source."""
    log_z_S = scores_SV.double().logsumexp(1)
    log_p_SV = scores_SV.double() - log_z_S[:, None]
    return torch.logsumexp(log_p_SV + torch.from_numpy(log_w_S)[:, None], 0), log_z_S


@given(mixed())
def test_a_mixture_of_scores_is_that_of_their_softmaxes(drawn: tuple[Tensor, Array]) -> None:
    """Also of tokens whose probability no fp32 number is small enough for."""
    scores_SV, log_w_S = drawn
    given_SV = scores_SV.clone()
    log_mix_V, log_z_S = mix(scores_SV, log_w_S)
    wanted_V, wanted_S = by_definition(scores_SV, log_w_S)
    assert log_mix_V.dtype == torch.float32 and log_z_S.dtype == np.float64
    torch.testing.assert_close(log_mix_V.double(), wanted_V, atol=2e-5, rtol=2e-6)
    np.testing.assert_allclose(log_z_S, wanted_S.numpy(), atol=2e-6, rtol=1e-7)
    np.testing.assert_allclose(normalisers(scores_SV), log_z_S, atol=1e-12)
    assert torch.equal(scores_SV, given_SV)


@given(mixed(), st.integers(1, 3))
def test_rows_may_stand_apart_in_memory(drawn: tuple[Tensor, Array], apart: int) -> None:
    scores_SV, log_w_S = drawn
    wide_SAV = torch.full((scores_SV.shape[0], apart, scores_SV.shape[1]), 7.0)
    wide_SAV[:, -1] = scores_SV
    there, here = mix(wide_SAV[:, -1], log_w_S), mix(scores_SV, log_w_S)
    assert torch.equal(there[0], here[0]) and np.array_equal(there[1], here[1])


class Given:
    """A source of fixed scores."""

    def __init__(self, scores_SV: Tensor) -> None:
        self.scores_SV = scores_SV
        self.labels = tuple(Label(f"p{s}", "passage") for s in range(len(scores_SV)))

    def start(self) -> Tensor:
        return self.scores_SV

    def step(self, token: int) -> Tensor:
        return self.scores_SV


@given(mixed(), st.sampled_from([0.0, 0.5, 1.0]), st.data())
def test_logits_and_log_probabilities_are_one_source(
    drawn: tuple[Tensor, Array], tau: float, data: st.DataObject
) -> None:
    scores_SV, log_w_S = drawn
    weights = Weights(log_w_S, tau)
    raw = Mixture([Given(scores_SV)], weights)
    # One source of many rows, or many of one.
    parts = [Given(row[None].double().log_softmax(-1).float()) for row in scores_SV]
    normal = Mixture(parts, weights)
    possible = torch.nonzero(torch.isfinite(scores_SV).all(0))[:, 0].tolist()
    for token in data.draw(st.lists(st.sampled_from(possible), max_size=3)):
        for mixture in (raw, normal):
            mixture.advance(token)
    size = max(1.0, float(scores_SV[torch.isfinite(scores_SV)].abs().max()))
    for token in possible[:5]:
        np.testing.assert_allclose(raw.log_p_of(token), normal.log_p_of(token), atol=1e-6 * size)
        np.testing.assert_allclose(raw.log_p_of(token), raw.log_p_SV[:, token].numpy(), atol=1e-6 * size)
    torch.testing.assert_close(raw.distribution(), normal.distribution(), atol=1e-5 * size, rtol=1e-5)


def test_a_row_without_any_finite_score_is_not_hidden() -> None:
    log_mix_V, _ = mix(torch.full((1, 4), float("nan")), np.zeros(1))
    assert bool(log_mix_V.isnan().all())
    assert normalisers(torch.tensor([[1.0, 2.0], [0.0, 0.0]])) == pytest.approx([2.3132617, 0.6931472])


@given(st.integers(1, 5), st.integers(1, 3000), st.sampled_from([1.0, 30.0, 3000.0]), st.integers(0, 2**16))
def test_normalisers_are_logs_of_sums_of_exponentials(rows: int, words: int, scale: float, seed: int) -> None:
    scores_RV = scale * torch.randn(rows, words, generator=torch.Generator().manual_seed(seed))
    exact_R = torch.logsumexp(scores_RV.double(), dim=1).numpy()
    np.testing.assert_allclose(normalisers(scores_RV), exact_R, rtol=2e-6, atol=2e-5)


def test_a_source_of_which_few_tokens_can_be_is_summed_over_those() -> None:
    """Whole stretches of a vocabulary in which nothing can be, as a datastore's few neighbours leave them."""
    scores_SV = torch.full((2, 40_000), -torch.inf)
    scores_SV[0] = torch.linspace(-3, 3, 40_000)
    scores_SV[1, 20_011] = 0.0
    log_mix_V, log_z_S = mix(scores_SV, np.log([0.25, 0.75]))
    expected_V = torch.logsumexp(scores_SV.double().log_softmax(1) + torch.log(torch.tensor([[0.25], [0.75]])), dim=0)
    assert torch.allclose(log_mix_V.double(), expected_V, atol=1e-5)
    assert log_z_S[1] == 0
    assert normalisers(scores_SV)[1] == 0
