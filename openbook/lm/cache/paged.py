"""Keys and values in blocks of a pool, which rows hold by reference: forks and equal beginnings cost nothing.

Shapes: B rows, T new tokens, N blocks of a pool, P positions a block, J blocks read a row, S = J·P keys, K key/value
heads, D head dimension. Pools hold `[2, N, K, P, D]`.

Slots of one retention share their tables: the row's block j covers positions j·P … j·P + P − 1. What a window has left
behind is given back, block by block; a row writes only to blocks that it alone holds, else to a copy (copy on write).
The contract of shared prefixes is `match`, `adopt`, `publish`, `reset` and `check` here, over that of
`openbook.lm.cache.blocks`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openbook.lm.cache.blocks import ROOT, Blocks, name_of
from openbook.lm.cache.codecs import Codec, Parts
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.plan import Plan, Retention, Slot

Table = dict[int, int]
"""A row's blocks: which block of the pool covers its j-th stretch of positions."""


@dataclass
class Step:
    """What one forward does with the pools of a retention: which blocks it copies, writes and reads.

    `joined` as in a ring: what was held and then the new, because keeping the new gives up some of the old.
    """

    copies: tuple[Tensor, Tensor]
    rows: Tensor
    tokens: Tensor
    blocks: Tensor
    offsets: Tensor
    read_BJ: Tensor
    positions_BS: Tensor
    joined: bool


