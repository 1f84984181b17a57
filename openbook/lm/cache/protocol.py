"""What a stack asks of a cache, and the cache of a forward that keeps nothing.

Shapes: B batch, T new positions, K key/value heads, S keys, D head dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from openbook.lm.spec import ModelSpec

if TYPE_CHECKING:
    from openbook.lm.cache.codecs import Codec


class KeyValueCache(Protocol):
    """In every forward `extend` comes first; then each producer writes its slot, and its readers read it.

    A slot belongs to one producing layer (`openbook.lm.cache.plan`). Masks are computed from positions, never from
    where a cache keeps them, so a cache may keep its keys in any order.
    """

    @property
    def next_positions_B(self) -> Tensor:
        """The position each row's next token takes: one past its latest."""

    def extend(self, positions_BT: Tensor) -> None:
        """Announce T new tokens a row with these positions, later than all before in their row; −1 marks padding."""

    def positions(self, slot: int) -> Tensor:
        """The positions `[B, S]` of the keys that `read(slot)` gives in this forward; −1 where there is none.

        Asked for before they are read: after its last reader a cache may have forgotten them."""

    def write(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        """Keep one producer's keys and values of the announced tokens."""

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, K, S, D]` a query of this forward may need, the new ones among them."""


class Transient:
    """The cache of a forward that keeps nothing afterwards.

    With a codec, keys and values pass through it: what a cache with that codec must equal (law 1).
    """

    def __init__(self, spec: ModelSpec, codec: Codec | None = None) -> None:
        self._codec = codec
        self._positions_BT: Tensor | None = None
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * len(spec.producers)

    @property
    def next_positions_B(self) -> Tensor:
        return torch.zeros(1, dtype=torch.long)

    def extend(self, positions_BT: Tensor) -> None:
        if self._positions_BT is not None:
            raise RuntimeError("a transient cache serves one forward; make_cache gives one that continues a text")
        self._positions_BT = positions_BT

    def positions(self, slot: int) -> Tensor:
        if self._positions_BT is None:
            raise RuntimeError("extend comes first in a forward")
        return self._positions_BT

    def write(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        if self._codec is not None:
            k_BKTD = self._codec.decode(self._codec.encode(k_BKTD), k_BKTD.dtype)
            v_BKTD = self._codec.decode(self._codec.encode(v_BKTD), v_BKTD.dtype)
        self._held[slot] = (k_BKTD, v_BKTD)

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        held = self._held[slot]
        if held is None:
            raise RuntimeError(f"slot {slot} is read before its producer wrote it")
        return held
