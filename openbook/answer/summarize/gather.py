"""What is read of a book for a question about all of it: sentences, in groups, under a budget of tokens.

Another way is a function handed to the registry:

    @gatherer("mine")
    def mine(asked: Asked) -> list[Group]: ...

Shapes: P passages, G groups, S sentences, M width of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from openbook.answer.citations import says_something, words
from openbook.answer.summarize.cover import CANDIDATES, Array, Vectors, cover, weights
from openbook.book import dense
from openbook.book.candidates import FIELDS, passages, vectors
from openbook.book.manifest import faults
from openbook.book.passages import Passage
from openbook.book.retrieve import find
from openbook.book.sentences import sentences
from openbook.book.tables import quoted
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.book.embedder import Embedder
    from openbook.book.store import Book

COVERED = 20_000
"""Passages that are weighed: of a longer book, those nearest to the question."""
SHORTEST, LONGEST = 30, 500
"""Characters of a sentence that can be a point."""
WORDS = 5
"""Words of it that say something."""
A_PASSAGE = 2
"""Sentences of a passage that may become points."""
REPORTS = 96
"""Communities of the level that is read, at most, where there is a choice."""
_BREAK = re.compile(r"\n[ \t]*\n\s*|(?:^|\n)#{1,6} [^\n]*\n\s*")
TOGETHER = 5
"""Passages that a point is written from."""


@dataclass(frozen=True)
class Candidate:
    """A sentence that may become a point: where it stands, `start:end` in its document's text."""

    passage: Passage
    start: int
    end: int
    text: str

    @property
    def line(self) -> int:
        """The line of the document in which it begins."""
        return self.passage.line + self.passage.text[: max(0, self.start - self.passage.start)].count("\n")


@dataclass(frozen=True)
class Group:
    """Passages that belong together: alike, or of one community (`name` is its title), and sentences of them."""

    name: str
    passages: tuple[Passage, ...]
    candidates: tuple[Candidate, ...]


