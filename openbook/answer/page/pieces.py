"""The stretches of an answer's text, and the one ink that a word has.

A model writes a word in parts: "In" and "grid", of which the first has most of the bits. Bits are differences of
log-probabilities, so those of a word are the sum over its parts; its colour is the source of the part with most. A sign
is a word of its own, inked only after an inked word, and so is a piece of a script without spaces. The law is the
page's too (web/src/lib/reading.ts).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from openbook.answer.page.sources import Source
from openbook.answer.palette import level

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f"
    "\U00020000-\U0003ffff]"
)
"""Han, Hiragana, Katakana, Thai, Lao, Khmer and Myanmar."""


@dataclass(frozen=True)
class Citation:
    """The `index`-th citation of the answer: which source, and where its sign stands in the answer's text."""

    index: int
    source: Source
    end: int
    responsibility: float | None


@dataclass(frozen=True)
class Piece:
    """A stretch of the answer: one token, or the tokens that make one character together, or text no token covers."""

    text: str
    tokens: range = range(0)
    bits: float | None = None
    source: Source | None = None
    citations: tuple[Citation, ...] = ()
    doubted: bool = False
    share: float = 0.0
    ink: int | None = None

    @property
    def level(self) -> int:
        """How strongly the piece is inked in its source's colour: as its word is (`ink`), else by its own bits; 0 where
        the book added next to nothing.

        What a committee writes has no bits over a closed book: there it is the member's share.
        """
        if self.ink is not None:
            return self.ink
        if self.source is not None and self.source.model and self.bits is None:
            return 1 + int(4 * self.share)
        return level(self.bits) if self.source else 0

    @property
    def lead(self) -> str:
        """The white space before the word, which is not underlined."""
        return self.text[: len(self.text) - len(self.text.lstrip())]

    @property
    def word(self) -> str:
        return self.text.lstrip() or ""


def inked(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The pieces, each in its word's ink."""
    before = 0  # the ink of the word before
    for word in _words(pieces):
        one = inked_word(word, before)
        before = one[0].level
        yield from one


def goes_on(before: Piece, piece: Piece) -> bool:
    """Whether a piece is of the word of the piece before it."""
    return _spelt(before) and before.text[-1:].strip() != "" and _spelt(piece) and not piece.lead


def inked_word(word: Sequence[Piece], before: int) -> list[Piece]:
    """The pieces of a word in one ink; `before` is that of the word before."""
    known = [piece for piece in word if piece.bits is not None]
    strongest = max(known, key=lambda piece: piece.bits or 0.0, default=word[0])
    if strongest.bits is None and strongest.source is not None:
        return list(word)  # a committee's: each has its member's share
    total = sum(piece.bits or 0.0 for piece in known)
    ink = level(total) if strongest.source is not None and known else 0
    if not before and not any(map(_says, word[0].word)):
        ink = 0  # a dot alone would be no word to look at
    return [replace(piece, ink=ink, source=strongest.source or piece.source) for piece in word]


def _words(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    word: list[Piece] = []
    for piece in pieces:
        if word and not goes_on(word[-1], piece):
            yield word
            word = []
        word.append(piece)
    if word:
        yield word


def _spelt(piece: Piece) -> bool:
    return any(map(_says, piece.word)) and not UNSPACED.search(piece.word)


def _says(character: str) -> bool:
    """Whether it is more than a sign."""
    return not character.isspace() and not unicodedata.category(character).startswith("P")
