"""The one equation: `p(y_t) = Σ_s w_s(t) · p_s(y_t)`.

A source with a share of its own (`openbook.mix.source.Sharing`) has w = λ_t, the others 1 − λ_t times what they would
have among themselves: `p = (1 − λ_t) Σ_{s ordinary} w_s p_s + λ_t p_kNN` (Khandelwal 2020, 1911.00172, equation 3).

Shapes: S sources, V vocabulary. Weights are float64 logs, scores and the mixture's logs fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.mix.mixing import mix, normalisers
from openbook.mix.source import SHARING, Expecting, Label, Sharing, Source
from openbook.mix.weights import Array, cap_weights, normalise, persist


@dataclass(frozen=True)
class Weights:
    """How sources are weighted: log prior over S (after the question was seen), persistence τ, cap on any weight.

    Those with a share of their own have −∞ there: they have no prior, no persistence and no cap.
    """

    log_prior_S: Array
    tau: float = 0.0
    cap: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.tau <= 1:
            raise Fault(f"persistence is {self.tau}; it must be from 0 (Token) to 1 (Sequence)")
        if not 0 < self.cap <= 1:
            raise Fault(f"the weight cap is {self.cap}; it must be above 0 and at most 1")

    def at(self, log_likelihood_S: Array, log_share_S: Array | None = None) -> Array:
        """Log-weights for the next token, given each source's log-likelihood of the answer so far.

        `log_share_S`: log λ of sources with a share of their own, NaN for the others.
        """
        if len(self.log_prior_S) == 1:  # there is nobody else
            return np.zeros(1)
        if log_share_S is None:
            return cap_weights(persist(self.log_prior_S, log_likelihood_S, self.tau), self.cap)
        ordinary_S = np.isnan(log_share_S)
        if not ordinary_S.any():
            return normalise(log_share_S if np.isfinite(log_share_S).any() else np.zeros_like(log_share_S))
        log_w_S = log_share_S.copy()
        rest = persist(self.log_prior_S[ordinary_S], log_likelihood_S[ordinary_S], self.tau)
        log_w_S[ordinary_S] = cap_weights(rest, self.cap) + np.log1p(-np.exp(log_share_S[~ordinary_S]).sum())
        return log_w_S


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
        self._expecting = [source for source in self.sources if isinstance(source, Expecting)]
        self._sharing = [source for source in self.sources if isinstance(source, Sharing)]
        self.sharing_S = sharing(self.labels)
        if self.sharing_S.sum() != len(self._sharing):
            kinds = ", ".join(sorted(SHARING))
            raise Fault(f"sources of the kinds {kinds}, and no others, say at each step what share they take")
        self.log_likelihood_S: Array = np.zeros(len(self.labels))
        self._take([source.start() for source in self.sources])

    def _take(self, scores: Sequence[Tensor]) -> None:
        self.scores_SV = scores[0] if len(scores) == 1 else torch.cat(list(scores))
        if not self._sharing:
            self.log_w_S = self.weights.at(self.log_likelihood_S)
            self._log_mix_V, self.log_z_S = mix(self.scores_SV, self.log_w_S)
            return
        share_S = np.full(len(self.labels), np.nan)
        share_S[self.sharing_S] = [source.share for source in self._sharing]
        with np.errstate(divide="ignore"):
            self.log_w_S = self.weights.at(self.log_likelihood_S, np.log(share_S))
        # Who has no share leaves no trace: what the others say is then the same to the last bit as without it.
        speaks_S = np.flatnonzero(~(share_S == 0))
        self._log_mix_V, log_z_S = mix(self.scores_SV[speaks_S], self.log_w_S[speaks_S])
        self.log_z_S = np.zeros(len(self.labels))
        self.log_z_S[speaks_S] = log_z_S
        if len(silent_S := np.flatnonzero(share_S == 0)):
            self.log_z_S[silent_S] = normalisers(self.scores_SV[silent_S])

    def distribution(self) -> Tensor:
        """fp32 log-probabilities `[V]` of the next token under the mixture."""
        return self._log_mix_V

    def log_p_of(self, token: int) -> Array:
        """Each source's log-probability `[S]` of this token; −∞ where it cannot be."""
        column_S: Array = self.scores_SV[:, token].double().cpu().numpy()
        return column_S - self.log_z_S

    @property
    def log_p_SV(self) -> Tensor:
        """Each source's log-probabilities `[S, V]`, fp32: made when asked for, which writing an answer never does."""
        return self.scores_SV - torch.from_numpy(self.log_z_S)[:, None].to(self.scores_SV)

    def expect(self, tokens: Sequence[int]) -> None:
        """Tokens that may be chosen after the next: sources that can read them along with it do."""
        for source in self._expecting:
            source.expect(tokens)

    def advance(self, token: int) -> None:
        """Append the chosen token: every source goes on, every weight learns."""
        self.log_likelihood_S = self.log_likelihood_S + self.log_p_of(token)
        self._take([source.step(token) for source in self.sources])


def sharing(labels: Sequence[Label]) -> npt.NDArray[np.bool_]:
    """Which of these sources have a share of their own at each step."""
    return np.array([label.kind in SHARING for label in labels], dtype=bool)
