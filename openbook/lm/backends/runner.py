"""What the mixture asks of whatever runs a decoder: one contract for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec
from openbook.lm.cache.prefixes import Prefix
from openbook.lm.spec import ModelSpec

CHUNK = 512
"""Tokens of a long text that are run at once, so that its masks and logits never stand in memory whole."""

FEW = 12
"""New tokens of a row from which on a backend may compute them together in another order than one by one."""


class Hidden(NamedTuple):
    """What a forward knew on its way, fp32 `[B, T, M]`: the output of the last norm, and what the last layer's
    feed-forward read (the keys of kNN-LM, Khandelwal 2020)."""

    last_BTM: Tensor
    feed_forward_BTM: Tensor


class Part(NamedTuple):
    """One text's part of a joint forward: what `Runner.forward` takes. With nothing in `keep` no logits are made."""

    tokens_BT: Tensor
    cache: Cache | None = None
    positions_BT: Tensor | None = None
    keep: slice | Sequence[int] = slice(None)
    tap_BTM: Tensor | None = None


class Runner(Protocol):
    """Runs a spec on some device in some precision. All of it is pure given the cache it is handed.

    `batch_invariant`: a row's numbers do not depend, to the last bit, on how many rows stand beside it, nor on how many
    tokens are read at once (fewer than `FEW` a row). Then reading ahead cannot change what is written. Nor do they
    depend on how a text is cut into pieces of `FEW` or more, where no window leaves positions behind: so what texts
    begin with can be kept (`openbook.lm.cache.beginnings`).
    """

    spec: ModelSpec
    dtype: torch.dtype
    device: torch.device
    caching: CacheSpec
    batch_invariant: bool

    def alone(self) -> AbstractContextManager[None]:
        """Within, nothing else in this thread takes the cores that this backend's threads compute on."""

    def cache(self, prefixes: Sequence[Prefix | None], room: int) -> Cache:
        """A batch whose row b begins with `prefixes[b]` (None: with nothing), with room for that many tokens more."""

    def forward(
        self,
        tokens_BT: Tensor,
        cache: Cache | None = None,
        *,
        positions_BT: Tensor | None = None,
        keep: slice | Sequence[int] = slice(None),
        tap_BTM: Tensor | None = None,
    ) -> Tensor:
        """fp32 logits `[B, T', V]` of the columns in `keep`; each row goes on at its own next position.

        `keep` is a slice, or one or more ascending indices. Of other columns no logits are computed: the head is a
        large part of a model. `positions_BT` says otherwise where rows are padded: −1 stands for no token.
        Into `tap_BTM`, fp32 zeros `[B, T, M]` on this device, goes what the last layer's feed-forward read of every
        column: the same forward gives the logits and the key under which kNN-LM looks for neighbours.
        """

    def together(self, parts: Sequence[Part]) -> list[Tensor | Exception]:
        """`forward` of each, over caches of their own, as one where the backend can: what it gives, or would raise.

        Where `batch_invariant`, no part's numbers depend on the others. One that fails leaves its cache as it was.
        """

    def hidden(self, tokens_BT: Tensor, cache: Cache | None = None, *, positions_BT: Tensor | None = None) -> Hidden:
        """Hidden states of these tokens, whose keys are added to the cache; 0 where a position is −1."""

    def read(self, tokens_BT: Tensor, cache: Cache, *, positions_BT: Tensor | None = None) -> Tensor:
        """Read texts of any length into a cache, in chunks: fp32 logits `[B, V]` of the last column alone.

        So rows of different length are padded on the left.
        """

    def prefill(self, text: Sequence[int]) -> Prefix:
        """The keys and values of these tokens, from position 0: a function of them alone, to the last bit."""
