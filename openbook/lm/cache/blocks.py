"""Who holds which block of a pool: reference counts, and full blocks found again by the text they hold.

A block is free (nobody's, nothing in it), held (by `references` rows), or idle: held by nobody but published, kept
until its place is needed. A published block is named by a hash of its tokens *and all before them*, so a name stands
for a whole prefix: the same tokens after another beginning have other keys. No tensors here: numbers only.

The contract:

* `take()` gives a block held once, free ones first, then the idle block that has waited longest, whose name is lost.
* `share(b)` adds a reference; `drop(b)` takes one. The last drop frees a block, or makes it idle if it is published.
* `publish(name, b)` makes a held block findable. The first block of a name stays; a second copy is not registered.
* `find(name)` tells the block of a name, held or idle; `share` it before anything else is taken.
* A block held more than once, or published, is never written to: whoever wants to writes to a copy.
* `check(held)` raises if the counts are not those of `held`, or a block is lost or in two states.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

ROOT = b""
"""The name of the empty prefix."""


def name_of(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The name of a block with these tokens after the prefix `parent`."""
    return hashlib.sha256(parent + b"|" + b",".join(b"%d" % token for token in tokens)).digest()


class Blocks:
    """The blocks 0 … count − 1 of a pool."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(reversed(range(count)))
        self._references: Counter[int] = Counter()
        self._named: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that `take` can still give."""
        return len(self._free) + len(self._idle)

    def grow(self, count: int) -> None:
        """Have `count` blocks in all."""
        self._free[:0] = reversed(range(self.count, count))
        self.count = max(self.count, count)

    def take(self) -> int:
        """A block for one new holder. Raises `RuntimeError` if there is none."""
        if self._free:
            block = self._free.pop()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            del self._named[self._names.pop(block)]
        else:
            raise RuntimeError(f"all {self.count} blocks are held; the pool was made too small for its rows")
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """One holder more."""
        self._idle.pop(block, None)
        self._references[block] += 1

    def drop(self, block: int) -> None:
        """One holder less."""
        if self._references[block] < 1:
            raise RuntimeError(f"block {block} is dropped, but nobody holds it")
        self._references[block] -= 1
        if self._references[block]:
            return
        del self._references[block]
        if block in self._names:
            self._idle[block] = None
        else:
            self._free.append(block)

    def writable(self, block: int) -> bool:
        """Whether its one holder may write to it."""
        return self._references[block] == 1 and block not in self._names

    def publish(self, name: bytes, block: int) -> None:
        """Let a held, full block be found by its name."""
        if self._references[block] < 1:
            raise RuntimeError(f"block {block} is published, but nobody holds it")
        if name not in self._named and block not in self._names:
            self._named[name] = block
            self._names[block] = name

    def find(self, name: bytes) -> int | None:
        """The block of this name."""
        return self._named.get(name)

    def holds(self, name: bytes) -> bool:
        """Whether a block of this name can be found."""
        return name in self._named

    def check(self, held: Iterable[int]) -> None:
        """Raise `RuntimeError` unless exactly these blocks are held, each as often as it occurs."""
        if Counter(held) != self._references:
            raise RuntimeError("reference counts are not those of the rows' tables")
        states = [*self._free, *self._idle, *self._references]
        if sorted(states) != list(range(self.count)):
            raise RuntimeError("a block is lost, or in two states")
        if {b: n for n, b in self._named.items()} != self._names or not set(self._idle) <= set(self._names):
            raise RuntimeError("published blocks and their names disagree")
