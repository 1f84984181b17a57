"""Choosing tokens from a mixture, one evidence row a token.

Shapes: S sources, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.mix.certificate import certify
from openbook.mix.mixture import Mixture
from openbook.mix.weights import Array


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen: temperature 0 is greedy; top-k and top-p cut the tail first; the seed fixes the rest."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise Fault(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if self.top_k is not None and self.top_k < 1:
            raise Fault(f"top-k is {self.top_k}; it must be 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise Fault(f"top-p is {self.top_p}; it must be above 0 and at most 1")

    def generator(self) -> torch.Generator:
        """A fresh stream of random numbers from the seed."""
        return torch.Generator().manual_seed(self.seed)

    def pick(self, log_p_V: Tensor, generator: torch.Generator) -> int:
        """One token id; draws exactly one number from `generator` unless greedy."""
        if self.temperature == 0:
            return int(log_p_V.argmax())
        likeliest_first = log_p_V.double().cpu().sort(descending=True, stable=True)
        tokens = likeliest_first.indices
        # From the likeliest down, so that no temperature, however small, makes them all impossible.
        log_p = ((likeliest_first.values - likeliest_first.values[0]) / self.temperature).log_softmax(0)
        keep = len(log_p) if self.top_k is None else min(self.top_k, len(log_p))
        if self.top_p is not None:
            # The fewest likeliest tokens whose mass reaches top-p: those before which less than top-p had come.
            before = log_p.exp().cumsum(0) - log_p.exp()
            keep = min(keep, max(1, int((before < self.top_p).sum())))
        p = log_p[:keep].softmax(0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64)
        return int(tokens[min(int((p.cumsum(0) <= drawn).sum()), keep - 1)])


@dataclass(frozen=True)
class Step:
    """One token's evidence: who said it how loudly, how much each was trusted, natural logs over S sources."""

    token: int
    log_p: float
    log_p_S: Array
    log_w_S: Array
    certified: int | None


def generate(
    mixture: Mixture, sampling: Sampling, stop: Collection[int], max_tokens: int, *, fixed_prior: bool = False
) -> Iterator[Step]:
    """Tokens until one of `stop` (which is not given out) or `max_tokens`.

    With `fixed_prior` (no passage earned its weight by what it says), τ = 0 and greedy choices, tokens are certified.
    """
    generator = sampling.generator()
    certifiable = fixed_prior and mixture.weights.tau == 0 and sampling.temperature == 0
    for index in range(max_tokens):
        log_mix_V = mixture.distribution()
        token = sampling.pick(log_mix_V, generator)
        if token in stop:
            return
        certified = None
        if certifiable:
            certified = certify(mixture.log_w_S, mixture.log_p_SV, token, mixture.labels)
        yield Step(token, float(log_mix_V[token]), mixture.log_p_of(token), mixture.log_w_S, certified)
        if index + 1 < max_tokens:
            mixture.advance(token)
