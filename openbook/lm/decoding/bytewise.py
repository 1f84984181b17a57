"""A language model over tokens read as one over bytes: exact, by summing over every tokenisation of the text so far.

    P(b) = Σ of p(t_1 … t_k) over the token sequences whose text begins with b and without t_k would be shorter than b
    p(x | b) = P(bx) / P(b),        p(end | b) = Σ of p(t) p(end | t) over the t that spell exactly b, / P(b)

(Vieira 2024, arXiv 2412.03719; Phan 2024, arXiv 2410.09303.) The tokens of the text are not those that a tokenizer
would choose: the sum is over all, as the model itself would write them. To take the first token's bytes, or only the
tokenizer's own tokens, would leak what the others hold. Tokens that spell nothing and end nothing (control tokens)
cannot be part of a text: the distribution is that of the others, renormalised at each token.

A live tokenisation is whole tokens that spell a beginning of b and a place in the trie that spells its rest. There are
exponentially many, and nearly all the mass is in a few. What is cut (beyond the `width` heaviest, or with a share
under `least`) becomes *unknown* mass. It is guessed to go on with any byte or the end alike, which keeps everything
normalised and nothing impossible. Without cuts nothing is guessed. Of P(b) two bounds are known at any time: at least
what is live; at most that and all that was ever cut, at the mass it had.

Shapes: V tokens in the trie's order; 257 what may come next: a byte, or `END`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from openbook.errors import Fault
from openbook.lm.decoding.trie import Array, Node, Trie

END = 256
"""What stands beside the bytes: the text is over."""
CHOICES = 257
EVEN = -float(np.log(CHOICES))
PATIENCE = 8
"""Bytes for which what was begun anew may hold less than what is guessed: guesses soon fall behind."""


class Next(NamedTuple):
    """What may follow a row, natural logs that sum to 1: tokens in the trie's order, the end, and what is not told."""

    trie: Trie
    log_p_V: Array
    log_end: float
    log_rest: float = -np.inf


class Tokens(Protocol):
    """Rows that read whole tokens. `merges`: a row is known by its text alone, so those of equal text are one.

    What it took so far: tokens of prompts `read`, and tokens of texts (`written`).
    """

    merges: bool
    read: int
    written: int

    def first(self) -> Next:
        """What may follow where the text begins: of one row."""

    def follow(self, parents: Sequence[int], tokens: Sequence[int | None]) -> list[Next]:
        """Row n goes on from row `parents[n]` of before with `tokens[n]` (in its trie's order; None: it waits).

        What may follow those that read, in their order.
        """

    def again(self, text: bytes) -> tuple[Next, float | None] | None:
        """Begin anew with one row that holds this text in the tokenizer's own tokens, and log p of those tokens.

        log p is None where nobody tells: then what is unknown is taken for it. None where it cannot.
        """


@dataclass(frozen=True)
class Live:
    """A tokenisation: `log_w` of its whole tokens; the node that its next token has reached; log mass there."""

    next: Next
    log_w: float
    node: Node
    log_mass: float


