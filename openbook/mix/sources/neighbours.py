"""The nearest neighbours of the closed book's state, as a source of the mixture: kNN-LM.

    p_kNN(y | x) ∝ Σ over the k nearest keys whose value is y of exp(−d / T)
    p(y | x) = λ_t p_kNN(y | x) + (1 − λ_t) p_others(y | x)

(Khandelwal 2020, arXiv 1911.00172, equations 2 and 3; d is the *squared* L2 distance.) The published λ is one number.
It hurts most tokens, and open-ended text (Wang 2023, arXiv 2305.14625): so under `auto` λ_t falls with the distance of
the nearest key, measured in the keys' total variance, and with what the neighbours disagree about; it is 0 where even
the nearest is far.

Shapes: Q queries, k neighbours, V vocabulary, M width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openbook.book.neighbours import Found, Neighbours
from openbook.errors import Fault
from openbook.mix.share import LambdaKnn, check_lambda
from openbook.mix.source import Label, Tap
from openbook.mix.weights import Array

LABEL = Label("knn", "neighbours")

NEAREST = 256
"""k: more still help a little (docs/knn-lm.md), and each costs a look at its key."""
TEMPERATURE = 0.06
"""T, in the keys' total variance."""
AGREED = 0.6
"""λ_t = (1 − d₁)² · (1 − AGREED + AGREED · Σ_y p_kNN(y)²), at most MOST; 0 where d₁, the nearest distance in the keys'
total variance, is 1 or more."""
MOST = 0.99
SHOWN = 4
"""Neighbours of a token that are kept to be shown: those that spoke loudest for it."""


def adapted(d1_Q: npt.ArrayLike, agreement_Q: npt.ArrayLike) -> Array:
    """λ of queries whose nearest key is so far, in the keys' total variance, and whose neighbours agree so much.

    Two keys that have nothing to do with each other are twice the variance apart, a key and the mean of all once. The
    agreement `Σ_y p_kNN(y)²` is how likely two neighbours, drawn by their parts, have the same token (docs/knn-lm.md).
    """
    near_Q: Array = np.maximum(1 - np.asarray(d1_Q, dtype=np.float64), 0)
    share_Q: Array = np.minimum(near_Q**2 * (1 - AGREED + AGREED * np.asarray(agreement_Q)), MOST)
    return share_Q


def agreement(found: Found, log_p_Qk: Array) -> Array:
    """`Σ_y p_kNN(y)²` of each query `[Q]`."""
    queries = len(log_p_Qk)
    values_Qk = found.values_Qk.astype(np.int64) * queries + np.arange(queries)[:, None]  # apart from other queries'
    said, at = np.unique(values_Qk, return_inverse=True)
    p = np.bincount(at.ravel(), weights=np.exp(log_p_Qk).ravel()).astype(np.float64)
    agreed_Q = np.zeros(queries)
    np.add.at(agreed_Q, said % queries, p * p)
    return agreed_Q


class Near(NamedTuple):
    """One neighbour of a token: the row of the datastore, its squared distance, its part of p_kNN."""

    row: int
    distance: float
    p: float


@dataclass(frozen=True)
class Knn:
    """How neighbours speak: k, the temperature in the keys' total variance, λ fixed or `auto`."""

    share: LambdaKnn = "auto"
    k: int = NEAREST
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        check_lambda(self.share)
        if not (1 <= self.k <= 4096 and self.temperature > 0):
            raise Fault(f"k is {self.k} and the temperature {self.temperature}; from 1 to 4096, and above 0")

    def log_p(self, found: Found, variance: float) -> Array:
        """Each found neighbour's part of p_kNN, natural logs `[Q, k]`; rows sum to 1."""
        d_Qk = found.distances_Qk.astype(np.float64)
        log_u_Qk = -d_Qk / (self.temperature * max(variance, np.finfo(np.float64).tiny))
        top_Q1 = log_u_Qk.max(1, keepdims=True)
        log_p_Qk: Array = log_u_Qk - top_Q1 - np.log(np.exp(log_u_Qk - top_Q1).sum(1, keepdims=True))
        return log_p_Qk

    def shares(self, found: Found, log_p_Qk: Array, variance: float) -> Array:
        """λ_t of each query `[Q]`."""
        if self.share != "auto":
            return np.full(len(found.distances_Qk), float(self.share))
        if variance == 0:
            return np.zeros(len(found.distances_Qk))
        return adapted(found.distances_Qk[:, 0].astype(np.float64) / variance, agreement(found, log_p_Qk))


