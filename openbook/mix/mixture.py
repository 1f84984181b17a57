"""The one equation: `p(y_t) = Σ_s w_s(t) · p_s(y_t)`.

Shapes: S sources, V vocabulary. Weights are float64 logs, scores and the mixture's logs fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.mix.mixing import mix
from openbook.mix.source import Expecting, Label, Source
from openbook.mix.weights import Array, cap_weights, persist


@dataclass(frozen=True)
class Weights:
    """How sources are weighted: log prior over S (after the question was seen), persistence τ, cap on any weight."""

    log_prior_S: Array
    tau: float = 0.0
    cap: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise Fault(f"persistence is {self.tau}; it must be from 0 (Token) to 1 (Sequence)")
        if not 0 < self.cap <= 1:
            raise Fault(f"the weight cap is {self.cap}; it must be above 0 and at most 1")

    def at(self, log_likelihood_S: Array) -> Array:
        """Log-weights for the next token, given each source's log-likelihood of the answer so far."""
        return cap_weights(persist(self.log_prior_S, log_likelihood_S, self.tau), self.cap)


class Mixture:
    """Sources under weights, advanced a token at a time. Its state is the sources' and each one's likelihood.

    `scores_SV` are the sources' own numbers for the next token, `log_z_S` each row's normaliser (`Source`).
    """

    def __init__(self, sources: Sequence[Source], weights: Weights) -> None:
        self.sources = tuple(sources)
        self.weights = weights
        self.labels: tuple[Label, ...] = tuple(label for source in self.sources for label in source.labels)
        if len(self.labels) != len(weights.log_prior_S):
            raise Fault(f"{len(self.labels)} sources cannot have {len(weights.log_prior_S)} prior weights")
        self.log_likelihood_S: Array = np.zeros(len(self.labels))
        self.log_w_S = weights.at(self.log_likelihood_S)
        self._take([source.start() for source in self.sources])

    def _take(self, scores: Sequence[Tensor]) -> None:
        self.scores_SV = scores[0] if len(scores) == 1 else torch.cat(list(scores))
        self._log_mix_V, self.log_z_S = mix(self.scores_SV, self.log_w_S)

    def distribution(self) -> Tensor:
        """fp32 log-probabilities `[V]` of the next token under the mixture."""
        return self._log_mix_V

    def log_p_of(self, token: int) -> Array:
        """Each source's log-probability `[S]` of this token."""
        column_S: Array = self.scores_SV[:, token].double().cpu().numpy()
        return column_S - self.log_z_S

    @property
    def log_p_SV(self) -> Tensor:
        """Each source's log-probabilities `[S, V]`, fp32: made when asked for, which writing an answer never does."""
        return self.scores_SV - torch.from_numpy(self.log_z_S)[:, None].to(self.scores_SV)

    def expect(self, tokens: Sequence[int]) -> None:
        """Tokens that may be chosen after the next: sources that can read them along with it do."""
        for source in self.sources:
            if isinstance(source, Expecting):
                source.expect(tokens)

    def advance(self, token: int) -> None:
        """Append the chosen token: every source goes on, every weight learns."""
        self.log_likelihood_S = self.log_likelihood_S + self.log_p_of(token)
        self.log_w_S = self.weights.at(self.log_likelihood_S)
        self._take([source.step(token) for source in self.sources])
