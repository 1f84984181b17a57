"""Beam search over a mixture: every hypothesis has its own rows, so its own weights and its own evidence.

    score(y) = Σ_t log Σ_s w_s(y_<t) · p_s(y_t | y_<t) / |y|^α

Under a persistence τ the weights learn from what a hypothesis has said so far: two hypotheses may trust different
passages. τ = 1 searches for the text of the highest RAG-Sequence probability, τ = 0 for that of RAG-Token
(Lewis 2020, arXiv 2005.11401, section 2.5). One batched forward a step serves all sources of all hypotheses.

Shapes: N hypotheses, S sources, V vocabulary. Weights are float64 logs, scores and mixtures fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.decoding.beam import Beams, Found, beam_search
from openbook.lm.decoding.draft import Draft, Reason
from openbook.mix.decode import Step
from openbook.mix.mixing import mix
from openbook.mix.mixture import Mixture
from openbook.mix.source import Source
from openbook.mix.weights import Array


@runtime_checkable
class Forking(Source, Protocol):
    """A source whose continuation can part in hypotheses."""

    def step_beams(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """fp32 scores `[N, S, V]`: hypothesis n goes on from `parents[n]` of before, with `tokens[n]`.

        Before the first call there is one hypothesis. From then on `step` has no meaning.
        """


@dataclass(frozen=True)
class Written:
    """An answer that a search found: a `Step` a token without the end token, log p of it all, what it was ranked by."""

    steps: tuple[Step, ...]
    log_p: float
    score: float
    reason: Reason
    fits: bool


class MixtureRows:
    """A mixture as `Hypotheses` of one text, from where it stands. It uses the mixture's sources up."""

    def __init__(self, mixture: Mixture) -> None:
        sources = [source for source in mixture.sources if isinstance(source, Forking)]
        if len(sources) < len(mixture.sources):
            stuck = next(source for source in mixture.sources if not isinstance(source, Forking))
            raise Fault(f"a source ({type(stuck).__name__}) cannot go on in beams; ask with one beam")
        self._sources, self._weights = sources, mixture.weights
        self._log_likelihood_NS: list[Array] = [mixture.log_likelihood_S]
        self._log_w_NS: list[Array] = [mixture.log_w_S]
        self._scores_NSV = mixture.scores_SV[None]

    def start(self) -> Tensor:
        """See `openbook.lm.decoding.hypotheses.Hypotheses`."""
        return self._mixed()

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See `openbook.lm.decoding.hypotheses.Hypotheses`."""
        self._log_likelihood_NS = [
            self._log_likelihood_NS[parent] + self._log_p_of(parent, token)
            for parent, token in zip(parents, tokens, strict=True)
        ]
        self._log_w_NS = [self._weights.at(log_likelihood_S) for log_likelihood_S in self._log_likelihood_NS]
        given = [source.step_beams(parents, tokens) for source in self._sources]
        self._scores_NSV = given[0] if len(given) == 1 else torch.cat(given, dim=1)
        return self._mixed()

    def note(self, row: int, token: int) -> Step:
        """The evidence of a token that a hypothesis may go on with; `log_p` is what the mixture gives it."""
        log_p_S, log_w_S = self._log_p_of(row, token), self._log_w_NS[row]
        return Step(token, float(np.logaddexp.reduce(log_p_S + log_w_S)), log_p_S, log_w_S, None)

    def _mixed(self) -> Tensor:
        mixed = [mix(scores_SV, log_w_S) for scores_SV, log_w_S in zip(self._scores_NSV, self._log_w_NS, strict=True)]
        self._log_z_NS = [log_z_S for _, log_z_S in mixed]
        return torch.stack([log_mix_V for log_mix_V, _ in mixed])

    def _log_p_of(self, row: int, token: int) -> Array:
        column_S: Array = self._scores_NSV[row, :, token].double().cpu().numpy()
        return column_S - self._log_z_NS[row]


def search(mixture: Mixture, beams: Beams, draft: Draft, max_tokens: int, *, penalty: float = 1.0) -> list[Written]:
    """The best answers of at most `max_tokens`, best first; the mixture's sources are used up.

    `draft` has the rules of the text (end tokens, stop strings, a constraint), `penalty` is for repetition. No token is
    certified: what stands of an answer against a bad passage is known of greedy choices only.
    """
    rows = MixtureRows(mixture)
    found = beam_search(rows, [draft], beams, max_tokens, penalty=penalty, note=rows.note)[0]
    return [_written(text) for text in found]


def _written(text: Found) -> Written:
    steps = text.notes[: len(text.tokens)]
    return Written(steps, float(np.sum(text.log_p)), text.score, text.reason, text.fits)
