"""What a summary is: its plan, its points with the places that hold them, and all of it as an answer's JSON.

Extractive unless `write` is asked for: then a point is a sentence of a document, word for word, and its evidence are
the sentences that were folded into it. A written point is an answer of a mixture of passages, with that mixture's
evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from openbook.answer.answer import Answer, Citation, Source, Token, plain, source_dict
from openbook.answer.summarize.gather import gatherers
from openbook.book.passages import Passage
from openbook.errors import Fault

Span = tuple[int, int]
MOST_POINTS, MOST_TOKENS = 64, 1 << 20


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