@dataclass
class Pool:
    """The blocks that slots of one retention use, and what every row holds of them."""

    retention: Retention
    blocks: Blocks
    positions_NP: Tensor
    bounded: bool
    per_row: int
    tables: list[Table] = field(default_factory=list)
    step: Step | None = None

    def seen_after(self, length: int) -> int:
        """The first position past the pinned ones that a text of this length still needs."""
        window, _ = self.retention
        return 0 if window is None else max(0, length - window)

    def needs(self, j: int, length: int, size: int) -> bool:
        """Whether a text of this length still needs anything in its j-th stretch of `size` positions."""
        return (j + 1) * size > self.seen_after(length) or j * size < self.retention[1]

    def needed(self, length: int, size: int) -> list[int]:
        """The blocks that a text of this length, whole blocks long, still needs."""
        return [j for j in range(length // size) if self.needs(j, length, size)]


class PagedCache(Cache):
    """Pools as large as every row needs at once; `block` positions a block."""

    def __init__(
        self,
        plan: Plan,
        codec: Codec,
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        block: int = 16,
    ) -> None:
        super().__init__(plan, codec, batch, capacity, dtype, device)
        self.block = block
        self._pools: dict[Retention, Pool] = {}
        for slot in plan.slots:
            per_row = slot.blocks(capacity, block)
            if slot.retention not in self._pools:
                positions_NP = torch.full((batch * per_row, block), -1, dtype=torch.long, device=device)
                bounded = per_row * block >= capacity
                pool = Pool(slot.retention, Blocks(batch * per_row), positions_NP, bounded, per_row)
                pool.tables = [{} for _ in range(batch)]
                self._pools[slot.retention] = pool
            self._slots.append(self._allocate(slot, batch * per_row, slot.kv_heads, block))
        self._endless = not any(pool.bounded for pool in self._pools.values())
        self._joined: dict[int, tuple[Tensor, Tensor, int]] = {}

    def _pool(self, slot: int) -> Pool:
        return self._pools[self.plan.slots[slot].retention]

    # One forward.

    def extend(self, positions_BT: Tensor) -> None:
        rows = [[(t, p) for t, p in enumerate(row) if p >= 0] for row in positions_BT.tolist()]
        if not self._endless:
            self._refuse_beyond(max((p + 1 for row in rows for _, p in row), default=0))
        self._joined.clear()
        for pool in self._pools.values():
            self._turn(pool, rows, positions_BT)
        self._advance(positions_BT)

    def _turn(self, pool: Pool, rows: list[list[tuple[int, int]]], positions_BT: Tensor) -> None:
        """Decide where a pool keeps the new positions, and what this forward reads of it."""
        joined = positions_BT.shape[1] > 1 and pool.retention[0] is not None
        if joined:
            read_BJ, held_BS = self._read_of(pool)
            held_BS = torch.cat((held_BS, positions_BT), dim=1)
        kept = [self._staying(pool, row) for row in rows]
        for table, row in zip(pool.tables, kept, strict=True):
            if row:
                self._give_back(pool, table, row[-1][1] + 1)
        copies: list[tuple[int, int]] = []
        fresh: list[tuple[int]] = []
        for table, row in zip(pool.tables, kept, strict=True):
            for j in dict.fromkeys(p // self.block for _, p in row):
                self._own(pool, table, j, copies, fresh)
        flat = [
            (b, t, table[p // self.block], p % self.block, p)
            for b, (table, row) in enumerate(zip(pool.tables, kept, strict=True))
            for t, p in row
        ]
        b, t, blocks, offsets, kept_p = self._index(flat, 5)
        sources, targets = self._index(copies, 2)
        pool.positions_NP[self._index(fresh, 1)[0]] = -1
        pool.positions_NP[targets] = pool.positions_NP[sources]
        pool.positions_NP[blocks, offsets] = kept_p
        if not joined:
            read_BJ, held_BS = self._read_of(pool)
        pool.step = Step((sources, targets), b, t, blocks, offsets, read_BJ, held_BS, joined)

    def _staying(self, pool: Pool, row: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The new tokens (index, position) of a row that outlive their own forward; blocks stay whole, to be shared."""
        return [(t, p) for t, p in row if pool.needs(p // self.block, row[-1][1] + 1, self.block)]

    def _give_back(self, pool: Pool, table: Table, length: int) -> None:
        """Drop the blocks that lie wholly before the window of a text of this length, and are not pinned."""
        for j in [j for j in table if not pool.needs(j, length, self.block)]:
            pool.blocks.drop(table.pop(j))

    @staticmethod
    def _own(pool: Pool, table: Table, j: int, copies: list[tuple[int, int]], fresh: list[tuple[int]]) -> None:
        """Give a row a j-th block of its own: a new one, or a copy of the one it shares."""
        held = table.get(j)
        if held is None:
            table[j] = pool.blocks.take()
            fresh.append((table[j],))
        elif not pool.blocks.writable(held):
            # Its other holders keep it: dropped first, an only holder's place could be taken at once and lost.
            table[j] = pool.blocks.take()
            pool.blocks.drop(held)
            copies.append((held, table[j]))

    def _index(self, columns: Sequence[tuple[int, ...]], count: int) -> tuple[Tensor, ...]:
        table = torch.tensor(columns, dtype=torch.long, device=self.device).reshape(-1, count)
        return table.unbind(1)

    def _read_of(self, pool: Pool) -> tuple[Tensor, Tensor]:
        """The blocks each row holds `[B, J]`, and their positions `[B, S]`; rows with fewer are filled with −1."""
        rows = [[table[j] for j in sorted(table)] for table in pool.tables]
        widest = max(map(len, rows), default=0)
        padded = [row + [-1] * (widest - len(row)) for row in rows]
        read_BJ = torch.tensor(padded, dtype=torch.long, device=self.device).reshape(len(rows), widest)
        held_BJP = torch.where(read_BJ[..., None] >= 0, pool.positions_NP[read_BJ.clamp(min=0)], -1)
        return read_BJ.clamp(min=0), held_BJP.flatten(1)

    def positions(self, slot: int) -> Tensor:
        return self._step(slot).positions_BS

    def _step(self, slot: int) -> Step:
        step = self._pool(slot).step
        if step is None:
            raise RuntimeError("extend comes first in a forward")
        return step

    def write(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        step, held = self._step(slot), self._slots[slot]
        new = [self.codec.encode(x_BKTD) for x_BKTD in (k_BKTD, v_BKTD)]
        if step.joined:
            resident = self._gather(slot, step.read_BJ)
            k, v = (
                torch.cat((old, self.codec.decode(parts, self.dtype)), dim=2)
                for old, parts in zip(resident, new, strict=True)
            )
            self._joined[slot] = (k, v, self.plan.slots[slot].readers)
        sources, targets = step.copies
        for index, part in enumerate(held):
            if len(sources):
                part[:, targets] = part[:, sources]
            for side in (0, 1):
                part[side][step.blocks, :, step.offsets] = new[side][index][step.rows, :, step.tokens]

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        step = self._step(slot)
        if not step.joined:
            return self._gather(slot, step.read_BJ)
        k, v, left = self._joined.pop(slot)
        if left > 1:  # the last reader leaves nothing behind
            self._joined[slot] = (k, v, left - 1)
        return k, v

    def _gather(self, slot: int, read_BJ: Tensor) -> tuple[Tensor, Tensor]:
        parts = (part[:, read_BJ].transpose(2, 3).flatten(3, 4) for part in self._slots[slot])
        return self._decoded(tuple(parts))

    # Rows.

    def select(self, rows: Sequence[int]) -> None:
        self.next_positions_B = self.next_positions_B[torch.tensor(list(rows), dtype=torch.long, device=self.device)]
        for pool in self._pools.values():
            tables = [dict(pool.tables[row]) for row in rows]
            for block in (block for table in tables for block in table.values()):
                pool.blocks.share(block)
            self._drop_all(pool)
            pool.tables = tables
            pool.step = None
        self._grow(len(rows))

    def reset(self, batch: int) -> None:
        """Begin `batch` empty rows; what was published stays to be found, as long as its place is not needed."""
        self.next_positions_B = torch.zeros(batch, dtype=torch.long, device=self.device)
        for pool in self._pools.values():
            self._drop_all(pool)
            pool.tables, pool.step = [{} for _ in range(batch)], None
        self._grow(batch)

    @staticmethod
    def _drop_all(pool: Pool) -> None:
        for block in (block for table in pool.tables for block in table.values()):
            pool.blocks.drop(block)

    def _grow(self, batch: int) -> None:
        """Pools for that many rows; they do not shrink, for what is published may be wanted again."""
        for pool in self._pools.values():
            more = batch * pool.per_row - pool.blocks.count
            if more <= 0:
                continue
            pool.blocks.grow(batch * pool.per_row)
            empty = pool.positions_NP.new_full((more, self.block), -1)
            pool.positions_NP = torch.cat((pool.positions_NP, empty))
            for index, slot in enumerate(self.plan.slots):
                if slot.retention == pool.retention:
                    self._slots[index] = self._grown(slot, self._slots[index], more)

    def _grown(self, slot: Slot, parts: Parts, more: int) -> Parts:
        added = self._allocate(slot, more, slot.kv_heads, self.block)
        return tuple(torch.cat((old, new), dim=1) for old, new in zip(parts, added, strict=True))

    # Shared prefixes.

    def match(self, tokens: Sequence[int]) -> int:
        """How many of a text's first tokens published blocks hold: whole blocks, and short of the whole text, whose
        last token must be run to know what follows."""
        names = self._names(tokens[: max(0, len(tokens) - 1)])
        for pool in self._pools.values():
            if pool.retention[0] is None:  # needs them all: no more than the first that is missing
                names = list(itertools.takewhile(pool.blocks.holds, names))
        windowed = [pool for pool in self._pools.values() if pool.retention[0] is not None]
        for length in range(len(names) * self.block, 0, -self.block):
            wanted = ((pool, names[j]) for pool in windowed for j in pool.needed(length, self.block))
            if all(pool.blocks.holds(name) for pool, name in wanted):
                return length
        return 0

    def adopt(self, row: int, tokens: Sequence[int]) -> int:
        """Begin an empty row with the blocks that `match` finds; returns how many tokens they hold."""
        if any(pool.tables[row] for pool in self._pools.values()):
            raise RuntimeError(f"row {row} holds a text; only an empty row can adopt a prefix")
        length, names = self.match(tokens), self._names(tokens)
        for pool in self._pools.values():
            for j in pool.needed(length, self.block):
                found = pool.blocks.find(names[j])
                if found is None:
                    raise RuntimeError("a matched block is gone")
                pool.blocks.share(found)
                pool.tables[row][j] = found
        self.next_positions_B = self.next_positions_B.clone()
        self.next_positions_B[row] = length
        return length

    def publish(self, row: int, tokens: Sequence[int]) -> None:
        """Let the full blocks of a row, whose text these tokens are, be found by later rows.

        A slot with a window still has its last blocks only: publish while a text is read, where later rows are to go
        on from its middle.
        """
        if len(tokens) > int(self.next_positions_B[row]):
            raise RuntimeError(f"row {row} has read fewer tokens than the {len(tokens)} it is said to hold")
        for j, name in enumerate(self._names(tokens)):
            for pool in self._pools.values():
                block = pool.tables[row].get(j)
                if block is not None and self._full(pool, block, j):
                    pool.blocks.publish(name, block)

    def check(self) -> None:
        """Raise `RuntimeError` if a block is lost, leaked, or held by another count of rows than it says."""
        for pool in self._pools.values():
            pool.blocks.check(block for table in pool.tables for block in table.values())

    def _names(self, tokens: Sequence[int]) -> list[bytes]:
        """The name of every full block of a text."""
        names, parent = [], ROOT
        for end in range(self.block, len(tokens) + 1, self.block):
            parent = name_of(parent, tokens[end - self.block : end])
            names.append(parent)
        return names

    def _full(self, pool: Pool, block: int, j: int) -> bool:
        """Whether a block holds every position of its stretch: a long chunk leaves gaps before its window."""
        stretch = torch.arange(j * self.block, (j + 1) * self.block, device=self.device)
        return torch.equal(pool.positions_NP[block], stretch)

    def _take(self, slot: int, row: int, positions: Sequence[int]) -> Parts | None:
        pool = self._pool(slot)
        table = pool.tables[row]
        if any(p // self.block not in table for p in positions):
            return None
        blocks, offsets = self._index([(table[p // self.block], p % self.block) for p in positions], 2)
        if pool.positions_NP[blocks, offsets].tolist() != list(positions):
            return None
        return tuple(part[:, blocks, :, offsets].permute(1, 2, 0, 3).contiguous() for part in self._slots[slot])

    def _place(self, slot: int, row: int, positions: Sequence[int], parts: Parts) -> None:
        pool = self._pool(slot)
        table = pool.tables[row]
        fresh = [j for j in dict.fromkeys(p // self.block for p in positions) if j not in table]
        for j in fresh:
            table[j] = pool.blocks.take()
            pool.positions_NP[table[j]] = -1
        blocks, offsets = self._index([(table[p // self.block], p % self.block) for p in positions], 2)
        pool.positions_NP[blocks, offsets] = torch.tensor(positions, dtype=torch.long, device=self.device)
        for held, given in zip(self._slots[slot], parts, strict=True):
            for side in (0, 1):
                held[side][blocks, :, offsets] = given[side].transpose(0, 1)
