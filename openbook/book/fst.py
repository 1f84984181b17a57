"""Whether a word is in the dictionary of a full-text index: a reader of the `fst` crate's maps, version 3.

Lance keeps the words of an index compressed in a finite-state transducer, so they cannot be found by looking at its
bytes. Nodes lie before those that lead to them; one is read backwards from its last byte, the state:

    11iiiiii   one transition, to the node that ends just before
    10iiiiii   one transition: [output, address, sizes]
    0fnnnnnn   n transitions (0: a byte of its own says how many), f: a word may end here

`i` is one of the commonest bytes, or 0 and the byte follows. Layout: github.com/BurntSushi/fst, src/raw/node.rs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from openbook.book.manifest import BookFault

VERSION = 3
COMMON = b"te/oasripcnw.hlm-du012g=:bf3y5&_4v9678k%?xCDASFIBEjPTzRNM+LOqHG"
INDEXED = 32
"""Transitions above which a table of 256 bytes says where each byte is."""


@dataclass(frozen=True)
class _Node:
    final: bool
    inputs: bytes
    targets: tuple[int, ...]


class Dictionary:
    """The words of one index. `BookFault` from any call where the bytes are not such a dictionary."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 36 or int.from_bytes(data[:8], "little") != VERSION:
            raise BookFault("a full-text dictionary is of a version that cannot be read")
        self._data = data
        self.count = int.from_bytes(data[-20:-12], "little")
        self._root = int.from_bytes(data[-12:-4], "little")

    def __contains__(self, word: str) -> bool:
        node = self._node(self._root)
        for byte in word.encode():
            at = node.inputs.find(byte)
            if at < 0:
                return False
            node = self._node(node.targets[at])
        return node.final

    def __iter__(self) -> Iterator[str]:
        """Every word, in no order; more than `count` of them are a fault, not a loop."""
        left = self.count
        waiting = [(b"", self._root)]
        while waiting:
            word, address = waiting.pop()
            node = self._node(address)
            if node.final:
                if left == 0:
                    raise BookFault("a full-text dictionary is damaged: it holds more words than it says")
                left -= 1
                yield word.decode("utf-8", "replace")
            if len(word) < 1_000:
                waiting += [(word + bytes([b]), to) for b, to in zip(node.inputs, node.targets, strict=True)]
        if left:
            raise BookFault("a full-text dictionary is damaged: it holds fewer words than it says")

    def _node(self, address: int) -> _Node:
        if address == 0:
            return _Node(True, b"", ())
        if not 16 <= address < len(self._data) - 20:
            raise BookFault("a full-text dictionary is damaged: it points outside of itself")
        state = self._data[address]
        return self._many(address, state) if state < 0b10_000000 else self._one(address, state)

    def _one(self, address: int, state: int) -> _Node:
        common = state & 0b00_111111
        at = address - (0 if common else 1)
        byte = bytes([COMMON[common - 1] if common else self._data[at]])
        if state >= 0b11_000000:
            return _Node(False, byte, (at - 1,))
        width, output = self._data[at - 1] >> 4, self._data[at - 1] & 15
        end = at - 1 - width - output
        return _Node(False, byte, (self._target(at - 1 - width, width, end),))

    def _many(self, address: int, state: int) -> _Node:
        data, final, count, at = self._data, bool(state & 0b01_000000), state & 0b00_111111, address
        if count == 0:
            at -= 1
            count = data[at] if data[at] != 1 else 256  # 1 would have been told by the state
        at -= 1
        width, output = data[at] >> 4, data[at] & 15
        inputs = at - (256 if count > INDEXED else 0)
        targets = inputs - count
        end = targets - count * width - (count + final) * output
        letters = data[inputs - count : inputs][::-1]
        return _Node(final, letters, tuple(self._target(targets - (i + 1) * width, width, end) for i in range(count)))

    def _target(self, at: int, width: int, end: int) -> int:
        if at < 0 or not 1 <= width <= 8:
            raise BookFault("a full-text dictionary is damaged: a node lies outside of it")
        delta = int.from_bytes(self._data[at : at + width], "little")
        return end - delta if delta else 0
