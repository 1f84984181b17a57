"""What texts begin with, kept between them: who begins as another did reads on from where they part.

Kept are blocks of `BLOCK` tokens, each under the hash of all tokens up to its end (vLLM's prefix caching, Kwon 2023,
section 4.3): so texts that begin alike hold what they share once, and nobody is given the keys of another text. Rows
read a block where it lies (`openbook.lm.cache.branched`); one that leaves goes when the last row that reads it goes.
Blocks that were read at once lie one after the other in a *stretch*, whose memory is freed when all of them have left:
thirty blocks of 64 tokens apart made a written token a sixth slower than one stretch of 2,000.

**What is written does not depend on what is kept**, to the last bit. Natively a token's numbers are the same however
the text before it was cut, as long as it is read with `FEW` tokens or more, and its keys do not depend on what comes
after. So only what was read so is kept, and a text is not begun so late that its end would be read with fewer. What
was *written*, token by token, has other last bits than the same text read: the next turn of a conversation reads it.
Where that does not hold nothing is kept: windows that leave positions behind, rotary tables that follow the text's
length, layouts that somebody chose, and torch, whose sums follow the shape of the batch.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from threading import Condition
from typing import NamedTuple

import torch
from torch import Tensor

from openbook.lm.backends.runner import CHUNK, FEW, Runner
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.plan import plan
from openbook.lm.cache.prefixes import STAY_SECONDS, Prefix, joined

BLOCK = 64
"""Tokens that are kept together. It divides `CHUNK`, so texts are cut there whatever is kept."""
BUDGET = 256 << 20
"""Bytes."""
STRETCHES = 8
"""The budget holds at least so many, so that a long text leaves bit by bit."""
BLOCKS = 1 << 14
"""However small they are."""


class Started(NamedTuple):
    """A text that was read: its cache, the scores `[1, V]` of what comes next, how many of its tokens were kept."""

    cache: Cache
    scores_1V: Tensor
    found: int


@dataclass(eq=False)
class Stretch:
    """Blocks that were read at once, and how many of them are kept."""

    prefix: Prefix
    left: int = 0


class Place(NamedTuple):
    """Where a block is: the n-th of a stretch."""

    stretch: Stretch
    at: int


class Beginnings:
    """Blocks of one model's texts, in memory alone. Those that were read or found longest ago leave first, the last of
    a text before its first.

    Threads may share it: who wants a block that another is reading waits for it. `budget` 0: nothing is kept.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self.read_tokens = self.found_tokens = self.nbytes = 0
        self._held: OrderedDict[bytes, Place] = OrderedDict()
        self._being_read: set[bytes] = set()
        self._changed = Condition()  # and the lock of all of it

    def stats(self) -> dict[str, int]:
        """Tokens read and tokens found since the beginning; bytes kept now."""
        return {"read_tokens": self.read_tokens, "found_tokens": self.found_tokens, "kept_bytes": self.nbytes}

    def start(self, runner: Runner, tokens: Sequence[int], room: int) -> Started:
        """Read a text, but for what is kept of its beginning, into a cache with `room` for so many tokens more.

        Raises what the runner raises: then nothing of it is kept that was not read.
        """
        found = 0
        if self.budget and reusable(runner):
            cache, scores_1V, found = self._start(runner, tokens, room)
        else:
            cache = runner.cache([None], len(tokens) + room)
            scores_1V = runner.read(torch.tensor([list(tokens)]), cache)
        with self._changed:
            self.read_tokens += len(tokens) - found
            self.found_tokens += found
        return Started(cache, scores_1V, found)

    def _start(self, runner: Runner, tokens: Sequence[int], room: int) -> Started:
        names = _names(tokens)
        stay = getattr(runner, "stay", lambda: None)  # a seat's: raises where nobody wants this text any more
        links, claimed = self._claim(names, _most(len(tokens)) // BLOCK, stay)
        try:
            found = sum(link.length for link in links)
            cache = runner.cache([joined(links)], len(tokens) - found + room)
            return Started(cache, self._read(runner, tokens, found, cache, names), found)
        finally:
            self._release(claimed)

    def _read(self, runner: Runner, tokens: Sequence[int], found: int, cache: Cache, names: Sequence[bytes]) -> Tensor:
        """Read on in the pieces in which the whole text would be read; scores of the last token."""
        tokens_1T, last = torch.tensor([list(tokens)]), (len(tokens) - 1) // CHUNK * CHUNK
        start = found
        while start < last:
            stop = (start // CHUNK + 1) * CHUNK
            runner.forward(tokens_1T[:, start:stop], cache, keep=[])
            self._keep(names[: stop // BLOCK], start, cache, found)
            start = stop
        scores_1V = runner.forward(tokens_1T[:, start:], cache, keep=slice(-1, None))[:, 0]
        self._keep(names, start, cache, found)
        return scores_1V

    def _claim(self, names: Sequence[bytes], most: int, stay: Callable[[], None]) -> tuple[list[Prefix], set[bytes]]:
        """A text's blocks that are kept, at most `most`, and the names of those that this thread is now to read."""
        with self._changed:
            while True:
                kept = next((i for i, name in enumerate(names[:most]) if name not in self._held), most)
                if kept == most or names[kept] not in self._being_read:
                    break
                self._changed.wait(STAY_SECONDS)
                stay()
            self._touch(names[:kept])
            claimed = {name for name in names[kept:] if name not in self._held} - self._being_read
            self._being_read |= claimed
            places = [self._held[name] for name in names[:kept]]
        alike = groupby(places, lambda place: place.stretch)
        return [_cut(stretch.prefix, [place.at for place in some]) for stretch, some in alike], claimed

    def _release(self, claimed: set[bytes]) -> None:
        with self._changed:
            self._being_read -= claimed
            self._changed.notify_all()

    def _keep(self, names: Sequence[bytes], start: int, cache: Cache, found: int) -> None:
        """Keep the text's blocks of these names from `start` on. The cache's own memory begins after `found` tokens."""
        with self._changed:
            first = next((i for i, n in enumerate(names) if i * BLOCK >= start and n not in self._held), len(names))
        size = BLOCK * cache.plan.bytes_per_token(cache.codec, cache.dtype)
        most = max(1, self.budget // STRETCHES // size)
        cuts = [range(i, min(i + most, len(names))) for i in range(first, len(names), most)]
        made = [Stretch(_copy(cache, cut.start * BLOCK - found, len(cut) * BLOCK)) for cut in cuts]
        with self._changed:
            for cut, stretch in zip(cuts, made, strict=True):
                self._put(names[cut.start : cut.stop], stretch)
            self._touch(names)
            while self.nbytes > self.budget or len(self._held) > BLOCKS:
                self._drop()
            self._being_read.difference_update(names)
            self._changed.notify_all()

    def _put(self, names: Sequence[bytes], stretch: Stretch) -> None:
        """Keep the blocks of a stretch, but for those that another put there meanwhile."""
        places = {name: Place(stretch, at) for at, name in enumerate(names) if name not in self._held}
        stretch.left = len(places)
        self._held.update(places)
        self.nbytes += stretch.prefix.nbytes if places else 0

    def _drop(self) -> None:
        _, (stretch, _) = self._held.popitem(last=False)
        stretch.left -= 1
        self.nbytes -= 0 if stretch.left else stretch.prefix.nbytes

    def _touch(self, names: Sequence[bytes]) -> None:
        """These were used just now; the first last, for without it the others are of no use."""
        for name in reversed(names):
            if name in self._held:
                self._held.move_to_end(name)


def reusable(runner: Runner) -> bool:
    """Whether a text that goes on from kept blocks is, to the last bit, the text read whole."""
    spec = runner.spec
    ropes = [layer.attention.rope for layer in spec.layers]
    return (
        runner.batch_invariant
        and runner.caching.layout == "auto"
        and all(slot.window is None for slot in plan(spec).slots)
        and not any(rope and rope.scaling and rope.scaling.name in ("dynamic", "longrope") for rope in ropes)
    )


def _most(length: int) -> int:
    """How much of a text of this length may be kept, a multiple of `BLOCK`: what then is read last is read with `FEW`
    tokens or more, or else alone with as few as the whole text's last piece has."""
    most = (length - 1) // BLOCK * BLOCK
    return most if length - most >= FEW or most % CHUNK == 0 else most - BLOCK


def _names(tokens: Sequence[int]) -> list[bytes]:
    """Of each whole block the hash of the text up to its end; SHA-256, for a collision would be another's text."""
    names, digest = [], hashlib.sha256()
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        digest.update(array("q", tokens[start : start + BLOCK]))
        names.append(digest.digest())
    return names


def _copy(cache: Cache, column: int, count: int) -> Prefix:
    """A copy of these columns of the first row's own."""
    own = slice(column, column + count)
    return Prefix(count, cache.codec.name, tuple(tuple(p[:, 0, :, own].clone() for p in s) for s in cache.parts))


def _cut(prefix: Prefix, blocks: Sequence[int]) -> Prefix:
    """These blocks of a stretch, which follow each other, where they lie."""
    count = len(blocks) * BLOCK
    if count == prefix.length:
        return prefix
    own = slice(blocks[0] * BLOCK, blocks[0] * BLOCK + count)
    return Prefix(count, prefix.codec, tuple(tuple(part[:, :, own] for part in parts) for parts in prefix.slots))
