"""Whose words these are: the arithmetic of an answer, from the numbers that wrote it.

Shapes: T tokens of the answer, S sources. Everything is exact given the steps; no further pass of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from openbook.mix.decode import Step
from openbook.mix.mixture import Weights, sharing
from openbook.mix.source import Label
from openbook.mix.weights import Array


@dataclass(frozen=True)
class Evidence:
    """Natural log-probabilities and log-weights of an answer's tokens, and all that follows from them."""

    labels: tuple[Label, ...]
    weights: Weights
    log_p_TS: Array
    log_w_TS: Array
    certified_T: tuple[int | None, ...] = ()

    @classmethod
    def of(cls, labels: Sequence[Label], weights: Weights, steps: Sequence[Step]) -> Evidence:
        """The evidence rows of a generated answer."""
        shape = (len(steps), len(labels))
        log_p_TS = np.array([step.log_p_S for step in steps]).reshape(shape)
        log_w_TS = np.array([step.log_w_S for step in steps]).reshape(shape)
        return cls(tuple(labels), weights, log_p_TS, log_w_TS, tuple(step.certified for step in steps))

    @cached_property
    def log_mix_T(self) -> Array:
        """log p(y_t) under the mixture."""
        mixed: Array = np.logaddexp.reduce(self.log_w_TS + self.log_p_TS, axis=1)
        return mixed

    @cached_property
    def responsibility_TS(self) -> Array:
        """`r_s(t) = w_s(t) p_s(y_t) / Σ`: which source made the model write the token. Rows sum to 1."""
        share: Array = np.exp(self.log_w_TS + self.log_p_TS - self.log_mix_T[:, None])
        return share

    @cached_property
    def closed(self) -> int | None:
        """The closed book's column, if it is among the sources."""
        return next((i for i, label in enumerate(self.labels) if label.kind == "closed_book"), None)

    @cached_property
    def bits_T(self) -> Array | None:
        """`log2 p_mix(y_t) − log2 p_closed(y_t)`: what the book added to what the model would have written alone."""
        if self.closed is None:
            return None
        bits: Array = (self.log_mix_T - self.log_p_TS[:, self.closed]) / np.log(2)
        return bits

    @cached_property
    def bits_TS(self) -> Array | None:
        """`b_s(t) = log2 p_s(y_t) − log2 p_closed(y_t)`."""
        if self.closed is None:
            return None
        bits: Array = (self.log_p_TS - self.log_p_TS[:, [self.closed]]) / np.log(2)
        return bits

    @cached_property
    def sufficiency_S(self) -> Array:
        """`log p_s(answer)`: how readily each source alone would have written the answer (hold)."""
        total: Array = self.log_p_TS.sum(axis=0)
        return total

    @cached_property
    def necessity_S(self) -> Array:
        """`log p(answer) − log p(answer without s)`: what the mixture loses when the source is left out (drop).

        Exact: the others' weights are recomputed under the same prior, persistence and cap; what had a share of its own
        keeps it. Infinite where s is the only source.
        """
        whole = self.log_mix_T.sum()
        drops = [whole - self.log_p_with(np.arange(len(self.labels)) != s) for s in range(len(self.labels))]
        return np.array(drops)

    def log_p_with(self, chosen_S: npt.NDArray[np.bool_]) -> float:
        """The same answer's natural log-probability under the mixture of only these sources."""
        shares, believed = sharing(self.labels), np.isfinite(self.weights.log_prior_S)
        if not (chosen_S & believed).any():
            chosen_S = chosen_S & shares
        if not chosen_S.any():
            return -np.inf
        subset = Weights(self.weights.log_prior_S[chosen_S], self.weights.tau, self.weights.cap)
        log_p_TS = self.log_p_TS[:, chosen_S]
        log_share_TS = np.where(shares, self.log_w_TS, np.nan)[:, chosen_S] if shares[chosen_S].any() else None
        so_far = np.zeros(log_p_TS.shape[1])
        total = 0.0
        for t, log_p_S in enumerate(log_p_TS):
            log_w_S = subset.at(so_far, None if log_share_TS is None else log_share_TS[t])
            total += float(np.logaddexp.reduce(log_w_S + log_p_S))
            so_far = so_far + log_p_S
        return total
