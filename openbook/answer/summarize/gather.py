"""What is read of a book for a question about all of it: sentences, in groups, under a budget of tokens.

Another way is a function handed to the registry:

    @gatherer("mine")
    def mine(asked: Asked) -> list[Group]: ...

Shapes: P passages, G groups, S sentences, M width of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from openbook.answer.citations import says_something, words
from openbook.answer.summarize.cover import CANDIDATES, Array, Vectors, apart, cover, middle, weights
from openbook.answer.summarize.habits import NONE, Habits, habits
from openbook.answer.summarize.subject import subject
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
A_PASSAGE = 4
"""Sentences of a passage that may become points: those nearest to question and passage."""
WIDE, RELEVANT, PASSAGE = 50, 3, 130
"""Passages that count as having to do with a question: so many, or so many times what the budget can hold of passages
of so many tokens."""
COMMON = 0.5
"""Share of a sentence's runs of words that many documents have, from which on it is nobody's point."""
REPORTS = 96
"""Communities of the level that is read, at most, where there is a choice."""
_BREAK = re.compile(r"\n[ \t]*\n\s*|(?:^|\n)#{1,6} [^\n]*\n\s*")
TOGETHER = 5
"""Passages that a point is written from."""


@dataclass(frozen=True)
class Candidate:
    """A sentence that may become a point: where it stands, `start:end` in its document's text. The label at its head,
    if it had one, is no part of it."""

    passage: Passage
    start: int
    end: int
    text: str
    label: str = ""

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
    """A question to a book, and what each way of gathering needs of both; of the `budget` of tokens, what was spent."""

    book: Book
    question: str
    encoder: Embedder
    budget: int
    spent: int = 0
    _read: dict[str, Vectors] = field(default_factory=dict)

    @cached_property
    def subject(self) -> str:
        """What the question is about, less how it asks (`subject`)."""
        return subject(self.question, self.habits.words)

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
    def middle_M(self) -> Vectors:
        """What all passages have in common (`cover.middle`)."""
        return middle(self.vectors_PM)

    def near(self, vectors_NM: Vectors) -> Array:
        """The cosine of texts with the question and its subject together, less what all passages have in common."""
        asked_M = apart(self.embed([self.subject, self.question]), self.middle_M).sum(axis=0)
        asked_M /= max(float(np.linalg.norm(asked_M)), 1e-9)
        near_N: Array = (apart(vectors_NM, self.middle_M) @ asked_M).astype(float)
        return near_N

    @cached_property
    def weights_P(self) -> Array:
        """How much each has to do with the question; sums to 1."""
        return weights(self.near(self.vectors_PM), max(WIDE, RELEVANT * self.budget / PASSAGE))

    def typical(self, vectors_NM: Vectors) -> Array:
        """The cosine of texts with the mean of the passages, each as much as it has to do with the question."""
        mean_M = self.weights_P.astype(np.float32) @ self.vectors_PM
        typical_N: Array = (vectors_NM @ mean_M / max(float(np.linalg.norm(mean_M)), 1e-9)).astype(float)
        return typical_N

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors of some texts; each is read once."""
        if fresh := [text for text in dict.fromkeys(texts) if text not in self._read]:
            self._read.update(zip(fresh, np.asarray(self.encoder.embed(fresh), np.float32), strict=True))
        width = len(self.question_M)
        return np.stack([self._read[text] for text in texts]) if texts else np.zeros((0, width), np.float32)

    @cached_property
    def habits(self) -> Habits:
        """What the book's documents say out of habit; of a long book, as far as it is weighed."""
        rows = self._rows[0]
        return habits(self.passages(range(len(rows))))

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
    """Passages that cover the book best (`cover`), greetings and the like left out: needs no graph."""
    likely = np.argsort(-asked.weights_P, kind="stable")[:CANDIDATES].tolist()
    read = dict(zip(likely, asked.passages(likely), strict=True))
    tokens_P = np.zeros(len(asked.vectors_PM), dtype=np.int64)
    telling = [p for p in likely if asked.habits.common(read[p].text) < COMMON]
    tokens_P[telling] = np.maximum(1, asked.tokens([read[p].text for p in telling]))
    chosen = cover(asked.vectors_PM, asked.weights_P, tokens_P, asked.budget)
    asked.spent = int(tokens_P[chosen].sum())
    return _alike(asked, [read[p] for p in chosen], asked.vectors_PM[chosen])


@gatherer("retrieval")
def over_hits(asked: Asked) -> list[Group]:
    """The passages that `find` brings, best first: what a question about one thing reads."""
    hits = find(asked.book, asked.question, min(1000, max(10, asked.budget // 20)), asked.encoder)
    cost, kept = 0, list[Passage]()
    for passage, tokens in zip((h.passage for h in hits), asked.tokens([h.passage.text for h in hits]), strict=True):
        if cost + int(tokens) > asked.budget:
            break
        cost += int(tokens)
        kept.append(passage)
    asked.spent = cost
    return _alike(asked, kept, asked.embed([p.text for p in kept]))


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
    vectors_GM = asked.embed(texts)
    near_G = weights(asked.near(vectors_GM))
    size_G = np.array([report.community.weight for report in made])
    tokens_G = asked.tokens(texts)
    chosen = cover(vectors_GM, near_G * size_G / max(size_G.sum(), 1e-9), tokens_G, asked.budget)
    asked.spent = int(tokens_G[chosen].sum())
    read = by_id(asked.book, [s.passage for g in chosen for s in made[g].sentences])
    groups = []
    for report in (made[g] for g in chosen):
        here = [s for s in report.sentences if s.passage in read]
        said = [c for s in here if (c := _claim(read[s.passage], s.start, s.end, s.text, asked.habits))]
        holding = tuple({s.passage: read[s.passage] for s in here}.values())[:TOGETHER]
        groups.append(Group(report.title, holding, tuple(said)))
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
    all_of = [list(claims_of(passage, asked.habits)) for passage in read]
    vectors_SM = asked.embed([candidate.text for of in all_of for candidate in of])
    near_S = asked.near(vectors_SM)
    kept, at = [], 0
    for of, vector_M in zip(all_of, vectors_NM, strict=True):
        here = slice(at, at := at + len(of))
        order = np.argsort(-(near_S[here] + vectors_SM[here] @ vector_M), kind="stable")
        kept.append([of[i] for i in order[:A_PASSAGE].tolist()])
    return kept


def claims_of(passage: Passage, known: Habits = NONE) -> Iterator[Candidate]:
    """The sentences of a passage that can be points; a heading or a label before one is no part of it."""
    for start, end in sentences(passage.text, 0, len(passage.text)):
        for above in _BREAK.finditer(passage.text, start, end):
            start = above.end()
        claim = _claim(passage, passage.start + start, passage.start + end, passage.text[start:end], known)
        if claim is not None:
            yield claim


def _claim(passage: Passage, start: int, end: int, text: str, known: Habits) -> Candidate | None:
    """A sentence as what may become a point, or None where it cannot."""
    label, at = known.head(text)
    said = text[at:]
    if not claims(said) or known.broken(said) or known.common(said) >= COMMON:
        return None
    return Candidate(passage, start + at, end, said, label)


def claims(text: str) -> bool:
    """Whether a sentence can be a point: long enough, and no question, which claims nothing."""
    said = text.strip().rstrip("\"'”’」』）)]")
    long_enough = SHORTEST <= len(said) <= LONGEST or (said and not said.isascii() and WORDS <= len(said) <= LONGEST)
    return bool(long_enough) and said[-1] not in "?？" and sum(map(says_something, words(said))) >= WORDS
