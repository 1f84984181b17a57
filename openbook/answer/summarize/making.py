"""`summarize`: gather, map to points, reduce to a list, each point with its evidence down to the passages.

What is gathered (`gather`) is cut to sentences or written about (`written`); both are scored and folded alike
(`points`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from openbook.answer.answer import Answer
from openbook.answer.summarize.cover import stands_for
from openbook.answer.summarize.gather import Asked, Candidate, Group, gather
from openbook.answer.summarize.points import Folded, Told, fold, lifts, ordered, worth
from openbook.answer.summarize.subject import telling
from openbook.answer.summarize.summary import Holding, Plan, Point, Summary
from openbook.answer.summarize.written import written
from openbook.book.documents import tidy
from openbook.book.embedder import Embedder
from openbook.book.passages import Passage
from openbook.book.store import Book
from openbook.errors import Fault
from openbook.lm.model import LanguageModel, load_model
from openbook.mix.reading import Reader

TURN = 20_000
"""Characters before a sentence in which its speaker is looked for."""
WEIGHED = 64
"""Sentences that the model reads the question under: those nearest to it; at least four for each point."""


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
