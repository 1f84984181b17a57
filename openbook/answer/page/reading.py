"""An answer as the faces show it: numbered sources, inked pieces of text, marked places.

The input is the dict of `Answer.to_dict()`, possibly from a file somebody else wrote: every field may be missing, null
or hostile. What is unusable is left out; the answer's text is always shown whole, once. Offsets are Python's (code
points), so all slicing happens here and the page's script does none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from openbook.answer.page.remembered import remembered
from openbook.answer.palette import level

Span = tuple[int, int]

_SPACING = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
# C0, C1 and DEL (escape sequences), and the bidi embeddings and overrides that make a name read as another one.
_CONTROL = re.compile("[\x00-\x08\x0d-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_KINDS = {
    "closed_book": "The model’s own memory",
    "neighbours": "Neighbours in the datastore",
    "faq": "A stored question and answer",
    "report": "A community report",
    "model": "A model",
    "image": "An image",
}
_ENDED = {"limit": "at the most tokens that were asked for", "repetition": "where it only repeated itself"}
_ENDED["robust"] = "before the first word that does not withstand the bad passages it was asked to"
"""Why an answer is shorter than the model would have made it."""


@dataclass(frozen=True)
class Mark:
    """A cited place in a passage: what it says, and the citations that point there (none: the text between)."""

    text: str
    citations: tuple[int, ...] = ()


@dataclass(frozen=True)
class Source:
    """One source. `number` is what the reader sees, None for the model's own memory; `hue` indexes the palette.

    `members` of one that holds several passages: each one's document, and what the branch loses without it, natural.
    `model`: it is a member of a committee, not of the book.
    """

    index: int
    key: str
    number: int | None
    name: str
    place: str
    heading: str
    passage: tuple[Mark, ...]
    prior: float | None
    refined: float | None
    responsibility: float | None
    bits: float | None
    necessity: float | None
    sufficiency: float | None
    members: tuple[tuple[str, float | None], ...] = ()
    model: bool = False

    @property
    def weight(self) -> float | None:
        """Its weight once the question was read, else from the search."""
        return self.prior if self.refined is None else self.refined

    @property
    def hue(self) -> int | None:
        return None if self.number is None else self.number - 1

    @property
    def folder(self) -> str:
        """The part of the name that may be faint: up to the last slash."""
        return self.name[: self.name.rfind("/", 0, -1) + 1]

    @property
    def file(self) -> str:
        return self.name[len(self.folder) :]

    @property
    def cited(self) -> bool:
        return any(mark.citations for mark in self.passage)


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

    @property
    def level(self) -> int:
        """How strongly the piece is inked in its source's colour; 0 where the book added next to nothing.

        What a committee writes has no bits over a closed book: there it is the member's share.
        """
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
    cited = _rows(answer.get("citations"))
    tokens = _rows(answer.get("tokens"))
    sources = _sources(_rows(answer.get("sources")), cited, tokens)
    judged, doubts = _judged(raw, _rows(answer.get("sentences")), sources)
    known = [bits for token in tokens if (bits := number(token.get("bits"))) is not None]
    return Reading(
        question=clean(text_of(answer.get("question"))),
        text=clean(raw),
        abstained=answer.get("abstained") is True,
        weighed=not tokens,
        reason=clean(text_of(answer.get("reason"))),
        sources=sources,
        pieces=tuple(_pieces(raw, tokens, sources, _citations(cited, sources, len(raw)), doubts)),
        facts=tuple(_facts(answer)),
        bits=sum(known) if known else None,
        judged=judged,
        certified=_certified(answer, tokens),
        others=tuple(read({**other, "others": ()}) for other in _rows(answer.get("others"))),
    )


def clean(text: str) -> str:
    """Text that is safe to print: no control characters, no bidi overrides, no lone surrogates; lines and tabs stay."""
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", _SPACING.sub(" ", text)))


def text_of(value: object) -> str:
    """A string as it is, null as nothing, anything else as Python writes it."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, Sequence) else []


