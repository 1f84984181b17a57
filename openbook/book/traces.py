"""What a document leaves where it was: its sentences, its rarer words, its ids and vectors; and finding them in bytes.

Shapes: N needles, P positions of the bytes searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.book.sentences import sentences

SHORTEST = 16
"""Bytes of a needle: shorter ones turn up in other bytes by chance."""
PIECE = 96
"""Characters after which a long sentence is searched in pieces, so that a part that was left is found too."""
VECTOR_BYTES = 32
"""So much of a vector is searched for: eight numbers."""
AT_ONCE = 1 << 22
WORD = re.compile(r"\w{3,}")


class Needles:
    """Byte strings, searched for all at once: each position's first sixteen bytes are looked up in a sorted list."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self.needles = sorted({needle for needle in needles if len(needle) >= SHORTEST})
        self.longest = max(map(len, self.needles), default=0)
        heads_N2 = np.frombuffer(b"".join(needle[:SHORTEST] for needle in self.needles), dtype="<u8").reshape(-1, 2)
        keys_N = _key(heads_N2[:, 0], heads_N2[:, 1])
        self._order_N = np.argsort(keys_N, kind="stable")
        self._keys_N = keys_N[self._order_N]
        self._begins = np.zeros(1 << 24, dtype=bool)  # by eight bytes: nearly all positions are done with here
        self._begins[_slot(heads_N2[:, 0])] = True

    def __bool__(self) -> bool:
        return bool(self.needles)

    def within(self, data: bytes | memoryview) -> set[bytes]:
        """Which of the needles occur in `data`."""
        found: set[bytes] = set()
        view = memoryview(data)
        for start in range(0, len(view) if self.needles else 0, AT_ONCE):
            found |= self._within(bytes(view[start : start + AT_ONCE + self.longest]))
        return found

    def _within(self, data: bytes) -> set[bytes]:
        found: set[bytes] = set()
        length, data = len(data), data + bytes(16)
        for shift in range(8):
            heads_P = np.frombuffer(data, dtype="<u8", count=(len(data) - shift) // 8, offset=shift)
            some = np.flatnonzero(self._begins[_slot(heads_P[:-1])])
            keys = _key(heads_P[some], heads_P[some + 1])
            first = np.searchsorted(self._keys_N, keys, side="left")
            last = np.searchsorted(self._keys_N, keys, side="right")
            hits = np.flatnonzero(first < last)
            for at, a, b in zip(some[hits].tolist(), first[hits].tolist(), last[hits].tolist(), strict=True):
                for i in range(a, b):
                    needle = self.needles[self._order_N[i]]
                    if needle not in found and data.startswith(needle, at * 8 + shift, length):
                        found.add(needle)
        return found


def _key(low: npt.NDArray[np.uint64], high: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Sixteen bytes as one number; two that differ may share it, so what is found is compared."""
    key: npt.NDArray[np.uint64] = low * np.uint64(0x9E3779B97F4A7C15) ^ high
    return key


def _slot(heads: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Eight bytes hashed to 24 bits (Fibonacci hashing)."""
    slot: npt.NDArray[np.int64] = (heads * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(40)).view(np.int64)
    return slot


@dataclass
class Traces:
    """What to look for. `names` and `paths` of documents, their ids and passages' ids, texts, and heads of vectors.

    `words` are those of the texts, case folded; `unshare` takes away what another document has too.
    """

    names: dict[str, str] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)
    passages: set[str] = field(default_factory=set)
    sentences: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    vectors: set[bytes] = field(default_factory=set)

    @property
    def documents(self) -> list[str]:
        """Ids of the documents, by which all else names them."""
        return sorted(self.names)

    def read(self, text: str) -> None:
        """Take a text's sentences and words."""
        self.sentences |= set(pieces(text))
        self.words |= words(text)

    def unshare(self, others: Iterable[Sequence[str]]) -> int:
        """Given other documents' texts, some at a time: what they have too is no trace. How many sentences that is."""
        mine, shared = Needles(s.encode("utf-8", "replace") for s in self.sentences), set[bytes]()
        for texts in others:
            text = "\n".join(texts)
            self.words.difference_update(WORD.findall(text.casefold()))
            shared |= mine.within(text.encode("utf-8", "replace"))
        self.sentences -= {needle.decode() for needle in shared}
        self.__dict__.pop("needles", None)
        return len(shared)

    @cached_property
    def needles(self) -> Needles:
        """Everything that is searched for in bytes, from now on."""
        ids = (id.encode() for id in (*self.names, *self.passages))
        return Needles([*(s.encode("utf-8", "replace") for s in self.sentences), *ids, *self.vectors])

    def named(self, value: Any) -> bool:
        """Whether plain JSON values hold a name, a path or an id of the documents, as a whole string."""
        if isinstance(value, str):
            return value in self.strings
        if isinstance(value, Mapping):
            return any(self.named(k) or self.named(v) for k, v in value.items())
        return isinstance(value, list) and any(map(self.named, value))

    @cached_property
    def strings(self) -> frozenset[str]:
        """Names, paths and ids: what names the documents as a whole string."""
        return frozenset([*self.names, *self.names.values(), *self.paths, *self.passages])


def pieces(text: str) -> Iterator[str]:
    """What is searched for of a text: its sentences, a line at a time, the long ones in pieces."""
    for start, end in sentences(text, 0, len(text)):
        for line in text[start:end].splitlines():
            line = line.strip()
            parts = (line[at : at + PIECE] for at in range(0, len(line), PIECE)) if len(line) > PIECE else (line,)
            yield from (part for part in parts if len(part.encode("utf-8", "replace")) >= SHORTEST)


def words(text: str) -> set[str]:
    """The words of a text, case folded; numbers are not words."""
    return {word for word in set(WORD.findall(text.casefold())) if not word.isdigit()}


def strings(value: Any) -> Iterator[str]:
    """Every string in plain JSON values, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def heads(vectors_NM: npt.NDArray[np.float32]) -> set[bytes]:
    """The beginning of each vector's bytes; one of zeros alone is nobody's."""
    rows = np.ascontiguousarray(vectors_NM[:, : VECTOR_BYTES // 4], dtype="<f4")
    return {row.tobytes() for row in rows if row.any()}
