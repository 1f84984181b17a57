"""Keys and values in blocks of a pool, which rows hold by reference: forks and equal beginnings cost nothing.

Shapes: B rows, T new tokens, N blocks of a pool, P positions a block, J blocks read a row, S = J·P keys, K key/value
heads, D head dimension. A slot's storage is `[2, N, K, P, D]`.

Slots of one retention share their tables: a row's block j covers positions j·P … j·P + P − 1. What a window has left
behind is given back, block by block; a row writes only to blocks that it alone holds, else to a copy (copy on write).

Beginnings are shared by what they say. The contract, over that of `openbook.lm.cache.blocks`:

* `publish(row, tokens)` lets the full blocks of a row be found by the text they hold.
* `match(tokens)` tells how many first tokens of a text could be found; it changes nothing.
* `adopt(row, tokens)` begins an empty row with them; the row then goes on at the first token that was not found.
* `reset(batch)` ends all rows. What was published stays until its place is needed: the longest unused goes first.
* `check()` raises if any of this has gone wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from openbook.lm.cache.blocks import ROOT, name_of
from openbook.lm.cache.codecs import Codec, Parts
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.places import Held, Places
from openbook.lm.cache.plan import Plan, Retention
from openbook.lm.cache.pools import Pool, Step, Table


class PagedCache(Cache):
    """Pools as large as every row needs at once; `block` positions a block.

    Where every slot has a window narrower than the capacity there is no end: a text may grow past it.
    """

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
                self._pools[slot.retention] = Pool(slot.retention, batch, per_row, block, device)
            self._pools[slot.retention].readers += slot.readers
            self._slots.append(self._allocate(slot, batch * per_row, slot.kv_heads, block))
        self._endless = all(pool.per_row * block < capacity for pool in self._pools.values())
        self._joined: dict[int, tuple[Tensor, Tensor, int]] = {}

    def _pool(self, slot: int) -> Pool:
        return self._pools[self.plan.slots[slot].retention]

    def _step(self, slot: int) -> Step:
        step = self._pool(slot).step
        if step is None:
            raise RuntimeError("extend comes first in a forward")
        return step

    def extend(self, positions_BT: Tensor) -> None:
        rows = [[(t, p) for t, p in enumerate(row) if p >= 0] for row in positions_BT.tolist()]
        if not self._endless:
            self._refuse_beyond(max((p + 1 for row in rows for _, p in row), default=0))
        self._joined.clear()
        for pool in self._pools.values():
            pool.turn(rows, positions_BT)
        self._advance(positions_BT)

    def positions(self, slot: int) -> Tensor:
        return self._step(slot).positions_BS

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
                part.index_copy_(1, targets, part.index_select(1, sources))  # by indices one block takes 7 ms
            for side in (0, 1):
                part[side][step.blocks, :, step.offsets] = new[side][index][step.rows, :, step.tokens]

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        step = self._step(slot)
        self._pool(slot).was_read()
        if not step.joined:
            return self._gather(slot, step.read_BJ)
        k, v, left = self._joined.pop(slot)
        if left > 1:  # the last reader leaves nothing behind
            self._joined[slot] = (k, v, left - 1)
        return k, v

    def _gather(self, slot: int, read_BJ: Tensor) -> tuple[Tensor, Tensor]:
        # Taken head by head, so that a row's blocks come to stand side by side and are copied once.
        parts = (part.transpose(1, 2)[:, :, read_BJ].flatten(3, 4).transpose(1, 2) for part in self._slots[slot])
        return self._decoded(tuple(parts))

    def held(self) -> list[Held]:
        made = []
        for retention, pool in self._pools.items():
            slots = tuple(i for i, slot in enumerate(self.plan.slots) if slot.retention == retention)
            blocks_BJ, positions_BS = pool.held()
            made.append(Held(slots, positions_BS, blocks_BJ, self.block))
        return made

    def places(self, columns: int) -> list[Places]:
        made = []
        for pool in self._pools.values():
            columns_BT = torch.full((self.batch, columns), -1, dtype=torch.long)
            if pool.step is not None:
                step = pool.step
                columns_BT[step.rows, step.tokens] = step.blocks * self.block + step.offsets
            made.append(Places(0, columns_BT, None if pool.step is None else pool.step.copies))
        return made

    def select(self, rows: Sequence[int]) -> None:
        self.next_positions_B = self.next_positions_B[torch.tensor(list(rows), dtype=torch.long, device=self.device)]
        self._become({retention: [dict(pool.tables[row]) for row in rows] for retention, pool in self._pools.items()})

    def reset(self, batch: int) -> None:
        """Begin `batch` empty rows; what was published stays to be found, as long as its place is not needed."""
        self.next_positions_B = torch.zeros(batch, dtype=torch.long, device=self.device)
        self._become({retention: [{} for _ in range(batch)] for retention in self._pools})

    def _become(self, tables: dict[Retention, list[Table]]) -> None:
        """Have these rows. Pools grow with them, but do not shrink: what is published may be wanted again."""
        more = {retention: pool.become(tables[retention]) for retention, pool in self._pools.items()}
        for index, slot in enumerate(self.plan.slots):
            if more[slot.retention]:
                added = self._allocate(slot, more[slot.retention], slot.kv_heads, self.block)
                held = zip(self._slots[index], added, strict=True)
                self._slots[index] = tuple(torch.cat((old, new), dim=1) for old, new in held)

    def match(self, tokens: Sequence[int]) -> int:
        """How many of a text's first tokens published blocks hold: whole blocks, and short of the whole text, whose
        last token must be run to know what follows."""
        names = self._names(tokens[: max(0, len(tokens) - 1)])
        for pool in self._pools.values():
            if not pool.windowed:  # needs them all: no more than before the first that is missing
                names = list(itertools.takewhile(pool.blocks.holds, names))
        windowed = [pool for pool in self._pools.values() if pool.windowed]
        for length in range(len(names) * self.block, 0, -self.block):
            if all(pool.blocks.holds(names[j]) for pool in windowed for j in pool.needed(length)):
                return length
        return 0

    def adopt(self, row: int, tokens: Sequence[int]) -> int:
        """Begin an empty row with the blocks that `match` finds; returns how many tokens they hold."""
        if any(pool.tables[row] for pool in self._pools.values()):
            raise RuntimeError(f"row {row} holds a text; only an empty row can adopt a prefix")
        length, names = self.match(tokens), self._names(tokens)
        for pool in self._pools.values():
            for j in pool.needed(length):
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
                block = pool.full(row, j)
                if block is not None:
                    pool.blocks.publish(name, block)

    def check(self) -> None:
        """Raise `RuntimeError` if a block is lost, leaked, or held by another count of rows than it says."""
        for pool in self._pools.values():
            pool.check()

    def _names(self, tokens: Sequence[int]) -> list[bytes]:
        """The name of every full block of a text."""
        names, parent = [], ROOT
        for end in range(self.block, len(tokens) + 1, self.block):
            parent = name_of(parent, tokens[end - self.block : end])
            names.append(parent)
        return names

    def evicts(self, count: int) -> bool:
        lengths = list(enumerate(self.next_positions_B.tolist()))
        return any(pool.evicts(row, length, count) for pool in self._pools.values() for row, length in lengths)

    def _cut(self, lengths_B: Tensor) -> None:
        lengths = list(enumerate(lengths_B.tolist()))
        if not all(pool.holds(row, length) for pool in self._pools.values() for row, length in lengths):
            raise ValueError("a window has moved on: what its latest tokens pushed out cannot be brought back")
        copies = {retention: pool.cut(lengths_B.tolist()) for retention, pool in self._pools.items()}
        for slot, held in zip(self.plan.slots, self._slots, strict=True):
            sources, targets = copies[slot.retention]
            for part in held:
                part.index_copy_(1, targets, part.index_select(1, sources))  # by indices one block takes 7 ms

    def _take(self, slot: int, row: int, positions: Sequence[int]) -> Parts | None:
        found = self._pool(slot).find(row, positions)
        if found is None:
            return None
        blocks, offsets = found
        return tuple(part[:, blocks, :, offsets].permute(1, 2, 0, 3).contiguous() for part in self._slots[slot])

    def _place(self, slot: int, row: int, positions: Sequence[int], parts: Parts) -> None:
        blocks, offsets = self._pool(slot).begin(row, positions)
        for held, given in zip(self._slots[slot], parts, strict=True):
            for side in (0, 1):
                held[side][blocks, :, offsets] = given[side].transpose(0, 1)
