"""The question somebody already answered: the answer on file, or none; and what else might have been meant."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from openbook.answer.answer import plain
from openbook.book.embedder import Embedder
from openbook.book.faq.entries import Entry
from openbook.book.faq.fit import Calibration
from openbook.book.faq.knowledge import Knowledge, Match, open_knowledge
from openbook.book.faq.pairs import key
from openbook.book.store import Book

RELATED = 3
POOL = 30
"""Questions that related ones are chosen of: the best after the answer."""
RELEVANCE = 0.7
"""λ of maximal marginal relevance (Carbonell 1998): the rest is what a question must not have in common with others."""
ALSO = 3
"""Other answers to the same question that are told."""
LEAST = 0.4
"""Share of the best score from which on a question is related at all."""


@dataclass(frozen=True)
class Reply:
    """A stored answer to a question, or an abstention: then `match` is what came nearest, and is not the answer.

    `confidence` is how likely the match is right; answered is from `calibration.threshold` on. `also` are other answers
    to the same question: stored beside it, or by another source in other words.
    """

    question: str
    abstained: bool
    confidence: float
    match: Match
    related: tuple[Match, ...]
    calibration: Calibration
    also: tuple[Match, ...] = ()
    book: dict[str, Any] = field(default_factory=dict)
    milliseconds: float = 0.0

    @property
    def text(self) -> str:
        """The answer as it is on file; empty where it abstained."""
        return "" if self.abstained else self.match.entry.pair.answer

    @property
    def reason(self) -> str | None:
        """Why there is no answer."""
        if not self.abstained:
            return None
        return (
            f"no stored question is near enough: the nearest is right with a confidence of {self.confidence:.2f}, "
            f"{self.calibration.threshold:.2f} is asked for"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON: what an answer has (docs/faq.md), with the pair as its one source."""
        pair = self.match.entry.pair
        source = _source(self.match, "f1", 0.0 if self.abstained else 1.0)
        others = [_source(match, f"f{i}", 0.0) for i, match in enumerate(self.also, 2)]
        cited = {"span": [0, len(self.text)], "source": "f1", "source_span": source["span"], "cited_text": pair.answer}
        told: dict[str, Any] = {
            "question": self.question,
            "answer": self.text,
            "abstained": self.abstained,
            "reason": self.reason,
            "confidence": self.confidence,
            "book": self.book,
            "sources": [source, *others],
            "citations": [] if self.abstained else [cited],
            "also": [{**_related(match), "answer": match.entry.pair.answer} for match in self.also],
            "related": [_related(match) for match in self.related],
            "calibration": self.calibration.to_dict(),
            "timings": {"answer_ms": self.milliseconds},
        }
        made: dict[str, Any] = plain(told)
        return made


def _source(match: Match, name: str, responsibility: float) -> dict[str, Any]:
    pair = match.entry.pair
    return {
        "id": name,
        "kind": "faq",
        "pair": pair.id,
        "document": pair.document,
        "title": pair.title,
        "line": pair.line,
        "span": [pair.answer_start, pair.answer_end],
        "text": pair.answer,
        "questions": list(match.entry.questions),
        "score": match.score,
        "features": match.features,
        "responsibility": responsibility,
    }


def _related(match: Match) -> dict[str, Any]:
    pair = match.entry.pair
    place = {"document": pair.document, "line": pair.line}
    return {"question": pair.questions[0], "pair": pair.id, **place, "score": match.score}


def reply(
    question: str,
    knowledge: Knowledge,
    *,
    related: int = RELATED,
    threshold: float | None = None,
    book: Book | None = None,
) -> Reply:
    """The stored answer to a question; `threshold` instead of the calibrated one. `Fault` for an empty question."""
    began = time.perf_counter()
    found = knowledge.find(question)
    least = knowledge.fitted.calibration.threshold if threshold is None else threshold
    also = found.matches[1 : found.together]
    chosen = near(knowledge, (found.best, *found.matches[found.together :]), related)
    seen = {} if book is None else {"path": str(book.path), "version": book.version}
    return Reply(
        question=question,
        abstained=found.confidence < least,
        confidence=found.confidence,
        match=found.best,
        related=tuple(chosen),
        calibration=knowledge.fitted.calibration,
        also=also[:ALSO],
        book=seen,
        milliseconds=1e3 * (time.perf_counter() - began),
    )


def near(knowledge: Knowledge, matches: Sequence[Match], count: int) -> list[Match]:
    """Related questions, each of an entry of its own and none like the answered one: by maximal marginal relevance,

    λ · score / best − (1 − λ) · the highest cosine with what was chosen before, the answered one first.
    """
    first = _asked(matches[0].entry)
    pool: dict[str, Match] = {}
    for match in matches[1:]:
        if match.score >= LEAST * matches[0].score and (asked := _asked(match.entry)) != first and len(pool) < POOL:
            pool.setdefault(asked, match)
    left, vectors_NM = list(pool.values()), knowledge.index.pairs_NM
    alike = [float(vectors_NM[match.number] @ vectors_NM[matches[0].number]) for match in left]
    top = max(matches[0].score, 1e-9)
    chosen: list[Match] = []
    while left and len(chosen) < count:
        worth = [RELEVANCE * m.score / top - (1 - RELEVANCE) * a for m, a in zip(left, alike, strict=True)]
        at = worth.index(max(worth))
        taken = left.pop(at)
        del alike[at]
        chosen.append(taken)
        cosines = [float(vectors_NM[match.number] @ vectors_NM[taken.number]) for match in left]
        alike = [max(pair) for pair in zip(alike, cosines, strict=True)]
    return chosen


def _asked(entry: Entry) -> str:
    return key(entry.questions[0])


def faq(question: str, *, book: Book, encoder: Embedder | None = None, threshold: float | None = None) -> Reply:
    """Answer a question from a book's pairs. For many questions, open its `Knowledge` once and `reply` with it."""
    return reply(question, open_knowledge(book, encoder), threshold=threshold, book=book)
