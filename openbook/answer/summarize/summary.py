"""`summarize`: gather, map to points, reduce to a list, each point with its evidence down to the passages.

Extractive unless `write` is asked for: then a point is a sentence of a document, word for word, and its evidence are
the sentences that were folded into it. A written point is an answer of a mixture of passages (`written`), with that
mixture's evidence. Both are scored and folded alike (`points`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from openbook.answer.answer import Answer, Citation, Source, Token, plain, source_dict
from openbook.answer.summarize.cover import stands_for
from openbook.answer.summarize.gather import Asked, Candidate, Group, gather, gatherers
from openbook.answer.summarize.points import Folded, Told, fold, lifts, ordered, worth
from openbook.answer.summarize.subject import telling
from openbook.answer.summarize.written import written
from openbook.book.documents import tidy
from openbook.book.embedder import Embedder
from openbook.book.passages import Passage
from openbook.book.store import Book
from openbook.errors import Fault
from openbook.lm.model import LanguageModel, load_model
from openbook.mix.reading import Reader

Span = tuple[int, int]
MOST_POINTS, MOST_TOKENS = 64, 1 << 20
TURN = 20_000
"""Characters before a sentence in which its speaker is looked for."""
WEIGHED = 64
"""Sentences that the model reads the question under: those nearest to it; at least four for each point."""


@dataclass(frozen=True)
class Plan:
    """How to summarize: `over` passages, reports of the graph's communities, retrieval's hits, or auto; how many
    `points` at most; the `budget` of tokens (the text encoder's) that may be read; whether the model is to `write`
    the points, in at most `max_tokens` each."""

    over: str = "auto"
    points: int = 8
    budget: int = 8_000
    write: bool = False
    max_tokens: int = 48

    def __post_init__(self) -> None:
        if self.over != "auto" and self.over not in gatherers():
            raise Fault(f"nothing is summarized over {self.over!r}; there are: auto, {', '.join(gatherers())}")
        if not 1 <= self.points <= MOST_POINTS:
            raise Fault(f"{self.points} points are asked for; it must be from 1 to {MOST_POINTS}")
        if not 100 <= self.budget <= MOST_TOKENS:
            raise Fault(f"the budget is {self.budget} tokens; it must be from 100 to {MOST_TOKENS}")


@dataclass(frozen=True)
class Holding:
    """A place that holds a point. `bits`: what it adds to the question; `responsibility`: its share of the point;
    `speaker`: the label of the turn that it is of, in documents that have such ("" in others).

    Of an extractive point r ∝ p(question | sentence) over its sentences; of a written one, the mixture's.
    """

    source: str
    passage: Passage
    span: Span
    line: int
    cited_text: str
    bits: float | None
    responsibility: float
    speaker: str = ""


@dataclass(frozen=True)
class Point:
    """A point: its text, the bits that it adds to the question (written: that its passages added to it), the share of
    the book's relevant passages that it stands for, and where it is held."""

    text: str
    bits: float
    share: float
    evidence: tuple[Holding, ...]
    answer: Answer | None = field(default=None, repr=False, compare=False)

    @property
    def documents(self) -> list[str]:
        """The documents that hold it, the most responsible first."""
        return list(dict.fromkeys(holding.passage.document for holding in self.evidence))


@dataclass(frozen=True)
class Summary:
    """Points of a book, in the order to read them. `read`: groups, passages and tokens that were looked at, of how many
    passages; `dropped`: sentences that added nothing to the question."""

    question: str
    points: tuple[Point, ...]
    plan: Plan
    over: str
    model: str
    book: Mapping[str, Any]
    read: Mapping[str, int]
    timings: Mapping[str, float]

    @property
    def abstained(self) -> bool:
        """Whether nothing that was read has to do with the question."""
        return not self.points

    @property
    def text(self) -> str:
        """The points, a line each."""
        return "\n".join(point.text for point in self.points)

    @property
    def reason(self) -> str | None:
        """Why there are no points."""
        return None if self.points else "nothing that was read of the book makes the question likelier"

    def to_dict(self) -> dict[str, Any]:
        """The JSON of an answer (`Answer.to_dict`), and `points`. Tokens only where the model wrote."""
        starts = list(_starts(self.points))
        sources = _sources(self.points)
        cited = [
            Citation((at, at + len(p.text)), h.source, h.span, h.cited_text, h.responsibility)
            for at, p in zip(starts, self.points, strict=True)
            for h in p.evidence
            if p.answer is None or h.span != (h.passage.start, h.passage.end)
        ]
        tokens = [t for at, p in zip(starts, self.points, strict=True) for t in _tokens(p, at)]
        facts = {
            "question": self.question,
            "answer": self.text,
            "abstained": self.abstained,
            "reason": self.reason,
            "model": self.model,
            "book": dict(self.book),
            "settings": {**asdict(self.plan), "over": self.over},
            "points": [_point(point) for point in self.points],
            "sources": [source_dict(source) for source in sources],
            "tokens": [asdict(token) for token in tokens],
            "citations": [{k: v for k, v in asdict(c).items() if k != "member"} for c in cited],
            "read": dict(self.read),
            "timings": dict(self.timings),
        }
        told: dict[str, Any] = plain(facts)
        return told


def _point(point: Point) -> dict[str, Any]:
    held = [
        {
            "source": h.source, "document": h.passage.document, "title": h.passage.title, "page": h.passage.page,
            "line": h.line, "span": h.span, "cited_text": h.cited_text, "bits": h.bits,
            "responsibility": h.responsibility, "speaker": h.speaker,
        }
        for h in point.evidence
    ]  # fmt: skip
    how = "written" if point.answer is not None else "extracted"
    return {"text": point.text, "how": how, "bits": point.bits, "share": point.share, "evidence": held}


def _starts(points: Sequence[Point]) -> Iterator[int]:
    at = 0
    for point in points:
        yield at
        at += len(point.text) + 1


def _sources(points: Sequence[Point]) -> list[Source]:
    """Each passage that holds a point: its mean responsibility over the points, its part of their bits."""
    held: dict[str, list[tuple[Holding, float]]] = {}
    for point in points:
        for holding in point.evidence:
            held.setdefault(holding.source, []).append((holding, point.bits))
    made = []
    for name, of in held.items():
        p, share = of[0][0].passage, sum(h.responsibility for h, _ in of) / len(points)
        bits = sum(h.responsibility * bits for h, bits in of)
        made.append(
            Source(
                name, "passage", prior=1 / len(held), refined=share, responsibility=share, bits=bits,
                document=p.document, title=p.title, heading=p.heading, page=p.page, line=p.line,
                span=(p.start, p.end), text=p.text,
            )
        )  # fmt: skip
    return made


def _tokens(point: Point, at: int) -> Iterator[Token]:
    """The tokens of a written point, in the summary's text and under its sources' names."""
    if point.answer is None:
        return
    names = dict(zip((s.id for s in point.answer.sources if s.kind == "passage"), _names(point), strict=False))
    for token in point.answer.tokens:
        shares = {names.get(key, key): share for key, share in token.responsibility.items()}
        yield Token(token.text, (at + token.span[0], at + token.span[1]), token.p, token.bits, shares)


def _names(point: Point) -> list[str]:
    answer = point.answer
    by_span = {(h.passage.document, h.passage.start): h.source for h in point.evidence}
    passages = [] if answer is None else [s for s in answer.sources if s.kind == "passage"]
    return [by_span.get((s.document or "", (s.span or (0, 0))[0]), s.id) for s in passages]


def summarize(
    question: str,
    *,
    book: Book,
    model: LanguageModel | None = None,
    encoder: Embedder | None = None,
    plan: Plan | None = None,
) -> Summary:
    """The points of a whole book that a question asks for; with the default model and encoder unless others are given.

    Raises `Fault` for an empty question or book.
    """
    return summarize_with(Reader(book, model or load_model(), encoder), question, plan)


def summarize_with(reader: Reader, question: str, plan: Plan | None = None, told: Told = None) -> Summary:
    """As `summarize`, with a reader that is ready. `told` of what is done, of how much, and of what."""
    plan, question = plan or Plan(), tidy(question).strip()
    if not question:
        raise Fault("the question is empty; ask something, for example: openbook summarize 'What are the main themes?'")
    book = reader.book
    if not book.count or reader.encoder is None:
        raise Fault(f"{book.path} holds no passages yet; add documents with: openbook add PATH --book {book.path}")
    with reader.model.runner.alone():
        return _Making(reader, question, plan, told).summary()


class _Making:
    """A summary on its way."""

    def __init__(self, reader: Reader, question: str, plan: Plan, told: Told) -> None:
        self.reader, self.question, self.plan, self.told = reader, question, plan, told
        assert reader.encoder is not None  # noqa: S101 the caller has looked
        self.encoder: Embedder = reader.encoder
        self.asked = Asked(reader.book, question, self.encoder, plan.budget)
        self.names: dict[str, str] = {}
        self.began = time.perf_counter()
        self.timings: dict[str, float] = {}

    def summary(self) -> Summary:
        over = way_of(self.reader.book, self.plan)
        groups = gather(self.asked, over)
        self._mark("gather_ms")
        points = self._written(groups) if self.plan.write else self._extracted(groups)
        self._mark("summarize_ms")
        if self.reader.kept is not None:
            self.reader.kept.flush()
        read = [p for group in groups for p in group.passages]
        said = [c for group in groups for c in group.candidates]
        counts = {"groups": len(groups), "passages": len({p.id for p in read}), "sentences": len(said)}
        counts["tokens"] = self.asked.spent
        book = self.reader.book
        return Summary(
            self.question, tuple(points), self.plan, over, self.reader.model.name,
            {"path": str(book.path), "version": book.version}, {**counts, "of": book.count}, self.timings,
        )  # fmt: skip

    def _mark(self, name: str) -> None:
        self.timings[name] = 1e3 * (time.perf_counter() - self.began)

    def _extracted(self, groups: Sequence[Group]) -> list[Point]:
        said = list({(c.passage.id, c.start): c for group in groups for c in group.candidates}.values())
        if not said:
            return []
        near_N = self.asked.near(self.asked.embed([c.text for c in said]))
        said = [said[i] for i in np.argsort(-near_N, kind="stable")[: max(WEIGHED, 4 * self.plan.points)].tolist()]
        texts = [c.text for c in said]
        bits_N = lifts(self.reader, telling(self.question, self.asked.subject), texts, self.told)
        common_N = np.array([self.asked.habits.common(text) for text in texts])
        vectors_NM = self.asked.embed(texts)
        worth_N = worth(texts, bits_N, self.asked.near(vectors_NM), self.asked.typical(vectors_NM), common_N)
        chosen, share_N = self._reduced(texts, bits_N, worth_N, [c.passage.document for c in said])
        return [
            Point(
                " ".join(said[f.first].text.split()), float(bits_N[f.first]), float(share), self._held(f, said, bits_N)
            )
            for f, share in zip(chosen, share_N, strict=True)
        ]

    def _held(self, folded: Folded, said: Sequence[Candidate], bits_N: Any) -> tuple[Holding, ...]:
        bits_F = bits_N[list(folded.members)]
        share_F = np.exp2(bits_F - bits_F.max())
        share_F /= share_F.sum()
        return tuple(
            Holding(
                self._name(c.passage),
                c.passage,
                (c.start, c.end),
                c.line,
                c.text,
                float(bits),
                float(share),
                self._speaker(c),
            )
            for c, bits, share in zip((said[i] for i in folded.members), bits_F, share_F, strict=True)
        )

    def _speaker(self, said: Candidate) -> str:
        known = self.asked.habits
        if said.label or not known.labels:
            return said.label
        before = self.reader.book.text(said.passage.document)[max(0, said.start - TURN) : said.start]
        return known.speaker(before)

    def _written(self, groups: Sequence[Group]) -> list[Point]:
        groups = [group for group in groups if group.passages]
        answers = written(self.reader, self.question, groups, self.plan.max_tokens, self.told)
        kept = [(a, g) for a, g in zip(answers, groups, strict=True) if a.text and not a.abstained]
        if not kept:
            return []
        texts = [answer.text for answer, _ in kept]
        # A text that repeats the question makes it likely by that alone: what counts is what the passages gave it.
        bits_N = np.array([sum(s.bits or 0.0 for s in answer.sources if s.kind == "passage") for answer, _ in kept])
        chosen, share_N = self._reduced(texts, bits_N, bits_N)
        return [
            Point(texts[f.first], float(bits_N[f.first]), float(share), self._mixture(*kept[f.first]), kept[f.first][0])
            for f, share in zip(chosen, share_N, strict=True)
        ]

    def _mixture(self, answer: Answer, group: Group) -> tuple[Holding, ...]:
        """The passages of a written point by their share in it, each at the place it is cited for, else as a whole."""
        places = {c.source: c for c in answer.citations}
        by_start = {(p.document, p.start): p for p in group.passages}
        held = []
        for source in (s for s in answer.sources if s.kind == "passage" and s.document and s.span):
            passage = by_start[source.document or "", (source.span or (0, 0))[0]]
            cited = places.get(source.id)
            span = cited.source_span if cited else (passage.start, passage.end)
            text = cited.cited_text if cited else passage.text
            line = Candidate(passage, *span, text).line
            held.append(Holding(self._name(passage), passage, span, line, text, source.bits, source.responsibility))
        return tuple(sorted(held, key=lambda h: -h.responsibility))

    def _reduced(
        self, texts: Sequence[str], bits_N: Any, worth_N: Any, documents: Sequence[str] = ()
    ) -> tuple[list[Folded], Any]:
        """The points in their order, and the share of the book that each stands for."""
        vectors_NM = self.asked.embed(texts)
        chosen = ordered(fold(texts, vectors_NM, bits_N), vectors_NM, worth_N, self.plan.points, documents)
        firsts = [folded.first for folded in chosen]
        return chosen, stands_for(self.asked.vectors_PM, self.asked.weights_P, vectors_NM[firsts])

    def _name(self, passage: Passage) -> str:
        return self.names.setdefault(passage.id, f"p{len(self.names) + 1}")


def way_of(book: Book, plan: Plan) -> str:
    """What `auto` comes to: passages, which need no graph (docs/summarize.md has what was measured)."""
    return "passages" if plan.over == "auto" else plan.over
