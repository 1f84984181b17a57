"""What rows hold of a pool of blocks, and what one forward does with it. Positions only; keys and values are elsewhere.

Shapes: B rows, T new tokens, N blocks of the pool, P positions a block, J blocks read a row, S = J·P keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from openbook.lm.cache.blocks import Blocks
from openbook.lm.cache.plan import Retention

Table = dict[int, int]
"""A row's blocks: which block of the pool covers its j-th stretch of P positions."""
Tokens = list[tuple[int, int]]
"""New tokens of a row: index in the forward, position."""


class Step(NamedTuple):
    """What one forward does with every slot of a pool: the blocks it copies (from, to), where it writes the new tokens
    that stay, and the blocks it reads, with the positions it reads.

    `joined`: it reads what was held *and then* the new, because keeping the new gives up some of the old.
    """

    copies: tuple[Tensor, Tensor]
    rows: Tensor
    tokens: Tensor
    blocks: Tensor
    offsets: Tensor
    read_BJ: Tensor
    positions_BS: Tensor
    joined: bool


class Pool:
    """The blocks that slots of one retention share: `per_row` of `size` positions for each of `batch` rows."""

    def __init__(self, retention: Retention, batch: int, per_row: int, size: int, device: torch.device) -> None:
        self.retention, self.per_row, self.size, self.device = retention, per_row, size, device
        self.blocks = Blocks(batch * per_row)
        self.positions_NP = torch.full((batch * per_row, size), -1, dtype=torch.long, device=device)
        self.tables: list[Table] = [{} for _ in range(batch)]
        self.step: Step | None = None
        self.readers = self._left = 0

    def was_read(self) -> None:
        """One of the `readers` of a forward less; after the last the step is forgotten, which no one needs any more."""
        self._left -= 1
        if self._left == 0:
            self.step = None

    @property
    def windowed(self) -> bool:
        """Whether it gives blocks back while a text goes on."""
        return self.retention[0] is not None

    def needs(self, j: int, length: int) -> bool:
        """Whether a text of this length still needs anything in its j-th stretch."""
        window, pinned = self.retention
        first = 0 if window is None else length - window
        return (j + 1) * self.size > first or j * self.size < pinned

    def needed(self, length: int) -> list[int]:
        """The blocks that a text of this length, whole blocks long, still needs."""
        return [j for j in range(length // self.size) if self.needs(j, length)]

    def turn(self, rows: Sequence[Tokens], positions_BT: Tensor) -> None:
        """Decide where the new tokens are kept, and what this forward reads."""
        self._left = self.readers
        joined = self.windowed and positions_BT.shape[1] > 1
        if joined:
            read_BJ, held_BS = self.held()
            held_BS = torch.cat((held_BS, positions_BT), dim=1)
        kept = [self._staying(row) for row in rows]
        for table, row in zip(self.tables, kept, strict=True):
            if row:
                self._give_back(table, row[-1][1] + 1)
        copies, fresh = self._own(kept)
        places = [
            (b, t, table[p // self.size], p % self.size, p)
            for b, (table, row) in enumerate(zip(self.tables, kept, strict=True))
            for t, p in row
        ]
        b, t, blocks, offsets, p = self.index(places, 5)
        sources, targets = self.index(copies, 2)
        self.positions_NP[self.index(fresh, 1)[0]] = -1
        self.positions_NP[targets] = self.positions_NP[sources]
        self.positions_NP[blocks, offsets] = p
        if not joined:
            read_BJ, held_BS = self.held()
        self.step = Step((sources, targets), b, t, blocks, offsets, read_BJ, held_BS, joined)

    def _staying(self, row: Tokens) -> Tokens:
        """The new tokens that outlive their own forward; blocks stay whole, to be shared."""
        return [(t, p) for t, p in row if self.needs(p // self.size, row[-1][1] + 1)]

    def _give_back(self, table: Table, length: int) -> None:
        """Drop the blocks that a text of this length no longer needs."""
        for j in [j for j in table if not self.needs(j, length)]:
            self.blocks.drop(table.pop(j))

    def _own(self, kept: Sequence[Tokens]) -> tuple[list[tuple[int, int]], list[tuple[int]]]:
        """Give every row blocks of its own to write to, new ones or copies of those it shares: copies, new ones."""
        copies: list[tuple[int, int]] = []
        fresh: list[tuple[int]] = []
        for table, row in zip(self.tables, kept, strict=True):
            for j in dict.fromkeys(p // self.size for _, p in row):
                held = table.get(j)
                if held is None:
                    table[j] = self.blocks.take()
                    fresh.append((table[j],))
                elif not self.blocks.writable(held):
                    table[j] = self.blocks.take()
                    self.blocks.drop(held)
                    copies.append((held, table[j]))
        return copies, fresh

    def held(self) -> tuple[Tensor, Tensor]:
        """The blocks each row holds `[B, J]`, and their positions `[B, S]`; rows with fewer are filled with −1."""
        rows = [[table[j] for j in sorted(table)] for table in self.tables]
        widest = max(map(len, rows), default=0)
        padded = [row + [-1] * (widest - len(row)) for row in rows]
        read_BJ = torch.tensor(padded, dtype=torch.long, device=self.device).reshape(len(rows), widest)
        held_BJP = torch.where(read_BJ[..., None] >= 0, self.positions_NP[read_BJ.clamp(min=0)], -1)
        return read_BJ.clamp(min=0), held_BJP.flatten(1)

    def find(self, row: int, positions: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Block and offset of these positions of a row; None if one is not there."""
        table = self.tables[row]
        if any(p // self.size not in table for p in positions):
            return None
        blocks, offsets = self.index([(table[p // self.size], p % self.size) for p in positions], 2)
        return (blocks, offsets) if self.positions_NP[blocks, offsets].tolist() == list(positions) else None

    def begin(self, row: int, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Room for these positions in a row: block and offset of each. Slots of one pool find the same."""
        table = self.tables[row]
        for j in dict.fromkeys(p // self.size for p in positions):
            if j not in table:
                table[j] = self.blocks.take()
                self.positions_NP[table[j]] = -1
        blocks, offsets = self.index([(table[p // self.size], p % self.size) for p in positions], 2)
        self.positions_NP[blocks, offsets] = torch.tensor(positions, dtype=torch.long, device=self.device)
        return blocks, offsets

    def evicts(self, row: int, length: int, count: int) -> bool:
        """Whether a row of this length gives up, with `count` tokens more, what it needs while it has fewer."""
        window, pinned = self.retention
        if window is None:
            return False
        stay = -(-pinned // self.size) * self.size  # what stands in a block with a pinned position stays with it
        least = max(length, stay + 1)  # of the lengths that it may go back to, the first with more than those
        oldest = max(stay, least - window)
        return least < length + count and not self.needs(oldest // self.size, length + count)

    def holds(self, row: int, length: int) -> bool:
        """Whether a row holds all that it needs when it is so long, which is no longer than it is."""
        window, pinned = self.retention
        oldest = length if window is None else max(pinned, length - window)
        return self.find(row, range(oldest, length)) is not None

    def cut(self, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Forget all rows' positions from these lengths on; the last block of a row that is not its alone is left to
        the others: the blocks to copy (from, to) instead."""
        copies: list[tuple[int, int]] = []
        last: list[tuple[int, int]] = []
        for table, length in zip(self.tables, lengths, strict=True):
            for j in sorted((j for j in table if j * self.size >= length), reverse=True):
                self.blocks.drop(table.pop(j))
            j, left = divmod(length, self.size)
            if left and j in table:
                if not self.blocks.writable(table[j]):
                    held = table[j]
                    self.blocks.drop(held)  # before another is taken: there may be no more than these
                    table[j] = self.blocks.take()
                    copies.append((held, table[j]))
                last.append((table[j], left))
        sources, targets = self.index(copies, 2)
        self.positions_NP[targets] = self.positions_NP[sources]
        for block, left in last:
            self.positions_NP[block, left:] = -1
        self.step = None
        return sources, targets

    def full(self, row: int, j: int) -> int | None:
        """The j-th block of a row if it holds every position of its stretch: a restored window may begin inside one."""
        block = self.tables[row].get(j)
        if block is None:
            return None
        stretch = list(range(j * self.size, (j + 1) * self.size))
        return block if self.positions_NP[block].tolist() == stretch else None

    def become(self, tables: list[Table]) -> int:
        """Have these rows instead; returns how many blocks the pool grew by."""
        for block in (block for table in tables for block in table.values()):
            self.blocks.share(block)
        for table in self.tables:
            for j in sorted(table, reverse=True):  # a block is found only after those before it: forget the last first
                self.blocks.drop(table[j])
        self.tables, self.step = tables, None
        more = max(0, len(tables) * self.per_row - self.blocks.count)
        self.blocks.grow(self.blocks.count + more)
        self.positions_NP = torch.cat((self.positions_NP, self.positions_NP.new_full((more, self.size), -1)))
        return more

    def check(self) -> None:
        """Raise `RuntimeError` if a block is lost, leaked, or held by another count of rows than it says."""
        self.blocks.check(block for table in self.tables for block in table.values())

    def index(self, columns: Sequence[tuple[int, ...]], count: int) -> tuple[Tensor, ...]:
        """Rows of `count` numbers as that many index tensors."""
        table = torch.tensor(columns, dtype=torch.long, device=self.device).reshape(-1, count)
        return table.unbind(1)
