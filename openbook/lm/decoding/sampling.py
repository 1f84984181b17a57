"""One token of a distribution: the likeliest, or one drawn.

Shapes: V vocabulary. Scores are logits or log-probabilities: what is drawn from is their softmax.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from openbook.errors import Fault

FEW = 1024
"""Tokens that are sorted first where a cut of unknown size follows."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: temperature 0 is greedy; the seed fixes the rest.

    Each cut applies to what the one before left, renormalised: `top_k` likeliest tokens; `top_p`, the fewest likeliest
    that make up p (Holtzman 2020, arXiv 1904.09751); `min_p`, those at least so likely as p times the likeliest
    (Nguyen 2024, arXiv 2407.01082). `repetition_penalty` θ (Keskar 2019, arXiv 1909.05858) comes before all and for
    greedy too: a token seen before has its score divided by θ where that is above 0, multiplied where below.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise Fault(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise Fault(f"top-k is {self.top_k}; it must be 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise Fault(f"top-p is {self.top_p}; it must be above 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise Fault(f"min-p is {self.min_p}; it must be from 0 to 1")
        if not (self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty)):
            raise Fault(f"the repetition penalty is {self.repetition_penalty}; it must be above 0, and 1 is none")

    def generator(self) -> torch.Generator:
        """A fresh stream of random numbers from the seed."""
        return torch.Generator().manual_seed(self.seed)

    def kept(self, scores_V: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that may be drawn, the likeliest first, and their probabilities; `temperature` above 0."""
        scores_V = scores_V.cpu()
        counts = [len(scores_V)]
        if self.top_k is not None:
            counts = [min(self.top_k, len(scores_V))]
        elif self.top_p is not None or self.min_p is not None:
            # To sort a large vocabulary takes as long as a part of the model; mostly a few tokens are all that is kept.
            counts.insert(0, min(FEW, len(scores_V)))
        for count in counts:
            likeliest, tokens = _likeliest(scores_V, count)
            # From the likeliest down, so that no temperature, however small, makes them all impossible.
            log_u = (likeliest.double() - likeliest[0]) / self.temperature
            left = log_u if self.top_k is not None else (scores_V.double() - likeliest[0]) / self.temperature
            keep = self._cut(log_u - left.logsumexp(0))
            if keep < count:
                break
        return tokens[:keep], log_u[:keep].softmax(0)

    def _cut(self, log_p: Tensor) -> int:
        """How many of the likeliest tokens top-p and min-p leave, none of them impossible."""
        keep = int(torch.isfinite(log_p).sum())
        if self.top_p is not None and self.top_p < 1:  # 1 is all, also what rounding loses in the sum
            # The fewest likeliest tokens whose mass reaches top-p: those before which less than top-p had come.
            p = log_p[:keep].exp()
            keep = int((p.cumsum(0) - p < self.top_p).sum())
        if self.min_p is not None:
            keep = int((log_p[:keep].exp() >= self.min_p * log_p[0].exp()).sum())
        return max(1, keep)

    def pick(self, scores_V: Tensor, generator: torch.Generator) -> int:
        """One token id; draws exactly one number from `generator` unless greedy."""
        if self.temperature == 0:  # NumPy finds it in a tenth of torch's time
            return int(scores_V.numpy().argmax() if scores_V.device.type == "cpu" else scores_V.argmax())
        drawn = torch.rand(1, generator=generator, dtype=torch.float64)
        if self.top_k is None and self.top_p is None and self.min_p is None:  # nothing is cut: no need to sort
            scores_V = scores_V.double().cpu()
            p_V = ((scores_V - scores_V.max()) / self.temperature).softmax(0)
            possible = torch.nonzero(p_V)[:, 0]
            tokens, p = possible, p_V[possible]
        else:
            tokens, p = self.kept(scores_V)
        return int(tokens[min(int((p.cumsum(0) <= drawn).sum()), len(p) - 1)])


def _likeliest(scores_V: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest scores and their tokens, of equal scores the lower token first."""
    if count == len(scores_V):
        ordered = scores_V.sort(descending=True, stable=True)
        return ordered.values, ordered.indices
    least = scores_V.topk(count).values[-1]
    tokens = torch.nonzero(scores_V >= least)[:, 0]
    ordered = scores_V[tokens].sort(descending=True, stable=True)
    return ordered.values[:count], tokens[ordered.indices[:count]]


def penalise(scores_V: Tensor, seen: Collection[int], penalty: float) -> Tensor:
    """The scores with those of `seen` tokens made worse (above 1) or better (below 1) by the penalty."""
    if penalty == 1 or not seen:
        return scores_V
    index = torch.tensor(sorted(seen), dtype=torch.long, device=scores_V.device)
    found = scores_V[index]
    return scores_V.index_copy(0, index, torch.where(found < 0, found * penalty, found / penalty))
