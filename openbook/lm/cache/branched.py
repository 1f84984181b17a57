"""Rows that begin with texts kept elsewhere: those are read where they lie, and only what follows is a row's own.

Many branches of many requests stand after the same passages. Each passage's keys and values are there once, in the
`Prefix` that the passage cache holds, however many rows begin with it; a row's own memory begins after it. So a request
that comes copies nothing, and one that goes frees only what it has read itself.

Shapes: B rows, T new tokens, C columns of what rows have of their own, P positions of a beginning, S = P + C keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.cache.codecs import Codec, Parts
from openbook.lm.cache.dense import DenseCache
from openbook.lm.cache.places import Begun, Held, Places
from openbook.lm.cache.plan import Plan
from openbook.lm.cache.prefixes import Prefix, joined


class BranchedCache(DenseCache):
    """A rectangle of `capacity` columns for what follows, and in front of it each row's prefix, or nothing."""

    def __init__(
        self, plan: Plan, codec: Codec, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(plan, codec, batch, capacity, dtype, device)
        self.prefixes: list[Prefix | None] = [None] * batch
        retentions = [slot.retention for slot in plan.slots]
        self._groups = [tuple(i for i, r in enumerate(retentions) if r == kind) for kind in dict.fromkeys(retentions)]
        self._stretches: list[list[Begun]] | None = None  # of each group, until prefixes change

    def restore(self, row: int, prefix: Prefix) -> None:
        """Begin an empty row with a prefix, which is kept as it is: nothing is copied, unless its codec is another."""
        if int(self.next_positions_B[row]):
            raise RuntimeError(f"row {row} holds a text; only an empty row can begin with a prefix")
        if prefix.links and any(slot.window is not None for slot in self.plan.slots):
            raise ValueError("a text in stretches begins a row only where every slot keeps all positions")
        self._stretches = None
        self.prefixes[row] = joined(tuple(map(self._as_stored, prefix.links))) or self._as_stored(prefix)
        self.next_positions_B[row] = prefix.length

    def _as_stored(self, prefix: Prefix) -> Prefix:
        """A prefix under this cache's codec: itself, unless that is another."""
        slots = tuple(self._recoded(parts, prefix.codec) for parts in prefix.slots)
        pairs = zip(slots, prefix.slots, strict=True)
        same = all(a is b for mine, its in pairs for a, b in zip(mine, its, strict=True))
        return prefix if same else Prefix(prefix.length, self.codec.name, slots)

    def _begins(self, slot: int, row: int) -> list[int]:
        """The positions that a slot has of what a row begins with."""
        prefix = self.prefixes[row]
        return [] if prefix is None else self.plan.slots[slot].kept(prefix.length)

    def positions(self, slot: int) -> Tensor:
        rows = [self._begins(slot, row) for row in range(self.batch)]
        widest = max(map(len, rows), default=0)
        begun_BP = torch.tensor([row + [-1] * (widest - len(row)) for row in rows], dtype=torch.long)
        return torch.cat((begun_BP.reshape(self.batch, widest).to(self.device), super().positions(slot)), dim=1)

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        widest = max((len(self._begins(slot, row)) for row in range(self.batch)), default=0)
        whole = []
        for index, held in enumerate(self._slots[slot]):
            begun = held.new_zeros(*held.shape[:3], widest, held.shape[-1])
            for row, prefix in enumerate(self.prefixes):
                if prefix is not None:
                    part = prefix.whole().slots[slot][index]
                    begun[:, row, :, : part.shape[2]] = part
            whole.append(torch.cat((begun, held[:, :, :, : self.length]), dim=3))
        return self._decoded(tuple(whole))

    def held(self) -> list[Held]:
        if self._stretches is None:
            self._stretches = [self._begun(slots[0]) for slots in self._groups]
        own_BC = self._positions_BC[:, : self.length]
        pairs = zip(self._groups, self._stretches, strict=True)
        return [Held(slots, own_BC, begun=stretches) for slots, stretches in pairs]

    def _begun(self, slot: int) -> list[Begun]:
        """Of every row that begins with something, the stretches that a slot has of it."""
        made = []
        for row, prefix in enumerate(self.prefixes):
            kept = self._begins(slot, row)
            if prefix is None or not kept:
                continue
            if prefix.links:
                ends = accumulate(link.length for link in prefix.links)
                pairs = zip(prefix.links, ends, strict=True)
                made += [Begun(row, link, 0, link.length, end - link.length) for link, end in pairs]
                continue
            # From 0 on, and where a window has left some behind, again from there on.
            apart = next((i for i, position in enumerate(kept) if position != i), len(kept))
            stretches = [kept[:apart], kept[apart:]]
            made += [Begun(row, prefix, kept.index(s[0]), len(s), s[0]) for s in stretches if s]
        return made

    def places(self, columns: int) -> list[Places]:
        return [Places(self._start)] * len(self._groups)

    def select(self, rows: Sequence[int]) -> None:
        super().select(rows)
        self.prefixes, self._stretches = [self.prefixes[row] for row in rows], None

    def _cut(self, lengths_B: Tensor) -> None:
        begun = [0 if prefix is None else prefix.length for prefix in self.prefixes]
        if any(length < least for length, least in zip(lengths_B.tolist(), begun, strict=True)):
            raise ValueError("a row cannot go back into the text that it began with")
        super()._cut(lengths_B)

    def _take(self, slot: int, row: int, positions: Sequence[int]) -> Parts | None:
        own_C = self._positions_BC[row, : self.length]
        columns = torch.nonzero(own_C >= 0)[:, 0]
        there = [*self._begins(slot, row), *own_C[columns].tolist()]
        at = {position: index for index, position in enumerate(there)}
        if any(position not in at for position in positions):
            return None
        index = torch.tensor([at[position] for position in positions], dtype=torch.long, device=self.device)
        own = tuple(part[:, row].index_select(2, columns) for part in self._slots[slot])
        prefix = self.prefixes[row]
        if prefix is not None:
            own = tuple(
                torch.cat((begun, part), dim=2) for begun, part in zip(prefix.whole().slots[slot], own, strict=True)
            )
        return tuple(part.index_select(2, index) for part in own)

    def _place(self, slot: int, row: int, positions: Sequence[int], parts: Parts) -> None:
        raise Fault("a branched cache keeps prefixes as they are")


def branched_cache(
    plan: Plan, codec: Codec, prefixes: Sequence[Prefix | None], room: int, dtype: torch.dtype, device: torch.device
) -> BranchedCache:
    """A cache whose row b begins with `prefixes[b]` (None: with nothing), with room for that many tokens more."""
    cache = BranchedCache(plan, codec, len(prefixes), room, dtype, device)
    for row, prefix in enumerate(prefixes):
        if prefix is not None:
            cache.restore(row, prefix)
    return cache
