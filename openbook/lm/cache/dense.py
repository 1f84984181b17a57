"""Keys and values in one rectangle a slot: `[B, K, capacity, D]`, and the absolute position of every column.

Shapes: B batch (branches), K key/value heads, S columns held, C capacity, D head dimension.
A column is not a position: rows of different length stand side by side, what a row lacks is marked −1, and the
mask is computed from positions. So a batch of branches with prefixes of any lengths needs no padding rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.spec import ModelSpec


class KeyValueCache(Protocol):
    """What a stack asks of a cache. `extend` comes first in a forward, then each producer writes, readers read."""

    @property
    def next_positions_B(self) -> Tensor:
        """The position each row's next token takes: one past its latest."""

    def extend(self, positions_BT: Tensor) -> None:
        """Announce T new tokens a row with these positions; −1 marks padding."""

    def positions(self, slot: int) -> Tensor:
        """The positions `[B, S]` of the keys that `read(slot)` gives in this forward; −1 where there is none."""

    def write(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        """Keep one producer's keys and values of the announced columns."""

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        """All keys and values held in a slot, `[B, K, S, D]` each."""


class Transient:
    """The cache of a forward that keeps nothing afterwards."""

    def __init__(self, spec: ModelSpec) -> None:
        self._positions_BT: Tensor | None = None
        self._held: list[tuple[Tensor, Tensor] | None] = [None] * len(spec.producers)

    @property
    def next_positions_B(self) -> Tensor:
        return torch.zeros(1, dtype=torch.long)

    def extend(self, positions_BT: Tensor) -> None:
        if self._positions_BT is not None:
            raise RuntimeError("a transient cache serves one forward; use DenseCache to continue a text")
        self._positions_BT = positions_BT

    def positions(self, slot: int) -> Tensor:
        if self._positions_BT is None:
            raise RuntimeError("extend comes first in a forward")
        return self._positions_BT

    def write(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        self._held[slot] = (k_BKTD, v_BKTD)

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        held = self._held[slot]
        if held is None:
            raise RuntimeError(f"slot {slot} is read before its producer wrote it")
        return held


class Prefix(NamedTuple):
    """The keys and values of one text that starts at position 0: a tensor `[2, K, n, D]` a slot (keys, values)."""

    slots: tuple[Tensor, ...]

    @property
    def length(self) -> int:
        """n, the tokens it covers."""
        return self.slots[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes its tensors occupy."""
        return sum(t.nbytes for t in self.slots)

    def fits(self, spec: ModelSpec, dtype: torch.dtype) -> bool:
        """Whether these can be keys and values of this model in this precision: count, shapes, dtype, finite."""
        shapes = [spec.layers[i].attention for i in spec.producers]
        return len(self.slots) == len(shapes) and all(
            t.dtype == dtype
            and tuple(t.shape) == (2, a.kv_heads, self.length, a.head_dim)
            and bool(torch.isfinite(t).all())
            for t, a in zip(self.slots, shapes, strict=True)
        )


class DenseCache:
    """A preallocated rectangle a slot. Overflow is an error, never a silent eviction."""

    def __init__(self, spec: ModelSpec, batch: int, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.capacity = capacity
        self.length = 0
        shapes = [spec.layers[i].attention for i in spec.producers]
        self._slots = [
            torch.zeros(2, batch, a.kv_heads, capacity, a.head_dim, dtype=dtype, device=device) for a in shapes
        ]
        self._positions_BC = torch.full((batch, capacity), -1, dtype=torch.long, device=device)
        self._start = 0

    @classmethod
    def of_prefixes(
        cls, spec: ModelSpec, prefixes: Sequence[Prefix | None], room: int, dtype: torch.dtype, device: torch.device
    ) -> DenseCache:
        """A batch whose row b begins with `prefixes[b]` (None: with nothing), with `room` columns to spare."""
        width = max((p.length for p in prefixes if p is not None), default=0)
        cache = cls(spec, len(prefixes), width + room, dtype, device)
        for row, prefix in enumerate(prefixes):
            if prefix is None:
                continue
            n = prefix.length
            cache._positions_BC[row, :n] = torch.arange(n, device=device)
            for held, given in zip(cache._slots, prefix.slots, strict=True):
                held[:, row, :, :n] = given.to(device=device, dtype=dtype)
        cache.length = width
        return cache

    @property
    def next_positions_B(self) -> Tensor:
        """The position each row's next token takes: one past its latest."""
        held = self._positions_BC[:, : self.length]
        if self.length == 0:
            return held.new_zeros(held.shape[0])
        return held.max(dim=1).values + 1

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values."""
        return sum(t.nbytes for t in self._slots)

    def extend(self, positions_BT: Tensor) -> None:
        count = positions_BT.shape[1]
        if self.length + count > self.capacity:
            raise Fault(
                f"the context is full: {self.length} + {count} tokens do not fit in {self.capacity}; "
                "ask for fewer tokens or shorter passages"
            )
        self._start, self.length = self.length, self.length + count
        self._positions_BC[:, self._start : self.length] = positions_BT

    def positions(self, slot: int) -> Tensor:
        return self._positions_BC[:, : self.length]

    def write(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        self._slots[slot][0, :, :, self._start : self.length] = k_BKTD
        self._slots[slot][1, :, :, self._start : self.length] = v_BKTD

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        k_BKSD, v_BKSD = self._slots[slot][:, :, :, : self.length]
        return k_BKSD, v_BKSD

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order; a row may be taken more than once."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self._positions_BC.device)
        self._positions_BC = self._positions_BC.index_select(0, index)
        self._slots = [t.index_select(1, index) for t in self._slots]

    def prefix(self, row: int) -> Prefix:
        """A copy of one row that holds no gaps, to be kept and restored elsewhere."""
        n = int((self._positions_BC[row] >= 0).sum())
        if not torch.equal(self._positions_BC[row, :n].cpu(), torch.arange(n)):
            raise RuntimeError("only a row without gaps, from position 0 on, can be kept as a prefix")
        return Prefix(tuple(t[:, row, :, :n].clone() for t in self._slots))
