"""The native backend: the same specs and the same caches as torch's, on a CPU, with weights as the file packs them.

One call runs all layers (kernels/ in C++). A cache's memory is read where it lies, and written when the forward is
done: a forward that fails leaves it as it was. Rows of different length and padding cost nothing: tokens are run as
one list. Shapes: B rows, T new tokens, V vocabulary, M width.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from operator import is_not
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.backends.native_build import Builder, Weight, unsupported
from openbook.lm.backends.native_tables import Tables
from openbook.lm.backends.runner import CHUNK, Hidden
from openbook.lm.backends.threads import threads as meant_threads
from openbook.lm.backends.threads import torch_rests
from openbook.lm.cache.codecs import Parts
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import AUTO, CacheSpec, make_cache, restore_cache
from openbook.lm.cache.plan import plan
from openbook.lm.cache.prefixes import Prefix
from openbook.lm.spec import ModelSpec, SpecError
from openbook.native import kernels

CPU = torch.device("cpu")
STORES = {("raw", torch.float32): 0, ("raw", torch.bfloat16): 1, ("int8", None): 2, ("int4", None): 3}


class NativeRunner:
    """A spec with packed weights on a CPU (see `Runner`). fp32 in and between layers, keys and values in `dtype`.

    Numbers do not depend on how many rows or (below `FEW` a row) new tokens stand in a batch, to the last bit.
    """

    batch_invariant = True

    def __init__(
        self,
        spec: ModelSpec,
        state: Iterable[tuple[str, Weight]],
        caching: CacheSpec = AUTO,
        *,
        precision: str = "auto",
        threads: int | None = None,
        isa: str = "",
    ) -> None:
        k, reason = kernels(), unsupported(spec)
        if k is None:
            raise Fault("the native kernels are not installed; build them (pip install ./kernels) or use backend torch")
        if reason is not None:
            raise SpecError(f"the native backend cannot run this model: {reason}; use backend torch")
        if caching.codec not in {name for name, _ in STORES}:
            raise SpecError(f"no native kernel reads keys under the codec {caching.codec}; use backend torch")
        self.spec, self.caching, self.device = spec, caching, CPU
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        self._plan = plan(spec) if spec.head else None
        if spec.head:
            make_cache(spec, caching, 1, 1, self.dtype, torch.device("meta"))  # refuses now what it cannot keep
        self.isa = isa or k.isas()[0]
        self.arithmetic = f"native-{k.__version__}-{self.isa}"  # what the bits of a prefix depend on
        with self.alone():  # weights are turned by torch a few rows at a time, too few to share
            builder = Builder(spec, state, precision)
            self._tables = Tables(spec, builder)
            self._engine = k.Engine(builder.model(), team(threads or meant_threads()), self.isa)
        self._turn = Lock()
        self._keys: weakref.WeakKeyDictionary[Cache, tuple[list[Parts], Any]] = weakref.WeakKeyDictionary()

    def alone(self) -> AbstractContextManager[None]:
        return torch_rests()

    def read_weights(self) -> tuple[int, float]:
        """Bytes of the weights that a token needs, and the seconds in which these threads only read them: no step can
        be quicker."""
        read: tuple[int, float] = self._engine.read_weights()
        return read

    def cache(self, prefixes: Sequence[Prefix | None], room: int) -> Cache:
        return restore_cache(self.spec, self.caching, prefixes, room, self.dtype, CPU)

    def forward(
        self,
        tokens_BT: Tensor,
        cache: Cache | None = None,
        *,
        positions_BT: Tensor | None = None,
        keep: slice | Sequence[int] = slice(None),
        tap_BTM: Tensor | None = None,
    ) -> Tensor:
        if not self.spec.head:
            raise ValueError("an encoder has no logits; ask for its hidden states")
        B, T = tokens_BT.shape
        kept = list(range(T)[keep]) if isinstance(keep, slice) else [range(T)[int(column)] for column in keep]
        logits_BTV = torch.empty(B, len(kept), self.spec.vocabulary)
        self._run(tokens_BT, positions_BT, cache, kept, logits_BTV, (None, tap_BTM))
        return logits_BTV

    def hidden(self, tokens_BT: Tensor, cache: Cache | None = None, *, positions_BT: Tensor | None = None) -> Hidden:
        """Hidden states of these tokens, whose keys are added to the cache; where a position is −1 they are 0."""
        found = Hidden(torch.zeros(*tokens_BT.shape, self.spec.width), torch.zeros(*tokens_BT.shape, self.spec.width))
        self._run(tokens_BT, positions_BT, cache, [], None, found)
        return found

    def encode(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """What an encoder makes of these texts, fp32 `[B, T, M]`; 0 where a position is −1."""
        hidden_BTM = torch.zeros(*tokens_BT.shape, self.spec.width)
        self._run(tokens_BT, positions_BT, None, [], None, (hidden_BTM, None))
        return hidden_BTM

    def read(self, tokens_BT: Tensor, cache: Cache, *, positions_BT: Tensor | None = None) -> Tensor:
        if positions_BT is None:
            positions_BT = cache.next_positions_B[:, None] + torch.arange(tokens_BT.shape[1])
        last = (tokens_BT.shape[1] - 1) // CHUNK * CHUNK
        for start in range(0, last, CHUNK):
            chunk = slice(start, start + CHUNK)
            self._run(tokens_BT[:, chunk], positions_BT[:, chunk], cache, [], None)
        return self.forward(tokens_BT[:, last:], cache, positions_BT=positions_BT[:, last:], keep=slice(-1, None))[:, 0]

    def prefill(self, text: Sequence[int]) -> Prefix:
        cache = make_cache(self.spec, replace(self.caching, layout="auto"), 1, len(text), self.dtype, CPU)
        tokens_1T = torch.tensor([list(text)])
        for start in range(0, len(text), CHUNK):
            self._run(tokens_1T[:, start : start + CHUNK], None, cache, [], None)
        return cache.prefix(0)

    def _run(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None,
        cache: Cache | None,
        kept: list[int],
        logits: Tensor | None,
        hidden: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> None:
        B, T = tokens_BT.shape
        tokens_BT = tokens_BT.to(torch.long).contiguous()
        given = positions_BT is not None
        if positions_BT is None:
            positions_BT = torch.empty(B, T, dtype=torch.long)
        else:
            positions_BT = positions_BT.to(torch.long).expand(B, T).contiguous()
        if cache is not None and cache.batch != B:
            raise ValueError(f"{B} rows of tokens for a cache of {cache.batch}")
        out = [0 if made is None else made.data_ptr() for made in (logits, *hidden)]
        at = tokens_BT.data_ptr(), positions_BT.data_ptr()
        next_B = 0 if cache is None else cache.next_positions_B.data_ptr()
        with self._turn:  # tables and the memory of a forward are the engine's
            try:  # before the cache counts them
                top = self._engine.ready(*at, given, next_B, B, T)
            except ValueError as error:
                raise Fault(str(error)) from error
            self._tables.cover(self._engine, top)
            keys = None if cache is None else self._before(cache)
            if cache is not None:
                cache.extend(positions_BT)
            try:
                self._engine.forward(B, T, *at, kept, *out, keys, int(self.dtype is torch.bfloat16))
            except ValueError as error:
                raise Fault(str(error)) from error
            if cache is not None:
                self._after(cache, keys, B, T)

    def _before(self, cache: Cache) -> Any:
        """The cache as the kernels see it, with what it holds now."""
        groups, parts, found = cache.held(), cache.parts, self._keys.get(cache)
        if found is None or any(map(is_not, found[0], parts)):
            # The parts themselves are kept beside what was seen of them: an id or an address may come back.
            found = (list(parts), self._seen(cache, groups))
            self._keys[cache] = found
        keys, next_B = found[1], cache.next_positions_B
        for index, held in enumerate(groups):
            positions_BS, blocks_BJ = held.positions_BS, held.blocks_BJ
            at = (0, 0) if blocks_BJ is None else (blocks_BJ.data_ptr(), blocks_BJ.shape[1])
            rows, columns = positions_BS.shape
            keys.hold(
                index,
                positions_BS.data_ptr(),
                rows,
                columns,
                positions_BS.stride(0),
                next_B.data_ptr(),
                *at,
                held.block,
            )
        return keys

    def _seen(self, cache: Cache, groups: Sequence[Any]) -> Any:
        kept_as = (cache.codec.name, cache.dtype if cache.codec.name == "raw" else None)
        if cache.plan != self._plan or cache.device != CPU or kept_as not in STORES:
            raise ValueError("this cache is another model's, or of numbers or on a device that no native kernel reads")
        keys = kernels().Keys(STORES[kept_as])
        group_of = {slot: index for index, held in enumerate(groups) for slot in held.slots}
        for index, (slot, parts) in enumerate(zip(cache.plan.slots, cache.parts, strict=True)):
            keys.add_slot(group_of[index], slot.kv_heads, slot.head_dim, [_strides(part) for part in parts])
        return keys

    def _after(self, cache: Cache, keys: Any, rows: int, count: int) -> None:
        """Put the new keys and values where the cache wants them."""
        block = getattr(cache, "block", 0)
        for index, places in enumerate(cache.places(count)):
            if places.copies is not None and len(places.copies[0]):
                self._copy(cache, index, places.copies)
            columns_BT = places.columns_BT
            keys.place(index, 0 if columns_BT is None else columns_BT.data_ptr(), places.start, rows, count, block)
        self._engine.commit(keys)

    @staticmethod
    def _copy(cache: Cache, group: int, copies: tuple[Tensor, Tensor]) -> None:
        sources, targets = copies
        for slot in cache.held()[group].slots:
            for part in cache.parts[slot]:
                part.index_copy_(1, targets, part.index_select(1, sources))  # by indices one block takes 7 ms


def _strides(part: Tensor) -> list[int]:
    """Address, and bytes from side to side, row to row, head to head, column to column, of `[2, X, K, C, width]`."""
    return [part.data_ptr(), *(stride * part.element_size() for stride in part.stride()[:4])]


@lru_cache(maxsize=8)
def team(threads: int) -> Any:
    """The threads that all native models of a process share, one team a count: they sleep while nobody calls."""
    return kernels().Team(threads)
