"""Keys and values of texts that come back: kept in memory, and on disk, under byte budgets.

Reuse is exact and only exact: an entry answers for the very tokens it was made from, from position 0 on, and for the
very numbers its `Make` computes.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, RLock
from typing import NamedTuple

import torch
from torch import Tensor

from openbook.lm.cache.codecs import Parts, codec_named
from openbook.lm.cache.plan import Plan
from openbook.lm.cache.stored import Folder, Wanted, size_of

UNWRITTEN_BYTES = 256 << 20
"""Entries that wait for the disk hold no more than this."""
READERS = min(4, os.cpu_count() or 1)
"""Entries that are read from disk at once."""
STAY_SECONDS = 0.1
"""How often who waits for an entry that another makes looks whether it is still wanted itself."""


class Prefix(NamedTuple):
    """The keys and values of one text of `length` tokens from position 0 on, as a codec wrote them.

    A tensor `[2, K, n, width]` a part and slot (keys, values): the n positions that its slot keeps (`Slot.kept`).
    With `links` it has no slots of its own: they are its stretches, each from where the one before ends, and every slot
    keeps all of it.
    """

    length: int
    codec: str
    slots: tuple[Parts, ...]
    links: tuple[Prefix, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes its tensors occupy."""
        return sum(part.nbytes for each in (self, *self.links) for parts in each.slots for part in parts)

    def whole(self) -> Prefix:
        """The same in one piece: a copy, where it has links."""
        if not self.links:
            return self
        alike = zip(*(link.slots for link in self.links), strict=True)
        slots = tuple(tuple(torch.cat(parts, dim=2) for parts in zip(*each, strict=True)) for each in alike)
        return Prefix(self.length, self.codec, slots)


def joined(links: Sequence[Prefix]) -> Prefix | None:
    """The text of these stretches, one after the other; nothing is copied."""
    return Prefix(sum(link.length for link in links), links[0].codec, (), tuple(links)) if links else None


@dataclass(frozen=True)
class Make:
    """Who computes a prefix, so far as it decides its bits: `name` (weights, precision, codec, arithmetic) and form.

    Two makes of one name compute the same bits from the same tokens.
    """

    name: str
    plan: Plan
    codec: str
    dtype: torch.dtype

    def wanted(self, length: int) -> Wanted:
        """Shape and dtype of every tensor of a prefix of that many tokens, slot by slot."""
        widths = codec_named(self.codec).widths
        return [
            ((2, slot.kv_heads, slot.columns(length), width), dtype)
            for slot in self.plan.slots
            for width, dtype in widths(slot.head_dim, self.dtype)
        ]

    def nbytes(self, length: int) -> int:
        """Bytes that a prefix of that many tokens takes on disk."""
        return size_of(self.wanted(length))

    def identity(self, tokens: Sequence[int]) -> bytes:
        """32 bytes that name these tokens as read by this make."""
        digest = hashlib.sha256(f"{self.name}\n{self.codec} {self.dtype} {len(tokens)}\n".encode())
        digest.update(array("q", tokens))
        return digest.digest()

    def prefix(self, tensors: Sequence[Tensor], length: int) -> Prefix | None:
        """The prefix of tensors as `wanted`; None if one holds no numbers, which no checksum of a forger tells."""
        codec = codec_named(self.codec)
        each = len(codec.widths(self.plan.slots[0].head_dim, self.dtype))
        slots = tuple(tuple(tensors[i : i + each]) for i in range(0, len(tensors), each))
        return Prefix(length, self.codec, slots) if all(codec.finite(parts, self.dtype) for parts in slots) else None


