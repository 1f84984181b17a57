"""Forwards of the native engine: the parts of several texts at once, each over its own cache.

The kernels take all tokens as one list, so the weights are read once for all of them; only attention asks whose a token
is, and reads that text's cache where it lies. Shapes: B rows, T new tokens, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from operator import is_not
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.backends.native_tables import Tables
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.plan import Plan
from openbook.native import kernels

STORES = {("raw", torch.float32): 0, ("raw", torch.bfloat16): 1, ("int8", None): 2, ("int4", None): 3}


class Job:
    """What one text asks of a forward, and in the end what went wrong with it.

    `logits`: fp32 `[B, len(kept), V]` to write to; `hidden`, `tapped`: fp32 `[B, T, M]`; or None.
    """

    def __init__(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None,
        cache: Cache | None,
        kept: list[int],
        logits: Tensor | None,
        hidden: Tensor | None = None,
        tapped: Tensor | None = None,
    ) -> None:
        self.tokens_BT = tokens_BT.to(torch.long).contiguous()
        self.rows, self.columns = B, T = self.tokens_BT.shape
        self.given = positions_BT is not None
        if positions_BT is None:
            positions_BT = torch.empty(B, T, dtype=torch.long)
        self.positions_BT = positions_BT.to(torch.long).expand(B, T).contiguous()
        if cache is not None and cache.batch != B:
            raise ValueError(f"{B} rows of tokens for a cache of {cache.batch}")
        self.cache, self.kept = cache, kept
        self.logits, self.hidden, self.tapped = logits, hidden, tapped
        self.keys: Any = None
        self.part: Any = None
        self.error: Exception | None = None


class Forwards:
    """One engine, its tables, and what it has seen of the caches that it goes on in."""

    def __init__(self, engine: Any, tables: Tables, plan: Plan | None, dtype: torch.dtype) -> None:
        self._engine, self._tables, self._plan = engine, tables, plan
        self._store = int(dtype is torch.bfloat16)  # of what no cache keeps
        self._turn = Lock()
        self._seen: weakref.WeakKeyDictionary[Cache, tuple[list[Any], int, Any]] = weakref.WeakKeyDictionary()

    def run(self, jobs: Sequence[Job]) -> None:
        """Run all of them, or those that can be: what is wrong with one stands in its `error`, and leaves its cache as
        it was."""
        with self._turn:  # tables and the memory of a forward are the engine's
            alike: dict[tuple[int, int], list[Job]] = {}
            longest = 0
            caches: set[int] = set()
            for job in jobs:
                try:
                    store, top = self._begin(job, caches)
                except (Fault, ValueError) as error:
                    job.error = error
                    continue
                alike.setdefault((store, self._tables.reach(top)), []).append(job)
                longest = max(longest, top)
            for (store, reach), group in alike.items():
                self._tables.cover(self._engine, reach or longest)
                self._forward(group, store)

    def _begin(self, job: Job, caches: set[int]) -> tuple[int, int]:
        """Check a job and announce its tokens to its cache. Returns how its keys are stored, and its highest position
        and one."""
        cache, at = job.cache, (job.tokens_BT.data_ptr(), job.positions_BT.data_ptr())
        if cache is not None:
            if id(cache) in caches:
                raise ValueError("two parts of one forward go on in the same cache")
            caches.add(id(cache))
        try:  # before the cache counts them
            next_B = 0 if cache is None else cache.next_positions_B.data_ptr()
            top = self._engine.ready(*at, job.given, next_B, job.rows, job.columns)
        except ValueError as error:
            raise Fault(str(error)) from error
        self._tables.refuse(top)
        store = self._store
        if cache is not None:
            store, job.keys = self._before(cache)
            cache.extend(job.positions_BT)
        out = [0 if made is None else made.data_ptr() for made in (job.logits, job.hidden, job.tapped)]
        job.part = kernels().Part(job.rows, job.columns, *at, job.kept, *out, job.keys)
        return store, top

    def _forward(self, jobs: Sequence[Job], store: int) -> None:
        parts = [job.part for job in jobs]
        try:
            self._engine.forward(parts, store)
        except ValueError as error:
            for job in jobs:
                job.error = Fault(str(error))
            return
        for job in jobs:
            if job.cache is not None:
                self._after(job.cache, job.keys, job.rows, job.columns)
        self._engine.commit(parts)

    def _before(self, cache: Cache) -> tuple[int, Any]:
        """How the cache stores, and the cache as the kernels see it, with what it holds now."""
        groups, found = cache.held(), self._seen.get(cache)
        memory = [*cache.parts, *getattr(cache, "prefixes", ())]
        if found is None or len(memory) != len(found[0]) or any(map(is_not, found[0], memory)):
            # The parts themselves are kept beside what was seen of them: an id or an address may come back.
            found = (memory, *self._see(cache, groups))
            self._seen[cache] = found
        _, store, keys = found
        next_B = cache.next_positions_B.data_ptr()
        for index, held in enumerate(groups):
            positions_BS, blocks_BJ = held.positions_BS, held.blocks_BJ
            at = (0, 0) if blocks_BJ is None else (blocks_BJ.data_ptr(), blocks_BJ.shape[1])
            rows, columns = positions_BS.shape
            keys.hold(index, positions_BS.data_ptr(), rows, columns, positions_BS.stride(0), next_B, *at, held.block)
        return store, keys

    def _see(self, cache: Cache, groups: Sequence[Any]) -> tuple[int, Any]:
        kept_as = (cache.codec.name, cache.dtype if cache.codec.name == "raw" else None)
        if cache.plan != self._plan or cache.device.type != "cpu" or kept_as not in STORES:
            raise ValueError("this cache is another model's, or of numbers or on a device that no native kernel reads")
        keys = kernels().Keys(STORES[kept_as])
        group_of = {slot: index for index, held in enumerate(groups) for slot in held.slots}
        for index, (slot, parts) in enumerate(zip(cache.plan.slots, cache.parts, strict=True)):
            keys.add_slot(group_of[index], slot.kv_heads, slot.head_dim, [_strides(part) for part in parts])
        bases: dict[int, int] = {}
        for group, held in enumerate(groups):
            for row, prefix, column, count, position in held.begun:
                if id(prefix) not in bases:
                    bases[id(prefix)] = keys.add_base([[_beginning(part) for part in parts] for parts in prefix.slots])
                keys.begin(group, row, bases[id(prefix)], column, count, position)
        return STORES[kept_as], keys

    @staticmethod
    def _after(cache: Cache, keys: Any, rows: int, count: int) -> None:
        """Say where the cache wants the new keys and values."""
        block = getattr(cache, "block", 0)
        for index, places in enumerate(cache.places(count)):
            if places.copies is not None and len(places.copies[0]):
                _copy(cache, index, places.copies)
            columns_BT = places.columns_BT
            keys.place(index, 0 if columns_BT is None else columns_BT.data_ptr(), places.start, rows, count, block)


def _copy(cache: Cache, group: int, copies: tuple[Tensor, Tensor]) -> None:
    sources, targets = copies
    for slot in cache.held()[group].slots:
        for part in cache.parts[slot]:
            part.index_copy_(1, targets, part.index_select(1, sources))  # by indices one block takes 7 ms


def _beginning(part: Tensor) -> list[int]:
    """As `_strides`, of a prefix's `[2, K, n, width]`."""
    side, head, column, _ = part.stride()
    size = part.element_size()
    return [part.data_ptr(), side * size, 0, head * size, column * size]


def _strides(part: Tensor) -> list[int]:
    """Address, and bytes from side to side, row to row, head to head, column to column, of `[2, X, K, C, width]`."""
    return [part.data_ptr(), *(stride * part.element_size() for stride in part.stride()[:4])]
