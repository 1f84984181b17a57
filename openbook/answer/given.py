"""A text that others wrote, read under the passages of a book: who would have written it, and how readily.

The text stands where the model's answer would, after the question or a neutral one. Every sentence is looked up. The
passages found for a stretch of sentences, and the closed book, are the rows of one batch in which the whole stretch is
read at once, behind what stands before it in the text; a passage's keys are those that `ask` keeps.

Shapes: S sources (passages, then the closed book), T tokens of a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from openbook.book.retrieve import Hit
from openbook.book.sentences import sentences
from openbook.lm.tokenizer import Tokenizer
from openbook.mix.reading import Reader, passage_text
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, Branch
from openbook.mix.weights import Array

Span = tuple[int, int]

NEUTRAL = "What does the text say?"
"""What is asked where no question was given."""
STRETCH, BEFORE, ROWS = 192, 96, 24
"""Tokens of a stretch that is read at once; tokens of the text before it; passages that may be its rows."""
OTHERS = 0.1
"""Of a sentence's prior, what is shared by all passages of its stretch: "he" finds nothing, the sentence before did."""


@dataclass(frozen=True)
class Given:
    """A text as the model reads it: its tokens, and where each stands. Their places join to the text."""

    text: str
    ids: tuple[int, ...]
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, text: str) -> Given:
        """The text as its tokens spell it: what a tokenizer changes (a few normalise) is changed here too."""
        ids, stream = tokenizer.encode(text), tokenizer.stream()
        pieces = [stream.push(token) for token in ids]
        if pieces:
            pieces[-1] += stream.flush()
        ends = np.cumsum([len(piece) for piece in pieces]).tolist()
        return cls("".join(pieces), tuple(ids), tuple(zip([0, *ends[:-1]], ends, strict=True)) if ids else ())

    def sentences(self) -> list[tuple[Span, range]]:
        """Sentences and their tokens, in order, none left out; what is longer than a stretch counts as several."""
        found: list[tuple[Span, range]] = []
        first = 0
        for span in sentences(self.text, 0, len(self.text)):
            last = first
            while last < len(self.ids) and self.begins(last) < span[1]:
                last += 1
            for start in range(first, last, STRETCH):
                stop = min(start + STRETCH, last)
                whole = stop == last and start == first
                found.append((span if whole else (self.begins(start), self.spans[stop - 1][1]), range(start, stop)))
            first = last
        return found

    def begins(self, token: int) -> int:
        """Where a token's first character stands that is no white space."""
        start, end = self.spans[token]
        piece = self.text[start:end]
        return start + len(piece) - len(piece.lstrip())


@dataclass(frozen=True)
class SentenceRead:
    """A sentence: its place, its tokens, the passages that may have said it with their prior, and who said it how
    readily: natural logs `[T, S]`, the closed book last."""

    span: Span
    tokens: range
    hits: tuple[Hit, ...]
    log_prior_S: Array
    log_p_TS: Array


def read_given(reader: Reader, given: Given, question: str | None = None) -> Iterator[SentenceRead]:
    """Every sentence of the text, read under the passages found for it and its neighbours."""
    found = []
    for span, tokens in given.sentences():
        words = given.text[slice(*span)]
        hits = reader.find(f"{question} {words}" if question else words)[: reader.settings.passages]
        found.append(_Found(span, tokens, hits))
    for stretch in _stretches(found):
        yield from _read(reader, given, stretch, question)


@dataclass(frozen=True)
class _Found:
    span: Span
    tokens: range
    hits: Sequence[Hit]


def _stretches(found: Sequence[_Found]) -> Iterator[list[_Found]]:
    """Neighbouring sentences that can be read in one batch."""
    stretch: list[_Found] = []
    for one in found:
        rows = {hit.passage.id for other in [*stretch, one] for hit in other.hits}
        if stretch and (one.tokens.stop - stretch[0].tokens.start > STRETCH or len(rows) > ROWS):
            yield stretch
            stretch = []
        stretch.append(one)
    if stretch:
        yield stretch


def _read(reader: Reader, given: Given, stretch: list[_Found], question: str | None) -> Iterator[SentenceRead]:
    hits = list({hit.passage.id: hit for one in stretch for hit in one.hits}.values())
    branches = [Branch(Label(f"p{i}", "passage"), hit.passage.id, (passage_text(hit),)) for i, hit in enumerate(hits)]
    first, last = stretch[0].tokens.start, stretch[-1].tokens.stop
    before = max(0, first - BEFORE)
    rows = reader.branches(question or NEUTRAL, [*branches, CLOSED_BOOK], room=last - before)
    log_p_ST = rows.read_given(given.ids[before:last])[:, first - before :]
    for one in stretch:
        own = {hit.passage.id: hit.prior for hit in one.hits}
        total = sum(own.values()) or 1.0
        prior = [(1 - OTHERS) * own.get(hit.passage.id, 0.0) / total + OTHERS / len(hits) for hit in hits]
        here = slice(one.tokens.start - first, one.tokens.stop - first)
        yield SentenceRead(one.span, one.tokens, tuple(hits), np.log(prior), log_p_ST[:, here].T)
