"""Keys and values at a place that follows from the position, so that a window is all that is kept of a windowed slot.

Shapes: B rows, T new tokens, C columns of a slot, S keys read, K key/value heads, D head dimension.
Position p stands in column p if p is pinned, else in `pinned + (p − pinned) mod R`, R the slot's retention: a new
position takes the column of the one R before it, which no later query sees. A slot without retention has a column a
position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openbook.lm.cache.codecs import Codec, Parts
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.places import Held, Places
from openbook.lm.cache.plan import Plan, Retention


@dataclass
class Ring:
    """What slots of one retention share: the position in every column (−1: none), and this forward's bookkeeping.

    `rows`, `tokens` and `at` say which new tokens are kept, and in which columns. `read_BS` are the positions that this
    forward reads; `joined` whether those are what was held (`before` columns) *and then* the new ones, because keeping
    the new evicts some of the old that the first of the new still see. After the last of the `readers` all of that is
    forgotten: it would stand beside the keys until the next forward.
    """

    retention: Retention
    columns: int
    wraps: bool
    held_BC: Tensor
    readers: int = 0
    left: int = 0
    used: int = 0
    rows: Tensor | None = None
    tokens: Tensor | None = None
    at: Tensor | None = None
    read_BS: Tensor | None = None
    joined: bool = False
    before: int = 0

    def was_read(self) -> None:
        """One reader less in this forward."""
        self.left -= 1
        if self.left == 0:
            self.rows = self.tokens = self.at = self.read_BS = None

    def column(self, positions: Tensor) -> Tensor:
        """Where these positions stand."""
        if not self.wraps:
            return positions
        window, pinned = self.retention
        return torch.where(positions < pinned, positions, pinned + (positions - pinned) % (window or 1))

    def stays(self, positions_BT: Tensor) -> Tensor:
        """Which of these new positions outlive their own forward, `[B, T]`: a chunk may be longer than the ring."""
        window, pinned = self.retention
        real = positions_BT >= 0
        if not self.wraps or window is None:
            return real
        last_B1 = positions_BT.amax(1, keepdim=True)
        return real & ((positions_BT > last_B1 - window) | (positions_BT < pinned))


class RingCache(Cache):
    """A ring a slot with a window narrower than the capacity; every other slot a rectangle.

    Where every slot is a ring there is no end: a text may grow past `capacity`.
    """

    def __init__(
        self, plan: Plan, codec: Codec, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(plan, codec, batch, capacity, dtype, device)
        self._rings: dict[Retention, Ring] = {}
        for slot in plan.slots:
            columns = slot.columns(capacity)
            wraps = slot.window is not None and slot.pinned + slot.window <= capacity
            if slot.retention not in self._rings:
                held_BC = torch.full((batch, columns), -1, dtype=torch.long, device=device)
                self._rings[slot.retention] = Ring(slot.retention, columns, wraps, held_BC)
            self._rings[slot.retention].readers += slot.readers
            self._slots.append(self._allocate(slot, batch, slot.kv_heads, columns))
        self._endless = all(ring.wraps for ring in self._rings.values())
        self._joined: dict[int, tuple[Tensor, Tensor, int]] = {}

    def _ring(self, slot: int) -> Ring:
        return self._rings[self.plan.slots[slot].retention]

    def extend(self, positions_BT: Tensor) -> None:
        top = int(positions_BT.max()) + 1 if positions_BT.numel() else 0
        if not self._endless:
            self._refuse_beyond(top)
        self._joined.clear()
        for ring in self._rings.values():
            self._turn(ring, positions_BT, top)
        self._advance(positions_BT)

    def _turn(self, ring: Ring, positions_BT: Tensor, top: int) -> None:
        """Decide where a ring keeps the new positions, and what this forward reads of it."""
        ring.before, ring.left = ring.used, ring.readers
        ring.used = max(ring.used, min(top, ring.columns))
        ring.joined = positions_BT.shape[1] > 1 and top > ring.columns
        if ring.joined:
            ring.read_BS = torch.cat((ring.held_BC[:, : ring.before], positions_BT), dim=1)
        ring.rows, ring.tokens = torch.nonzero(ring.stays(positions_BT), as_tuple=True)
        kept = positions_BT[ring.rows, ring.tokens]
        ring.at = ring.column(kept)
        ring.held_BC[ring.rows, ring.at] = kept
        if not ring.joined:
            ring.read_BS = ring.held_BC[:, : ring.used]

    def positions(self, slot: int) -> Tensor:
        read_BS = self._ring(slot).read_BS
        if read_BS is None:
            raise RuntimeError("extend comes first in a forward")
        return read_BS

    def write(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        ring, held = self._ring(slot), self._slots[slot]
        new = [self.codec.encode(x_BKTD) for x_BKTD in (k_BKTD, v_BKTD)]
        if ring.joined:
            resident = self._decoded(tuple(part[:, :, :, : ring.before] for part in held))
            k, v = (
                torch.cat((old, self.codec.decode(parts, self.dtype)), dim=2)
                for old, parts in zip(resident, new, strict=True)
            )
            self._joined[slot] = (k, v, self.plan.slots[slot].readers)
        for side, parts in enumerate(new):
            for part, fresh in zip(held, parts, strict=True):
                part[side][ring.rows, :, ring.at] = fresh[ring.rows, :, ring.tokens]

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        ring = self._ring(slot)
        ring.was_read()
        if not ring.joined:
            return self._decoded(tuple(part[:, :, :, : ring.used] for part in self._slots[slot]))
        k, v, left = self._joined.pop(slot)
        if left > 1:  # the last reader leaves nothing behind
            self._joined[slot] = (k, v, left - 1)
        return k, v

    def held(self) -> list[Held]:
        return [Held(self._slots_of(ring), ring.held_BC[:, : ring.used].clone()) for ring in self._rings.values()]

    def places(self, columns: int) -> list[Places]:
        made = []
        for ring in self._rings.values():
            columns_BT = torch.full((self.batch, columns), -1, dtype=torch.long)
            if ring.rows is not None and ring.tokens is not None and ring.at is not None:
                columns_BT[ring.rows, ring.tokens] = ring.at
            made.append(Places(0, columns_BT))
        return made

    def _slots_of(self, ring: Ring) -> tuple[int, ...]:
        return tuple(i for i, slot in enumerate(self.plan.slots) if slot.retention == ring.retention)

    def select(self, rows: Sequence[int]) -> None:
        index = torch.tensor(list(rows), dtype=torch.long, device=self.device)
        self.next_positions_B = self.next_positions_B.index_select(0, index)
        for ring in self._rings.values():
            ring.held_BC = ring.held_BC.index_select(0, index)
        self._slots = [tuple(part.index_select(1, index) for part in parts) for parts in self._slots]

    def evicts(self, count: int) -> bool:
        top = int(self.next_positions_B.max()) + count
        return any(ring.wraps and top > ring.columns for ring in self._rings.values())

    def _cut(self, lengths_B: Tensor) -> None:
        if self.evicts(0):
            raise ValueError("a ring has come round: what its latest tokens replaced cannot be brought back")
        for ring in self._rings.values():
            ring.held_BC.masked_fill_(ring.held_BC >= lengths_B[:, None], -1)
            ring.used = min(ring.columns, int(lengths_B.max()))

    def _take(self, slot: int, row: int, positions: Sequence[int]) -> Parts | None:
        ring, wanted = self._ring(slot), torch.tensor(positions, dtype=torch.long, device=self.device)
        columns = ring.column(wanted)
        if not torch.equal(ring.held_BC[row, columns], wanted):
            return None
        return tuple(part[:, row].index_select(2, columns) for part in self._slots[slot])

    def _place(self, slot: int, row: int, positions: Sequence[int], parts: Parts) -> None:
        ring, given = self._ring(slot), torch.tensor(positions, dtype=torch.long, device=self.device)
        columns = ring.column(given)
        for held, part in zip(self._slots[slot], parts, strict=True):
            held[:, row].index_copy_(2, columns, part)
        ring.held_BC[row, columns] = given
        ring.used = max(ring.used, min(max(positions, default=-1) + 1, ring.columns))
