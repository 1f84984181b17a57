"""The sources of an answer, numbered, and their passages with the cited places marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from openbook.answer.page.remembered import remembered
from openbook.answer.page.values import clean, number, rows_of, span_of, text_of

_KINDS = {
    "closed_book": "The model’s own memory",
    "neighbours": "Neighbours in the datastore",
    "faq": "A stored question and answer",
    "report": "A community report",
    "model": "A model",
    "image": "An image",
}


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


def sources_of(
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
    members = rows_of(row.get("members"))
    return tuple((clean(text_of(m.get("document"))).strip() or "?", number(m.get("left_out"))) for m in members)


def _passages(row: Mapping[str, Any], key: str, cited: list[Mapping[str, Any]]) -> Iterator[Mark]:
    """The passage, or one after the other the passages of a branch that holds several."""
    members = rows_of(row.get("members"))
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
        place = span_of(citation.get("source_span"), 1 << 62)
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