def log_p_of(found: Found, log_p_Qk: Array, tokens_Q: npt.ArrayLike) -> Array:
    """log p_kNN `[Q]` of one token a query: −∞ where no neighbour has it."""
    mine_Qk = found.values_Qk == np.asarray(tokens_Q)[:, None]
    with np.errstate(divide="ignore"):
        log_p_Q: Array = np.log(np.where(mine_Qk, np.exp(log_p_Qk), 0.0).sum(1))
    return log_p_Q


class NeighboursSource:
    """A `Sharing` source: the neighbours of what the closed book's branch read last (`Tap`), step by step.

    It stands after the `Branches` that fill the tap. `trace` has for each step, the first one included, what was found:
    whoever writes an answer asks `near` for the neighbours that had the token he chose.
    """

    def __init__(self, neighbours: Neighbours, tap: Tap, vocabulary: int, knn: Knn | None = None) -> None:
        if not len(neighbours):
            raise Fault(f"{neighbours.folder} has no neighbours of this version's documents; add them: --neighbours")
        self.labels: tuple[Label, ...] = (LABEL,)
        self.neighbours, self.knn = neighbours, knn or Knn()
        self._tap, self._vocabulary = tap, vocabulary
        self.trace: list[tuple[Found, Array]] = []
        self._share = 0.0

    @property
    def share(self) -> float:
        """See `openbook.mix.source.Sharing`."""
        return self._share

    def start(self) -> Tensor:
        """fp32 log-probabilities `[1, V]`."""
        return self._look()

    def step(self, token: int) -> Tensor:
        """The same after the tap was filled again."""
        return self._look()

    def near(self, step: int, token: int) -> list[Near]:
        """The neighbours that spoke for a token at a step, the loudest first: at most `SHOWN`."""
        found, log_p_1k = self.trace[step]
        mine = np.flatnonzero(found.values_Qk[0] == token)[:SHOWN]  # nearest first is loudest first
        return [
            Near(int(found.rows_Qk[0, i]), float(found.distances_Qk[0, i]), float(np.exp(log_p_1k[0, i]))) for i in mine
        ]

    def _look(self) -> Tensor:
        if self._tap.state_M is None:
            raise RuntimeError("no branch has left what it read; neighbours stand after the branches, under one tap")
        found = self.neighbours.search(self._tap.state_M.float().cpu().numpy()[None], self.knn.k)
        variance = self.neighbours.variance
        log_p_1k = self.knn.log_p(found, variance)
        self._share = float(self.knn.shares(found, log_p_1k, variance)[0])
        self.trace.append((found, log_p_1k))
        return self._scores(found, log_p_1k)

    def _scores(self, found: Found, log_p_1k: Array) -> Tensor:
        values = found.values_Qk[0]
        if values.min() < 0 or values.max() >= self._vocabulary:
            raise Fault(f"{self.neighbours.folder} holds tokens that this model has not; delete it and add again")
        tokens, at = np.unique(values, return_inverse=True)
        p = np.bincount(at, weights=np.exp(log_p_1k[0]))
        scores_1V = torch.full((1, self._vocabulary), -torch.inf)
        with np.errstate(divide="ignore"):
            scores_1V[0, torch.from_numpy(tokens.astype(np.int64))] = torch.from_numpy(np.log(p)).float()
        return scores_1V
