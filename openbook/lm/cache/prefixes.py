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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
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


class Prefix(NamedTuple):
    """The keys and values of one text of `length` tokens from position 0 on, as a codec wrote them.

    A tensor `[2, K, n, width]` a part and slot (keys, values): the n positions that its slot keeps (`Slot.kept`).
    """

    length: int
    codec: str
    slots: tuple[Parts, ...]

    @property
    def nbytes(self) -> int:
        """Bytes its tensors occupy."""
        return sum(part.nbytes for parts in self.slots for part in parts)


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

    def get(self, name: str, tokens: Sequence[int]) -> Prefix | None:
        """The entry made from these tokens under this name, or None."""
        return self.get_all([name], [tokens])[0]

    def get_all(self, names: Sequence[str], texts: Sequence[Sequence[int]]) -> list[Prefix | None]:
        """`get` of each; what is not in memory is read from disk side by side."""
        identities = [self._identity(tokens) for tokens in texts]
        keys = [_key(name, identity) for name, identity in zip(names, identities, strict=True)]
        found = [self._in_memory(key) for key in keys]
        absent = [i for i, prefix in enumerate(found) if prefix is None]
        if self.disk is not None and absent:

            def read(i: int) -> Prefix | None:
                return self._read(keys[i], identities[i], len(texts[i]))

            # Reading, the checksum and the look at the numbers all let go of Python's lock.
            with ThreadPoolExecutor(min(len(absent), READERS)) as pool:
                for i, prefix in zip(absent, pool.map(read, absent), strict=True):
                    found[i] = prefix
                    if prefix is not None:
                        self._hold(keys[i], prefix)
        return found

    def _in_memory(self, key: str) -> Prefix | None:
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        return self._unwritten[key][1] if key in self._unwritten else None

    def put(self, name: str, tokens: Sequence[int], prefix: Prefix) -> None:
        """Keep the keys and values of these tokens. `name` says whose text it is, so that it can be forgotten."""
        identity = self._identity(tokens)
        key = _key(name, identity)
        self._hold(key, prefix)
        if self.disk is not None and self.disk.usable:
            self._unwritten[key] = identity, prefix
            self._unwritten_bytes += prefix.nbytes
            if self._unwritten_bytes > min(self.budget, UNWRITTEN_BYTES):
                self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet; apart from `put`, so that nobody waits for the disk before an answer."""
        if self.disk is not None and self._unwritten:
            for key, (identity, prefix) in self._unwritten.items():
                self.disk.write(key, identity, [part for parts in prefix.slots for part in parts])
            self.disk.trim()
        self._unwritten.clear()
        self._unwritten_bytes = 0

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

    def _hold(self, key: str, prefix: Prefix) -> None:
        if prefix.nbytes > self.budget or key in self._held:
            return
        self._held[key] = prefix
        self._bytes += prefix.nbytes
        while self._bytes > self.budget:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= oldest.nbytes

    def _read(self, key: str, identity: bytes, length: int) -> Prefix | None:
        if self.disk is None or self.make is None:
            return None
        tensors = self.disk.read(key, identity, self.make.wanted(length))
        return None if tensors is None else self.make.prefix(tensors, length)


def _key(name: str, identity: bytes) -> str:
    return f"{name}.{identity.hex()[:32]}"