def _span(value: object, length: int, least: int = 0) -> Span | None:
    """A span within `[least, length]`, or None."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    start, end = value
    if type(start) is not int or type(end) is not int or not least <= start <= end <= length:
        return None
    return start, end


def _sources(
    rows: list[Mapping[str, Any]], cited: list[Mapping[str, Any]], tokens: list[Mapping[str, Any]]
) -> tuple[Source, ...]:
    sources: list[Source] = []
    count = 0
    for index, row in enumerate(rows):
        kind, key = text_of(row.get("kind")), text_of(row.get("id"))
        own, model = kind == "closed_book", kind == "model"
        count += not own
        members = _members(row)
        document, title = (clean(text_of(row.get(name))).strip() for name in ("document", "title"))
        name = " + ".join(dict.fromkeys(name for name, _ in members)) or (title if model else document or title)
        page, line = number(row.get("page")), number(row.get("line"))
        place = f"page {page:.0f}" if page is not None else f"line {line:.0f}" if line is not None else ""
        sources.append(
            Source(
                index=index,
                key=key,
                number=None if own else count,
                name=(not own and name) or _KINDS.get(kind) or clean(key),
                place=", ".join(part for part in (document, place) if part) if model else place,
                heading=clean(text_of(row.get("heading"))).strip(),
                passage=tuple(_passages(row, key, cited) if kind != "neighbours" else _remembered(tokens, key)),
                members=members,
                model=model,
                **{name: number(row.get(name)) for name in ("prior", "refined", "responsibility", "bits")},
                **{name: number(row.get(name)) for name in ("necessity", "sufficiency")},
            )
        )
    return tuple(sources)


def _remembered(tokens: list[Mapping[str, Any]], key: str) -> Iterator[Mark]:
    """In place of a passage: where the book has the words that its neighbours carried."""
    yield from (Mark(clean(line) + "\n") for line in remembered(tokens, key))


def _members(row: Mapping[str, Any]) -> tuple[tuple[str, float | None], ...]:
    """Document of each passage of a branch that holds several, and its drop."""
    members = _rows(row.get("members"))
    return tuple((clean(text_of(m.get("document"))).strip() or "?", number(m.get("left_out"))) for m in members)


def _passages(row: Mapping[str, Any], key: str, cited: list[Mapping[str, Any]]) -> Iterator[Mark]:
    """The passage, or one after the other the passages of a branch that holds several."""
    members = _rows(row.get("members"))
    if not members:
        yield from _passage(row, key, cited)
    for i, member in enumerate(members):
        if i:
            yield Mark("\n\n")
        yield from _passage(member, key, [c if c.get("member") == i else {} for c in cited])


def _passage(row: Mapping[str, Any], key: str, cited: list[Mapping[str, Any]]) -> Iterator[Mark]:
    """The passage cut at every place where a citation begins or ends; overlapping citations share a mark."""
    text = text_of(row.get("text"))
    span = row.get("span")
    first = number(span[0]) if isinstance(span, Sequence) and len(span) == 2 else None
    places: list[tuple[int, int, int]] = []
    for index, citation in enumerate(cited):
        place = _span(citation.get("source_span"), 1 << 62)
        if place is None or text_of(citation.get("source")) != key:
            continue
        start, end = (min(max(at - int(first or 0), 0), len(text)) for at in place)
        if start < end:
            places.append((start, end, index))
    cuts = sorted({0, len(text), *(at for place in places for at in place[:2])})
    for start, end in pairwise(cuts):
        inside = tuple(index for begin, stop, index in places if begin <= start and end <= stop)
        if shown := clean(text[start:end]):
            yield Mark(shown, inside)


def _citations(cited: list[Mapping[str, Any]], sources: tuple[Source, ...], length: int) -> list[Citation]:
    """The citations of known, numbered sources, in the order of their places in the answer."""
    by_key = {source.key: source for source in reversed(sources) if source.number is not None}
    found = []
    for index, row in enumerate(cited):
        source, span = by_key.get(text_of(row.get("source"))), _span(row.get("span"), length)
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
        if (span := _span(row.get("span"), len(text))) is None:
            continue
        listed = row.get("unsupported")
        spans = listed if isinstance(listed, Sequence) and not isinstance(listed, str) else []
        places = [place for value in spans if (place := _span(value, len(text)))]
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
        share = min(number(shares[source.key]) or 0.0, 1.0) if source else 0.0
        word = start + len(text[start:end]) - len(text[start:end].lstrip())
        doubted = any(word < stop and begin < end for begin, stop in doubts)
        yield Piece(clean(text[start:end]), group, sum(bits) if bits else None, source, signs(end), doubted, share)
        at, waiting = end, i + 1
    if at < len(text):
        yield Piece(clean(text[at:]), citations=signs(len(text)))


def _place(text: str, token: Mapping[str, Any], at: int) -> Span:
    """Where the token stands: its span, or, where that is unusable, its text if the answer goes on with it."""
    if span := _span(token.get("span"), len(text), at):
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


def _facts(answer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What made the answer, as label and value: model, book, settings, seed, why it ended early, timings."""
    if model := clean(text_of(answer.get("model"))):
        yield "model", model
    book = answer.get("book")
    if isinstance(book, Mapping):
        path, version = clean(text_of(book.get("path"))), book.get("version")
        if path:
            yield "book", path + ("" if version is None else f", version {clean(text_of(version))}")
    for group in ("settings", "timings"):
        values = answer.get(group)
        if isinstance(values, Mapping) and values:
            told = (_fact(clean(text_of(key)), value) for key, value in values.items() if value is not None)
            yield group, " · ".join(told)
        if group == "settings" and answer.get("seed") is not None:
            yield "seed", clean(text_of(answer.get("seed")))
        if group == "settings" and (ended := _ENDED.get(text_of(answer.get("ended")))):
            yield "ended", ended


def _certified(answer: Mapping[str, Any], tokens: list[Mapping[str, Any]]) -> str:
    """What the certificates of all words come to, with what they hold for; nothing where words have none."""
    withstood = [number(token.get("certified")) for token in tokens]
    least = min((n for n in withstood if n is not None), default=None)
    if least is None or None in withstood:
        return ""
    settings = answer.get("settings")
    asked = number(settings.get("robust")) if isinstance(settings, Mapping) else None
    cut = f" The answer is cut: its next word does not withstand {asked:.0f}." if asked and _cut(answer) else ""
    if not least:
        return f"Certified: one bad passage could have changed a word here.{cut}"
    which = "one passage" if least == 1 else f"{least:.0f} passages"
    how = "or so many put beside them, " if asked is not None else ""
    return (
        f"Certified: any {which} of those found, {how}could have held whatever text without changing a word here.{cut} "
        "That holds for what was found and its weights, and the likeliest word at each step; not for the model or "
        "the search, and it does not say that the words are true."
    )


def _cut(answer: Mapping[str, Any]) -> bool:
    return answer.get("ended") == "robust"


def _fact(key: str, value: object) -> str:
    amount = number(value)
    shown = clean(text_of(value)) if amount is None else f"{amount:.4g}"
    if amount is not None and key.endswith("_ms"):
        return f"{key[:-3].replace('_', ' ')} {amount:,.0f} ms"
    if amount is not None and key == "tokens_per_second":
        return f"{amount:.0f} tokens/s"
    return f"{key.replace('_', ' ')} {shown}"