@dataclass
class Asked:
    """A question to a book, and what each way of gathering needs of both."""

    book: Book
    question: str
    encoder: Embedder
    budget: int

    @cached_property
    def question_M(self) -> Vectors:
        vector: Vectors = np.asarray(self.encoder.embed([self.question])[0], dtype=np.float32)
        return vector

    @cached_property
    def _rows(self) -> tuple[list[int], Vectors]:
        table = self.book.passages_table
        if table is None:
            return [], np.zeros((0, self.encoder.width), np.float32)
        with faults(self.book.path):
            if table.count_rows() > COVERED:
                rows = dense.search(table, self.question_M, COVERED)[:COVERED]
                return rows, vectors(table, rows)
            read = table.scanner(columns=["vector"], with_row_id=True).to_table()
            flat = read["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        rows = read["_rowid"].to_pylist()
        vectors_PM: Vectors = flat.reshape(len(rows), -1)
        return rows, vectors_PM

    @property
    def vectors_PM(self) -> Vectors:
        """Unit vectors of the passages that are weighed."""
        return self._rows[1]

    @cached_property
    def weights_P(self) -> Array:
        """How much each has to do with the question; sums to 1."""
        return weights((self.vectors_PM @ self.question_M).astype(float))

    def passages(self, places: Sequence[int]) -> list[Passage]:
        """The passages at some places of `vectors_PM`."""
        rows = self._rows[0]
        with faults(self.book.path):
            return passages(self.book.passages_table, [rows[p] for p in places]) if places else []

    def tokens(self, texts: Sequence[str]) -> Any:
        """What each text costs, int64."""
        return np.array(self.encoder.count_tokens(texts), dtype=np.int64)


Gatherer = Callable[[Asked], list[Group]]
_GATHERERS: dict[str, Gatherer] = {}


def gatherer(name: str) -> Callable[[Gatherer], Gatherer]:
    """Register a way of gathering; what it returns may cost `asked.budget` tokens in all."""

    def register(function: Gatherer) -> Gatherer:
        _GATHERERS[name] = function
        return function

    return register


def gatherers() -> list[str]:
    """Names for `Plan(over=…)`."""
    return sorted(_GATHERERS)


def gather(asked: Asked, over: str) -> list[Group]:
    """The groups of a way; `Fault` for one that is not registered."""
    if over not in _GATHERERS:
        raise Fault(f"nothing is summarized over {over!r}; there are: auto, {', '.join(gatherers())}")
    return _GATHERERS[over](asked)


@gatherer("passages")
def over_passages(asked: Asked) -> list[Group]:
    """Passages that cover the book best (`cover`): needs no graph."""
    likely = np.argsort(-asked.weights_P, kind="stable")[:CANDIDATES].tolist()
    read = dict(zip(likely, asked.passages(likely), strict=True))
    tokens_P = np.zeros(len(asked.vectors_PM), dtype=np.int64)
    tokens_P[likely] = np.maximum(1, asked.tokens([read[p].text for p in likely]))
    chosen = cover(asked.vectors_PM, asked.weights_P, tokens_P, asked.budget)
    return _alike(asked, [read[p] for p in chosen], asked.vectors_PM[chosen])


@gatherer("retrieval")
def over_hits(asked: Asked) -> list[Group]:
    """The passages that `find` brings, best first: what a question about one thing reads."""
    hits = find(asked.book, asked.question, min(1000, max(10, asked.budget // 20)), asked.encoder)
    cost, kept = 0, list[Passage]()
    for passage, tokens in zip((h.passage for h in hits), asked.tokens([h.passage.text for h in hits]), strict=True):
        cost += int(tokens)
        if cost > asked.budget:
            break
        kept.append(passage)
    vectors_NM = np.asarray(asked.encoder.embed([p.text for p in kept]) if kept else np.zeros((0, 1)), np.float32)
    return _alike(asked, kept, vectors_NM)


@gatherer("reports")
def over_reports(asked: Asked) -> list[Group]:
    """Communities of the book's graph, by their reports: those that cover the others best, weighed by the question."""
    from openbook.book.communities import communities

    found = communities(asked.book.graph())
    levels = [found.level(n) for n in range(found.levels)]
    fitting = [level for level in levels if len(level) <= REPORTS] or levels[:1]
    made = [found.report(c) for c in (fitting[-1] if fitting else []) if len(c.entities) > 1]
    made = [report for report in made if report.sentences]
    if not made:
        return []
    texts = [". ".join([report.title, *(s.text for s in report.sentences)]) for report in made]
    vectors_GM = np.asarray(asked.encoder.embed(texts), np.float32)
    near_G = weights((vectors_GM @ asked.question_M).astype(float))
    size_G = np.array([report.community.weight for report in made])
    chosen = cover(vectors_GM, near_G * size_G / max(size_G.sum(), 1e-9), asked.tokens(texts), asked.budget)
    read = by_id(asked.book, [s.passage for g in chosen for s in made[g].sentences])
    groups = []
    for report in (made[g] for g in chosen):
        said = [Candidate(read[s.passage], s.start, s.end, s.text) for s in report.sentences if s.passage in read]
        holding = tuple({c.passage.id: c.passage for c in said}.values())[:TOGETHER]
        groups.append(Group(report.title, holding, tuple(c for c in said if claims(c.text))))
    return groups


def by_id(book: Book, ids: Iterable[str]) -> dict[str, Passage]:
    """The passages of these ids that the book's version has."""
    wanted = list(dict.fromkeys(ids))
    if not wanted or book.passages_table is None:
        return {}
    with faults(book.path):
        rows = book.passages_table.scanner(columns=FIELDS, filter=f"id IN ({quoted(wanted)})").to_table().to_pylist()
    return {row["id"]: Passage(**row) for row in rows}


def _alike(asked: Asked, read: Sequence[Passage], vectors_NM: Vectors) -> list[Group]:
    """Groups of up to `TOGETHER` passages: the first that is left with those most like it."""
    said = _candidates(asked, read, vectors_NM)
    left, groups = list(range(len(read))), list[Group]()
    while left:
        first = left[0]
        order = sorted(left, key=lambda i: (i != first, -float(vectors_NM[i] @ vectors_NM[first]), i))[:TOGETHER]
        left = [i for i in left if i not in order]
        of = tuple(read[i] for i in order)
        groups.append(Group(of[0].title, of, tuple(c for i in order for c in said[i])))
    return groups


def _candidates(asked: Asked, read: Sequence[Passage], vectors_NM: Vectors) -> list[list[Candidate]]:
    """Of each passage the sentences that are nearest to the question and to the passage as a whole."""
    all_of = [list(claims_of(passage)) for passage in read]
    texts = [candidate.text for of in all_of for candidate in of]
    vectors_SM = np.asarray(asked.encoder.embed(texts), np.float32) if texts else np.zeros((0, 1), np.float32)
    kept, at = [], 0
    for of, vector_M in zip(all_of, vectors_NM, strict=True):
        here_SM = vectors_SM[at : at + len(of)]
        at += len(of)
        near_S = here_SM @ (asked.question_M + vector_M) if len(of) else np.zeros(0)
        kept.append([of[i] for i in np.argsort(-near_S, kind="stable")[:A_PASSAGE]])
    return kept


def claims_of(passage: Passage) -> Iterator[Candidate]:
    """The sentences of a passage that can be points; a heading above one is no part of it."""
    for start, end in sentences(passage.text, 0, len(passage.text)):
        for above in _BREAK.finditer(passage.text, start, end):
            start = above.end()
        text = passage.text[start:end]
        if claims(text):
            yield Candidate(passage, passage.start + start, passage.start + end, text)


def claims(text: str) -> bool:
    """Whether a sentence can be a point: long enough, and no question, which claims nothing."""
    said = text.strip().rstrip("\"'”’」』）)]")
    long_enough = SHORTEST <= len(said) <= LONGEST or (said and not said.isascii() and WORDS <= len(said) <= LONGEST)
    return bool(long_enough) and said[-1] not in "?？" and sum(map(says_something, words(said))) >= WORDS
