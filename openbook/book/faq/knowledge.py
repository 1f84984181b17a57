"""A book's pairs, ready to be asked.

Shapes: N entries, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from openbook.book.documents import tidy
from openbook.book.embedder import Embedder
from openbook.book.faq import kept
from openbook.book.faq.entries import Entry, fold
from openbook.book.faq.fit import PRECISION, RIVALS, Fitted, best_and_lead, fit, same_in, threads
from openbook.book.faq.index import FEATURES, Asked, Index, texts_of
from openbook.book.faq.learn import judgements_of
from openbook.book.faq.pairs import MAX_QUESTION, key
from openbook.book.faq.read import pairs_of
from openbook.book.manifest import BookFault
from openbook.book.store import Book

EMBED_AT_ONCE = 64
LISTED = 64
"""Entries that a question is told of."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Match:
    """An entry for a question: its score, and the features that make it up, by name."""

    entry: Entry
    number: int
    score: float
    features: dict[str, float]


@dataclass(frozen=True)
class Matches:
    """What a question finds: entries, best first, those of one question together; how likely the first is right. The
    first `together` answer the same question, stored once or in other words by several sources."""

    matches: tuple[Match, ...]
    confidence: float
    together: int = 1

    @property
    def best(self) -> Match:
        """The first."""
        return self.matches[0]


@dataclass(frozen=True)
class Knowledge:
    """Entries and their index, weights and threshold; `find` asks them."""

    entries: tuple[Entry, ...]
    index: Index
    fitted: Fitted
    encoder: Embedder

    def find(self, question: str) -> Matches:
        """What the entries have for a question; `BookFault` where it is empty or longer than a question can be."""
        question = " ".join(tidy(question).split())
        if not question:
            raise BookFault("the question is empty; ask something")
        if len(question) > MAX_QUESTION:
            raise BookFault(f"the question has {len(question):,} characters; at most {MAX_QUESTION:,} are read")
        vector_M = np.asarray(self.encoder.embed([question])[0], np.float32)
        found = self.find_asked(Asked.of(question, vector_M))
        # The very words that are stored are no guess.
        exact = any(key(question) == key(own) for own in found.best.entry.questions)
        return replace(found, confidence=1.0) if exact else found

    def find_asked(self, asked: Asked) -> Matches:
        """The same for a question that was embedded already."""
        weights_K = self.fitted.weights_K
        found = self.index.find(asked, weights_K)
        scores_C = found.scores(weights_K)
        asked_C = self._threads_N[found.entries_C]
        order = np.lexsort((found.entries_C, -scores_C)).tolist()
        rank: dict[int, int] = {}
        for i in order:  # answers to one question stand together, where its best stands
            rank.setdefault(int(asked_C[i]), len(rank))
        places = sorted(order, key=lambda i: rank[int(asked_C[i])])[:LISTED]
        first = places[0]
        rest = np.array([i for i in places[1:] if asked_C[i] != asked_C[first]][:RIVALS], np.int64)
        same = same_in(self.index, found.entries_C)
        doubles = set(rest[same(first, rest)].tolist()) if len(rest) else set()
        places.sort(key=lambda i: 0 if asked_C[i] == asked_C[first] else 1 if i in doubles else 2)
        matches = tuple(
            Match(
                self.entries[found.entries_C[i]],
                int(found.entries_C[i]),
                float(scores_C[i]),
                dict(zip(FEATURES, found.features_CK[i].tolist(), strict=True)),
            )
            for i in places
        )
        sure = self.fitted.calibration.confidence(*best_and_lead(scores_C, asked_C, same))
        together = sum(asked_C[i] == asked_C[first] or i in doubles for i in places)
        return Matches(matches, sure, together)

    @cached_property
    def _threads_N(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        return threads(self.entries)


def open_knowledge(
    book: Book, encoder: Embedder | None = None, progress: Progress | None = None, precision: float = PRECISION
) -> Knowledge:
    """The pairs of a book at its version: their index, kept from before or made now. `BookFault` where it has none."""
    entries = fold(list(pairs_of(book)), judgements_of(book))
    if not entries:
        raise BookFault(
            f"{book.path} holds no questions with answers; add a file of them: "
            f"openbook faq --add FILE --book {book.path}"
        )
    encoder = book.encoder(encoder)
    name = kept.name_of(book, encoder, precision)
    found = kept.read(book.path, name, entries, encoder.width)
    if found is None:
        made = knowledge_of(entries, encoder, progress, precision, kept.vectors(book.path, encoder.width))
        kept.write(book, name, entries, made.index, made.fitted)
        return made
    return Knowledge(tuple(entries), *found, encoder)


def knowledge_of(
    entries: Sequence[Entry],
    encoder: Embedder,
    progress: Progress | None = None,
    precision: float = PRECISION,
    at_hand: dict[bytes, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] | None = None,
) -> Knowledge:
    """Entries, embedded, indexed and fitted; `at_hand` are vectors of texts by `kept.text_key`."""
    texts, at_hand = texts_of(entries), at_hand or {}
    vectors = {text: at_hand[k] for text in texts if (k := kept.text_key(text)) in at_hand}
    missing = [text for text in texts if text not in vectors]
    for at in range(0, len(missing), EMBED_AT_ONCE):
        if progress is not None:
            progress(at, len(missing), "questions and answers read")
        some = missing[at : at + EMBED_AT_ONCE]
        vectors.update(zip(some, np.asarray(encoder.embed(some), np.float32), strict=True))
    index = Index.of(entries, vectors, encoder.width)
    if missing and progress is not None:
        progress(len(missing), len(missing), "questions and answers read")
    return Knowledge(tuple(entries), index, fit(index, entries, encoder, precision), encoder)


def forget(book: Path) -> None:
    """Leave nothing in `faq/` of what the live version does not hold."""
    if not (book / kept.FOLDER).is_dir():
        return
    live = Book(book)
    entries = fold(list(pairs_of(live)), judgements_of(live))
    kept.retain(book, texts_of(entries), live.manifest.width or 0)