class Bytewise:
    """The distribution of the next byte, and its state under the bytes read so far.

    `log_lower` and `log_upper` bound log P of what was read; `unknown` is the share of the mass that is guessed;
    `tokens` are the rows that read.
    """

    def __init__(self, tokens: Tokens, *, width: int = 16, least: float = 1e-5) -> None:
        if width < 1 or not 0 <= least < 1:
            raise Fault(f"{width} tokenisations of a share of {least} or more; give 1 or more, and from 0 to below 1")
        self.tokens, self._width, self._least = tokens, width, least
        self._text = bytearray()
        first = tokens.first()
        self._live = [Live(first, 0.0, first.trie.root, _known(first))]
        self._log_unknown = self._log_cut = first.log_rest
        self._began = 0

    @property
    def width(self) -> int:
        """Tokenisations that are live."""
        return len(self._live)

    @property
    def log_lower(self) -> float:
        """log of the mass that is known: P(b) is no less."""
        return float(np.logaddexp.reduce([-np.inf, *(live.log_mass for live in self._live)]))

    @property
    def log_upper(self) -> float:
        """P(b) is no more, wherever what was cut went."""
        return min(0.0, float(np.logaddexp(self.log_lower, self._log_cut)))

    @property
    def unknown(self) -> float:
        """The share of the next distribution that is guessed."""
        total = np.logaddexp(self.log_lower, self._log_unknown)
        return float(np.exp(self._log_unknown - total)) if total > -np.inf else 1.0

    def log_known(self) -> Array:
        """log of the known mass `[257]` of every byte and the end, as shares of all mass: without what is guessed."""
        log_m = np.full(CHOICES, -np.inf)
        for live in self._live:
            trie, log_p_V, log_end, _ = live.next
            bytes_C, sums_C = trie.log_children(live.node, log_p_V)
            log_m[bytes_C] = np.logaddexp(log_m[bytes_C], sums_C + live.log_w)
            if live.node == trie.root:
                log_m[END] = np.logaddexp(log_m[END], log_end + live.log_w)
        total = np.logaddexp(self.log_lower, self._log_unknown)
        return log_m - total if total > -np.inf else log_m

    def log_p(self) -> Array:
        """log p `[257]` of the next byte, or the end."""
        share = self.unknown
        if share == 0:
            return self.log_known()
        guessed: Array = np.logaddexp(self.log_known(), np.log(share) + EVEN)
        return guessed

    def step(self, byte: int) -> None:
        """Read a byte; after an `END` nothing is known any more."""
        if byte == END:
            self._live = []
            return
        self._text.append(byte)
        going: list[tuple[int, Live]] = []
        ended: list[tuple[int, int, float]] = []
        for row, live in enumerate(self._live):
            trie, log_p_V = live.next.trie, live.next.log_p_V
            node = trie.child(live.node, byte)
            if node is None:
                continue
            ended += [(row, token, live.log_w + float(log_p_V[token])) for token in trie.ends(node)]
            if (log_inner := trie.log_inner(node, log_p_V)) > -np.inf:
                going.append((row, replace(live, node=node, log_mass=live.log_w + log_inner)))
        self._log_unknown += EVEN
        if self.tokens.merges and ended:
            ended = [(*ended[0][:2], float(np.logaddexp.reduce([log_w for _, _, log_w in ended])))]
        self._go_on(going, [e for e in ended if e[2] > -np.inf])

    def _go_on(self, going: list[tuple[int, Live]], ended: list[tuple[int, int, float]]) -> None:
        """Cut, and read the tokens that are whole now in all that are left, in one forward."""
        masses = np.array([*(live.log_mass for _, live in going), *(log_w for _, _, log_w in ended)])
        kept = self._kept(masses)
        self._cut(masses[np.setdiff1d(np.arange(len(masses)), kept)])
        stay = [going[i] for i in kept if i < len(going)]
        read = [ended[i - len(going)] for i in kept if i >= len(going)]
        found: list[Next] = []
        if stay or read:
            parents = [*(row for row, _ in stay), *(row for row, _, _ in read)]
            found = self.tokens.follow(parents, [*(None for _ in stay), *(token for _, token, _ in read)])
        self._live = [live for _, live in stay]
        for next_, (_, _, log_w) in zip(found, read, strict=True):
            self._live.append(Live(next_, log_w, next_.trie.root, log_w + _known(next_)))
            self._cut(np.array([log_w + next_.log_rest]))
        if self.unknown > 0.5 and (not self._live or len(self._text) - self._began >= PATIENCE):
            self._begin_again()

    def _kept(self, masses: Array) -> Array:
        """Indices, in order, of the masses that are not cut."""
        if not len(masses):
            return np.zeros(0, dtype=np.int64)
        order = np.argsort(-masses, kind="stable")[: self._width]
        total = np.logaddexp(np.logaddexp.reduce(masses), self._log_unknown)
        if self._least > 0:
            order = order[masses[order] >= np.log(self._least) + total]
        return np.sort(order)

    def _cut(self, masses: Array) -> None:
        for log_mass in masses:
            self._log_unknown = float(np.logaddexp(self._log_unknown, log_mass))
            self._log_cut = float(np.logaddexp(self._log_cut, log_mass))

    def _begin_again(self) -> None:
        """What was cut turned out to be most of it: go on from the tokenizer's own tokens, whose mass is exact."""
        self._began, text, rest = len(self._text), bytes(self._text), b""
        while text:
            try:
                text.decode()
                break
            except UnicodeDecodeError as error:  # a character that is not whole is spelled by the trie
                rest, text = text[error.start :] + rest, text[: error.start]
        found = self.tokens.again(text)
        if found is None:
            return
        next_, log_w = found
        node: Node | None = next_.trie.root
        for byte in rest:
            node = None if node is None else next_.trie.child(node, byte)
        self._cut(np.array([live.log_mass for live in self._live]))
        self._live = []
        if log_w is None:
            log_w, self._log_unknown = self._log_unknown, -np.inf
            self._cut(np.array([log_w + next_.log_rest]))
        if node is not None:
            log_mass = _known(next_) if not rest else next_.trie.log_inner(node, next_.log_p_V)
            self._live = [Live(next_, log_w, node, log_w + log_mass)]


def _known(next_: Next) -> float:
    """log of what is told of a whole distribution: 0 where all is."""
    return 0.0 if next_.log_rest == -np.inf else float(np.log1p(-np.exp(next_.log_rest)))
