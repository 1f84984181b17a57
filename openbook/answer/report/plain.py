"""An answer as plain text: what was said, each citation a number, and under it the places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from openbook.answer.page.figures import percent, signed
from openbook.answer.page.reading import Reading, read
from openbook.answer.page.values import clean, rows_of, text_of

CAVEAT = "A number says which passage caused the words before it; whether the passage supports them is for you to read."


def plain(answer: Mapping[str, Any]) -> str:
    """The answer, its citations and where they stand, as text for a person or a program that reads."""
    reading = read(answer)
    lines = list(_said(reading))
    quoted = [text_of(row.get("cited_text")) for row in rows_of(answer.get("citations"))]
    notes = list(_notes(reading, quoted))
    return "\n".join([*lines, *(["", *notes, "", CAVEAT] if notes else [])])


def cited(reading: Reading) -> list[tuple[int, int]]:
    """Each citation that stands in the text, as (index in the answer's list, index of its source), in reading order."""
    return [(c.index, c.source.index) for piece in reading.pieces for c in piece.citations]


def _said(reading: Reading) -> Iterator[str]:
    if reading.abstained:
        yield f"openbook does not answer this: {reading.reason or 'nothing in the book has to do with it'}."
        if not reading.draft:
            return
        yield "What was written before that:"
    order = {index: number for number, (index, _) in enumerate(cited(reading), 1)}
    yield "".join(
        piece.text + "".join(f"[{order[citation.index]}]" for citation in piece.citations) for piece in reading.pieces
    )


def _notes(reading: Reading, quoted: list[str]) -> Iterator[str]:
    sources = {source.index: source for source in reading.sources}
    shares = {c.index: c.responsibility for piece in reading.pieces for c in piece.citations}
    for number, (index, which) in enumerate(cited(reading), 1):
        source = sources[which]
        place = ", ".join(part for part in (source.name, source.place) if part)
        share = "" if shares[index] is None else f" ({percent(shares[index])} of these words)"
        yield f'[{number}] {_line(place)}{share}: "{_line(quoted[index])}"'
    if reading.bits is not None and reading.sources:
        yield f"The book added {signed(reading.bits)} bits to what the model would have written alone."


def _line(text: str) -> str:
    return " ".join(clean(text).split())