class PrefixStore:
    """Least recently used entries leave first, from memory (`budget` bytes) and from disk (`disk_budget` below `root`).

    What cannot be written, read or believed on disk is silently made again: a cache may be deleted at any time, and
    whoever can write a book's folder can write anything there. Nothing is kept on disk unless `make` says whose it is.
    Threads may share it: who asks for an entry that another is making waits for that one (`made`), so a text is read
    once and held once.
    """

    def __init__(self, budget: int, root: Path | None = None, disk_budget: int = 0, make: Make | None = None) -> None:
        self.budget = budget
        self.make = make
        self.disk = None
        if root is not None and make is not None:
            self.disk = Folder(root, re.sub(r"[^\w.+-]", "_", make.name), disk_budget)
        self._held: OrderedDict[str, Prefix] = OrderedDict()
        self._unwritten: dict[str, tuple[bytes, Prefix]] = {}
        self._bytes = self._unwritten_bytes = 0
        self._lock = RLock()  # of what is in memory
        self._writing = RLock()  # one thread at a time writes to disk
        self._making: dict[str, Event] = {}  # by key, what one thread makes; set when it is done, or has failed

    def heeding(self, stay: Callable[[], None]) -> PrefixStore:
        """This store, for one whose waiting may be cut short: `stay` raises where nobody wants its work any more."""
        return _Heeding(self, stay)

    def get(self, name: str, tokens: Sequence[int]) -> Prefix | None:
        """The entry made from these tokens under this name, or None."""
        return self.get_all([name], [tokens])[0]

    def get_all(self, names: Sequence[str], texts: Sequence[Sequence[int]]) -> list[Prefix | None]:
        """`get` of each; what is not in memory is read from disk side by side."""
        identities = [self._identity(tokens) for tokens in texts]
        keys = [_key(name, identity) for name, identity in zip(names, identities, strict=True)]
        with self._lock:
            found = [self._in_memory(key) for key in keys]
        absent = [i for i, prefix in enumerate(found) if prefix is None]
        if self.disk is not None and absent:

            def read(i: int) -> Prefix | None:
                return self._read(keys[i], identities[i], len(texts[i]))

            # Reading, the checksum and the look at the numbers all let go of Python's lock.
            with ThreadPoolExecutor(min(len(absent), READERS)) as pool:
                for i, prefix in zip(absent, pool.map(read, absent), strict=True):
                    found[i] = prefix if prefix is None else self._hold(keys[i], prefix)
        return found

    def made(self, name: str, tokens: Sequence[int], make: Callable[[], Prefix]) -> Prefix:
        """The entry, or what `make` makes and is then kept: by one thread, for all that ask for it meanwhile.

        Where `make` raises, the next who waits makes it."""
        key = _key(name, self._identity(tokens))
        while True:
            with self._lock:
                if (found := self._in_memory(key)) is not None:
                    return found
                if (others := self._making.get(key)) is None:
                    self._making[key] = done = Event()
                    break
            while not others.wait(STAY_SECONDS):
                self._stay()
        try:
            return self.put(name, tokens, make())
        finally:
            with self._lock:
                del self._making[key]
            done.set()

    def _stay(self) -> None:
        """Asked now and then while another is waited for."""

    def _in_memory(self, key: str) -> Prefix | None:
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        return self._unwritten[key][1] if key in self._unwritten else None

    def put(self, name: str, tokens: Sequence[int], prefix: Prefix) -> Prefix:
        """Keep the keys and values of these tokens. `name` says whose text it is, so that it can be forgotten.

        Returns what is kept: what another put there before, if one did."""
        identity = self._identity(tokens)
        key = _key(name, identity)
        with self._lock:
            prefix = self._hold(key, prefix)
            if self.disk is not None and self.disk.usable and key not in self._unwritten:
                self._unwritten[key] = identity, prefix
                self._unwritten_bytes += prefix.nbytes
            full = self._unwritten_bytes > min(self.budget, UNWRITTEN_BYTES)
        if full:
            self.flush()
        return prefix

    def flush(self) -> None:
        """Write what is not on disk yet; apart from `put`, so that nobody waits for the disk before an answer."""
        with self._writing:
            with self._lock:
                taken, self._unwritten, self._unwritten_bytes = self._unwritten, {}, 0
            if self.disk is not None and taken:
                for key, (identity, prefix) in taken.items():
                    self.disk.write(key, identity, [part for parts in prefix.slots for part in parts])
                self.disk.trim()

    def leave_disk(self) -> None:
        """Nothing of what is held reaches the disk after this, not even what another thread is about to write."""
        with self._writing, self._lock:
            self.disk = None
            self._unwritten, self._unwritten_bytes = {}, 0

    def on_disk(self, name: str, tokens: Sequence[int]) -> bool:
        """Whether the entry is on disk, as far as its size and header say."""
        if self.disk is None or self.make is None:
            return False
        identity = self._identity(tokens)
        return self.disk.holds(_key(name, identity), identity, self.make.wanted(len(tokens)))

    def save(self, name: str, tokens: Sequence[int], prefix: Prefix) -> bool:
        """Write an entry to disk alone, at once and without making room for it; False if it could not be."""
        if self.disk is None:
            return False
        identity = self._identity(tokens)
        return self.disk.write(_key(name, identity), identity, [part for parts in prefix.slots for part in parts])

    def _identity(self, tokens: Sequence[int]) -> bytes:
        return hashlib.sha256(array("q", tokens)).digest() if self.make is None else self.make.identity(tokens)

    def _hold(self, key: str, prefix: Prefix) -> Prefix:
        """Keep it in memory, where it fits; returns what is there, this one or another's."""
        with self._lock:
            if key in self._held:
                return self._held[key]
            if prefix.nbytes <= self.budget:
                self._held[key] = prefix
                self._bytes += prefix.nbytes
                while self._bytes > self.budget:
                    _, oldest = self._held.popitem(last=False)
                    self._bytes -= oldest.nbytes
        return prefix

    def _read(self, key: str, identity: bytes, length: int) -> Prefix | None:
        disk = self.disk  # which another thread may leave meanwhile
        if disk is None or self.make is None:
            return None
        tensors = disk.read(key, identity, self.make.wanted(length))
        return None if tensors is None else self.make.prefix(tensors, length)


class _Heeding(PrefixStore):
    """A store as one of its users has it: all it holds is the store's, the patience its own."""

    __slots__ = ("_heed",)  # not among what is shared

    def __init__(self, store: PrefixStore, stay: Callable[[], None]) -> None:
        self.__dict__ = store.__dict__
        self._heed = stay

    def _stay(self) -> None:
        self._heed()


def _key(name: str, identity: bytes) -> str:
    return f"{name}.{identity.hex()[:32]}"
