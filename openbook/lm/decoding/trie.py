"""A vocabulary as a trie over bytes, laid out flat: a node is a range of the sorted spellings.

Tokens under a node stand side by side, so their probabilities are summed by one reduction over a range; nothing is
subtracted from a running sum, and a node of probability 1e-30 is as exact as any other.

Shapes: V tokens in the order of their spellings, C children of a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
MOST_NODES = 1 << 16
"""Nodes whose children are remembered."""


class Node(NamedTuple):
    """The tokens `low` up to `high` in sorted order, which all begin with the same `depth` bytes."""

    low: int
    high: int
    depth: int


class Inside(NamedTuple):
    """Where a node's tokens that go on begin (those before end here), and its children: a byte and a start each."""

    inner: int
    bytes_C: npt.NDArray[np.uint8]
    starts_C: npt.NDArray[np.int64]


class Trie:
    """Spellings of one byte or more; two may be equal. `order_V` are their indices in the sequence given, sorted."""

    def __init__(self, spellings: Sequence[bytes]) -> None:
        if not spellings or not all(spellings):
            raise ValueError("a trie holds spellings of one byte or more, and at least one")
        self.order_V = np.array(sorted(range(len(spellings)), key=spellings.__getitem__), dtype=np.int64)
        ordered = [spellings[i] for i in self.order_V]
        self._lengths_V = np.array([len(spelling) for spelling in ordered], dtype=np.int64)
        self._at_V = np.concatenate([[0], self._lengths_V.cumsum()[:-1]])
        self._bytes = np.frombuffer(b"".join(ordered), dtype=np.uint8)
        self._known: dict[Node, Inside] = {}
        self.root = Node(0, len(ordered), 0)

    def inside(self, node: Node) -> Inside:
        """What lies under a node."""
        found = self._known.get(node)
        if found is None:
            if len(self._known) >= MOST_NODES:
                self._known.clear()
            found = self._known[node] = self._look(node)
        return found

    def _look(self, node: Node) -> Inside:
        low, high, depth = node
        # A spelling comes before all that it begins: those that end here are the first of the range.
        inner = low + int((self._lengths_V[low:high] == depth).sum())
        next_ = self._bytes[self._at_V[inner:high] + depth]
        firsts = np.flatnonzero(np.diff(next_.astype(np.int16), prepend=-1))
        return Inside(inner, next_[firsts], firsts + inner)

    def child(self, node: Node, byte: int) -> Node | None:
        """The node one byte further; None where no token goes on so."""
        _, bytes_C, starts_C = self.inside(node)
        c = int(np.searchsorted(bytes_C, byte))
        if c == len(bytes_C) or bytes_C[c] != byte:
            return None
        high = int(starts_C[c + 1]) if c + 1 < len(starts_C) else node.high
        return Node(int(starts_C[c]), high, node.depth + 1)

    def ends(self, node: Node) -> range:
        """Sorted indices of the tokens that are spelled exactly so."""
        return range(node.low, self.inside(node).inner)

    def log_children(self, node: Node, log_p_V: Array) -> tuple[npt.NDArray[np.uint8], Array]:
        """The bytes that may follow and `log Σ p` of the tokens under each; `log_p_V` in sorted order."""
        inner, bytes_C, starts_C = self.inside(node)
        if not len(bytes_C):
            return bytes_C, np.zeros(0)
        inside_V = log_p_V[inner : node.high]
        top = inside_V.max()
        if top == -np.inf:
            return bytes_C, np.full(len(bytes_C), -np.inf)
        with np.errstate(divide="ignore"):
            sums_C: Array = np.log(np.add.reduceat(np.exp(inside_V - top), starts_C - inner)) + top
        return bytes_C, sums_C

    def log_inner(self, node: Node, log_p_V: Array) -> float:
        """`log Σ p` of the tokens that begin with this node's bytes and are longer."""
        inside_V = log_p_V[self.inside(node).inner : node.high]
        return float(np.logaddexp.reduce(inside_V)) if len(inside_V) else -np.inf
