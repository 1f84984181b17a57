"""What the mixture asks of whatever runs a decoder: one contract for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from openbook.lm.cache.dense import DenseCache, Prefix
from openbook.lm.spec import ModelSpec


class Runner(Protocol):
    """Runs a spec on some device in some precision. All of it is pure given the cache it is handed."""

    spec: ModelSpec
    dtype: torch.dtype
    device: torch.device

    def cache(self, prefixes: Sequence[Prefix | None], room: int) -> DenseCache:
        """A batch whose row b begins with `prefixes[b]`, with `room` columns to spare."""

    def forward(self, tokens_BT: Tensor, cache: DenseCache | None = None, *, keep: slice = slice(None)) -> Tensor:
        """fp32 logits `[B, T', V]` of the positions in `keep`; each row goes on at its own next position."""

    def prefill(self, text: Sequence[int]) -> Prefix:
        """The keys and values of these tokens, from position 0: a function of them alone, to the last bit."""
