"""An answer as the faces show it: numbered sources, inked pieces of text, marked places.

The input is the dict of `Answer.to_dict()`, possibly from a file somebody else wrote: every field may be missing, null
or hostile. What is unusable is left out; the answer's text is always shown whole, once. Offsets are Python's (code
points), so all slicing happens here and the page's script does none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openbook.answer.page.facts import certified_of, facts_of
from openbook.answer.page.pieces import Citation, Piece, inked
from openbook.answer.page.sources import Source, sources_of
from openbook.answer.page.values import Span, clean, number, rows_of, span_of, text_of


@dataclass(frozen=True)
class Judged:
    """A sentence of a text that was checked: what the book says of it, and its words that nothing carries."""

    text: str
    verdict: str
    source: Source | None
    bits: float | None
    unsupported: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The verdict as a class name: one that is known, else none."""
        return {"supported": "yes", "partly": "partly", "unsupported": "no"}.get(self.verdict, "own")


@dataclass(frozen=True)
class Reading:
    """The whole answer, ready to show. `weighed`: nothing was written, so a source's share is its weight.

    `others`: the other answers to the question.
    """

    question: str
    text: str
    abstained: bool
    weighed: bool
    reason: str
    sources: tuple[Source, ...]
    pieces: tuple[Piece, ...]
    facts: tuple[tuple[str, str], ...]
    bits: float | None = field(default=None)
    judged: tuple[Judged, ...] = ()
    others: tuple[Reading, ...] = ()
    certified: str = ""

    @property
    def committee(self) -> bool:
        """Whether models wrote it together."""
        return any(source.model for source in self.sources)

    def share(self, source: Source) -> float | None:
        """What a source's bar shows."""
        return source.weight if self.weighed else source.responsibility

    @property
    def draft(self) -> bool:
        """Whether there is a text to show: an abstained answer may repeat its reason as its text."""
        return bool(self.text.strip()) and not (self.abstained and self.text.strip() == self.reason.strip())


def read(answer: Mapping[str, Any]) -> Reading:
    """The reading of an answer's dict."""
    raw = text_of(answer.get("answer"))
    cited = rows_of(answer.get("citations"))
    tokens = rows_of(answer.get("tokens"))
    sources = sources_of(rows_of(answer.get("sources")), cited, tokens)
    judged, doubts = _judged(raw, rows_of(answer.get("sentences")), sources)
    known = [bits for token in tokens if (bits := number(token.get("bits"))) is not None]
    return Reading(
        question=clean(text_of(answer.get("question"))),
        text=clean(raw),
        abstained=answer.get("abstained") is True,
        weighed=not tokens,
        reason=clean(text_of(answer.get("reason"))),
        sources=sources,
        pieces=tuple(inked(_pieces(raw, tokens, sources, _citations(cited, sources, len(raw)), doubts))),
        facts=tuple(facts_of(answer)),
        bits=sum(known) if known else None,
        judged=judged,
        certified=certified_of(answer, tokens),
        others=tuple(read({**other, "others": ()}) for other in rows_of(answer.get("others"))),
    )


def _citations(cited: list[Mapping[str, Any]], sources: tuple[Source, ...], length: int) -> list[Citation]:
    """The citations of known, numbered sources, in the order of their places in the answer."""
    by_key = {source.key: source for source in reversed(sources) if source.number is not None}
    found = []
    for index, row in enumerate(cited):
        source, span = by_key.get(text_of(row.get("source"))), span_of(row.get("span"), length)
        if source and span:
            found.append(Citation(index, source, span[1], number(row.get("responsibility"))))
    return sorted(found, key=lambda citation: (citation.end, citation.source.index))


def _judged(
    text: str, rows: list[Mapping[str, Any]], sources: tuple[Source, ...]
) -> tuple[tuple[Judged, ...], list[Span]]:
    """The sentences of a text that was checked, and every place of it that nothing carries."""
    by_key = {source.key: source for source in reversed(sources)}
    made, doubts = [], []
    for row in rows:
        if (span := span_of(row.get("span"), len(text))) is None:
            continue
        listed = row.get("unsupported")
        spans = listed if isinstance(listed, Sequence) and not isinstance(listed, str) else []
        places = [place for value in spans if (place := span_of(value, len(text)))]
        doubts += places
        said = tuple(clean(text[slice(*place)]) for place in places)
        source = by_key.get(text_of(row.get("source")))
        verdict = clean(text_of(row.get("verdict")))
        made.append(Judged(clean(text[slice(*span)]), verdict, source, number(row.get("bits")), said))
    return tuple(made), doubts


def _pieces(
    text: str,
    tokens: list[Mapping[str, Any]],
    sources: tuple[Source, ...],
    citations: list[Citation],
    doubts: Sequence[Span] = (),
) -> Iterator[Piece]:
    """The text cut into tokens, none of it lost, each citation after the piece in which it ends."""
    left = list(citations)

    def signs(end: int) -> tuple[Citation, ...]:
        """The citations that end by here, one a source."""
        ending = [left.pop(0) for _ in range(sum(citation.end <= end for citation in left))]
        return tuple({citation.source.index: citation for citation in reversed(ending)}.values())[::-1]

    at, waiting = 0, 0
    for i, token in enumerate(tokens):
        start, end = _place(text, token, at)
        if end == start and i + 1 < len(tokens):
            continue  # a part of a character: it belongs to the token that completes it
        if at < start:
            yield Piece(clean(text[at:start]), citations=signs(start))
        group = range(waiting, i + 1)
        bits = [value for j in group if (value := number(tokens[j].get("bits"))) is not None]
        strongest = max(group, key=lambda j: number(tokens[j].get("bits")) or 0.0)
        shares = tokens[strongest].get("responsibility")
        source = owner(shares, sources)
        share = min(number(shares.get(source.key)) or 0.0, 1.0) if source and isinstance(shares, Mapping) else 0.0
        word = start + len(text[start:end]) - len(text[start:end].lstrip())
        doubted = any(word < stop and begin < end for begin, stop in doubts)
        yield Piece(clean(text[start:end]), group, sum(bits) if bits else None, source, signs(end), doubted, share)
        at, waiting = end, i + 1
    if at < len(text):
        yield Piece(clean(text[at:]), citations=signs(len(text)))


def _place(text: str, token: Mapping[str, Any], at: int) -> Span:
    """Where the token stands: its span, or, where that is unusable, its text if the answer goes on with it."""
    if span := span_of(token.get("span"), len(text), at):
        return span
    written = text_of(token.get("text"))
    return (at, at + len(written)) if text.startswith(written, at) else (at, at)


def owner(responsibility: object, sources: Sequence[Source]) -> Source | None:
    """Which of the book's sources carried a token most; the model's own memory never inks one."""
    if not isinstance(responsibility, Mapping):
        return None
    shares = [(number(responsibility.get(source.key)) or 0.0, source) for source in sources if source.number]
    share, source = max(shares, key=lambda pair: pair[0], default=(0.0, None))
    return source if share > 0 else None
