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
        likeliest_first = scores_V.double().cpu().sort(descending=True, stable=True)
        # From the likeliest down, so that no temperature, however small, makes them all impossible.
        log_p = ((likeliest_first.values - likeliest_first.values[0]) / self.temperature).log_softmax(0)
        keep = max(1, int(torch.isfinite(log_p).sum()))
        if self.top_k is not None:
            keep = min(keep, self.top_k)
        if self.top_p is not None:
            p = log_p[:keep].softmax(0)
            # The fewest likeliest tokens whose mass reaches top-p: those before which less than top-p had come.
            keep = max(1, int((p.cumsum(0) - p < self.top_p).sum()))
        if self.min_p is not None:
            keep = max(1, int((log_p[:keep].exp() >= self.min_p * log_p[0].exp()).sum()))
        return likeliest_first.indices[:keep], log_p[:keep].softmax(0)

    def pick(self, scores_V: Tensor, generator: torch.Generator) -> int:
        """One token id; draws exactly one number from `generator` unless greedy."""
        if self.temperature == 0:
            return int(scores_V.argmax())
        tokens, p = self.kept(scores_V)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64)
        return int(tokens[min(int((p.cumsum(0) <= drawn).sum()), len(p) - 1)])


def penalise(scores_V: Tensor, seen: Collection[int], penalty: float) -> Tensor:
    """The scores with those of `seen` tokens made worse (above 1) or better (below 1) by the penalty."""
    if penalty == 1 or not seen:
        return scores_V
    index = torch.tensor(sorted(seen), dtype=torch.long, device=scores_V.device)
    found = scores_V[index]
    return scores_V.index_copy(0, index, torch.where(found < 0, found * penalty, found / penalty))
