"""An answer as Markdown: each citation a footnote with document, place and the quoted words.

Everything that is not ours is escaped so that it stays text under CommonMark and GitHub's extensions (tables, strike,
footnotes, bare addresses, mathematics): it makes no link, no HTML, no heading, and ends neither its line nor its note.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from openbook.answer.page.figures import percent, signed
from openbook.answer.page.reading import Reading, read
from openbook.answer.page.values import clean, rows_of, text_of
from openbook.answer.report.plain import cited

CAVEAT = (
    "A note says which passage *caused* the words before it; whether the passage *supports* them is for you to read."
)
_SPECIAL = re.compile(r"[\\`*_\[\]{}#|~$^!]")
_ENTITY = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# What begins a block where a line begins: headings, quotes, lists, rules, underlines, definitions.
_OPENS = re.compile(r"^(\s*)([+\-=:]|\d{1,9}(?=[.)]))")
_WORD_JOINER = "\u2060"


def markdown(answer: Mapping[str, Any]) -> str:
    """The answer's dict as a document of its own."""
    reading = read(answer)
    quoted = [text_of(row.get("cited_text")) for row in rows_of(answer.get("citations"))]
    parts = [f"## {escape(reading.question)}" if reading.question.strip() else "", _said(reading)]
    if reading.sources:
        parts.append("\n".join(_table(reading)))
    parts.append("\n\n".join(_notes(reading, quoted)))
    facts = " · ".join(f"{label}: {escape(value)}" for label, value in reading.facts)
    parts.append("\n\n".join(["---", *([facts] if facts else []), *([CAVEAT] if cited(reading) else [])]))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Text as Markdown that shows it on one line, whatever it is."""
    text = " ".join(clean(text).replace("\ufffe", "").replace("\uffff", "").split())
    text = "".join(_ENTITY.get(c, c) for c in _SPECIAL.sub(r"\\\g<0>", text))
    # Bare addresses: no colon before slashes, no dot between words, no name after an @ (GitHub joins escapes again
    # before it looks for mail addresses, so there something must stand between).
    text = re.sub(r":(?=//)", r"\\:", text)
    text = re.sub(r"(?i)(?<=\w)\.(?=[^\W\d_])|(?<=www)\.", r"\\.", text)
    text = re.sub(r"@(?=\S)", "@" + _WORD_JOINER, text)
    return _OPENS.sub(lambda found: _opened(found[1], found[2]), text)


def _opened(space: str, sign: str) -> str:
    return f"{space}{sign[:-1]}&#{ord(sign[-1])};" if sign[-1].isdigit() else f"{space}\\{sign}"


def _said(reading: Reading) -> str:
    order = {index: number for number, (index, _) in enumerate(cited(reading), 1)}
    text, notes = "", []
    for piece in reading.pieces:  # the signs are put in after the text was escaped as a whole: see `_inside`
        text += piece.text
        notes += [(len(text), order[citation.index]) for citation in piece.citations]
    told = ["\n\n".join(_paragraphs(text, notes))] if reading.draft else []
    if reading.abstained:
        reason = escape(reading.reason or "nothing in the book has to do with it")
        told = [f"**Not answered:** {reason}.", *(["What was written before that:", *told] if told else [])]
    return "\n\n".join(told)


def _paragraphs(text: str, notes: list[tuple[int, int]]) -> Iterator[str]:
    """Each line of the answer a paragraph, with the signs of the notes that stand in it; both are in order."""
    at, left = 0, deque(notes)
    for line in text.split("\n"):
        cuts, signs = [0], []
        while left and left[0][0] <= at + len(line):
            place, number = left.popleft()
            cuts.append(max(place - at, 0))
            signs.append(f"[^{number}]")
        pieces = [_inside(line[a:b], first=a == 0) for a, b in pairwise([*cuts, len(line)])]
        told = "".join(piece + sign for piece, sign in zip(pieces, [*signs, ""], strict=True))
        if told.strip():
            yield told.strip()
        at += len(line) + 1


def _inside(piece: str, first: bool) -> str:
    """A piece of a line, its white space at both ends kept; at the line's beginning it may open no block."""
    lead = " " if piece[:1].isspace() and not first else ""
    tail = " " if piece[-1:].isspace() and piece.strip() else ""
    return lead + escape(piece) + tail


def _table(reading: Reading) -> Iterator[str]:
    yield "| | source | place | share | bits |"
    yield "|--:|---|---|--:|--:|"
    for s in reading.sources:
        number = "" if s.number is None else str(s.number)
        yield f"| {number} | {escape(s.name)} | {escape(s.place)} | {percent(reading.share(s))} | {signed(s.bits)} |"


def _notes(reading: Reading, quoted: list[str]) -> Iterator[str]:
    sources = {source.index: source for source in reading.sources}
    shares = {c.index: c.responsibility for piece in reading.pieces for c in piece.citations}
    for number, (index, which) in enumerate(cited(reading), 1):
        source = sources[which]
        place = f", {escape(source.place)}" if source.place else ""
        share = "" if shares[index] is None else f" ({percent(shares[index])} of these words)"
        yield f"[^{number}]: **{escape(source.name)}**{place}: “{escape(quoted[index])}”{share}"
