"""Keys and values in one rectangle a slot: `[2, B, K, capacity, D]`, and the absolute position of every column.

Shapes: B rows, K key/value heads, S columns held, C capacity, T new tokens, D head dimension.
A column is not a position: rows of different length stand side by side, what a row lacks is marked −1, and the
mask is computed from positions. So a batch of branches with prefixes of any lengths needs no padding rule.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.cache.codecs import Codec, Parts
from openbook.lm.cache.fixed import Storage
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.places import Held, Places
from openbook.lm.cache.plan import Plan


class DenseCache(Cache):
    """A preallocated rectangle a slot. Overflow is an error, never a silent eviction."""

    def __init__(
        self, plan: Plan, codec: Codec, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(plan, codec, batch, capacity, dtype, device)
        self.length = 0
        self._slots = [self._allocate(slot, batch, slot.kv_heads, capacity) for slot in plan.slots]
        self._positions_BC = torch.full((batch, capacity), -1, dtype=torch.long, device=device)
        self._least_B = torch.zeros(batch, dtype=torch.long, device=device)
        self._start = 0

    def extend(self, positions_BT: Tensor) -> None:
        self.claim(positions_BT)
        self._positions_BC[:, self._start : self.length] = positions_BT

    def claim(self, positions_BT: Tensor) -> None:
        """Count tokens at these positions as held, though nothing is written: `extend` and `FixedView` write them."""
        count = positions_BT.shape[1]
        if self.length + count > self.capacity:
            raise Fault(
                f"the context is full: {self.length} + {count} tokens do not fit in {self.capacity}; "
                "ask for fewer tokens or shorter passages"
            )
        self._start, self.length = self.length, self.length + count
        self._advance(positions_BT)

    @property
    def storage(self) -> Storage:
        """What is allocated. `select` allocates anew."""
        return Storage(self._positions_BC, tuple(self._slots))

    @storage.setter
    def storage(self, storage: Storage) -> None:
        self._positions_BC, self._slots = storage.positions_BC, list(storage.slots)

    def positions(self, slot: int) -> Tensor:
        return self._positions_BC[:, : self.length]

    def write(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        for side, x_BKTD in enumerate((k_BKTD, v_BKTD)):
            for held, new in zip(self._slots[slot], self.codec.encode(x_BKTD), strict=True):
                held[side, :, :, self._start : self.length] = new

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        return self._decoded(tuple(held[:, :, :, : self.length] for held in self._slots[slot]))

    def held(self) -> list[Held]:
        return [Held(tuple(range(len(self._slots))), self._positions_BC[:, : self.length])]

    def places(self, columns: int) -> list[Places]:
        return [Places(self._start)]

    def select(self, rows: Sequence[int]) -> None:
        index = torch.tensor(list(rows), dtype=torch.long, device=self.device)
        self._positions_BC = self._positions_BC.index_select(0, index)
        self.next_positions_B = self.next_positions_B.index_select(0, index)
        self._least_B = self._least_B.index_select(0, index)
        self._slots = [tuple(self._picked(part, index) for part in parts) for parts in self._slots]

    def _picked(self, part: Tensor, index: Tensor) -> Tensor:
        """These rows of a part. What is not filled yet is not touched: pages that nobody wrote to cost nothing."""
        picked = torch.zeros(2, len(index), *part.shape[2:], dtype=part.dtype, device=self.device)
        picked[:, :, :, : self.length] = part[:, :, :, : self.length].index_select(1, index)
        return picked

    def _cut(self, lengths_B: Tensor) -> None:
        if bool((lengths_B < self._least_B).any()):
            raise ValueError("a row began with a window's last tokens: those before them cannot be brought back")
        held_BC = self._positions_BC
        held_BC.masked_fill_(held_BC >= lengths_B[:, None], -1)
        used = torch.nonzero((held_BC[:, : self.length] >= 0).any(0))
        self.length = int(used[-1]) + 1 if len(used) else 0

    def _take(self, slot: int, row: int, positions: Sequence[int]) -> Parts | None:
        held_C = self._positions_BC[row, : self.length]
        columns = torch.nonzero(held_C >= 0)[:, 0]
        if not torch.equal(held_C[columns].cpu(), torch.arange(len(columns))):
            return None
        index = columns[torch.tensor(positions, dtype=torch.long, device=self.device)]
        return tuple(part[:, row].index_select(2, index) for part in self._slots[slot])

    def _place(self, slot: int, row: int, positions: Sequence[int], parts: Parts) -> None:
        # Columns up to the last; those that this slot no longer needs lie outside the window of all who read it.
        length = max(positions, default=-1) + 1
        for held, given in zip(self._slots[slot], parts, strict=True):
            if length == len(positions):  # all of them: one copy, three times as fast as by index
                held[:, row, :, :length] = given
            else:
                index = torch.tensor(positions, dtype=torch.long, device=self.device)
                held[:, row].index_copy_(2, index, given)
        self._positions_BC[row, :length] = torch.arange(length, device=self.device)
        if length > len(positions):  # shorter, it would need some that are not here
            self._least_B[row] = length
        self.length = max(self.length, length)
