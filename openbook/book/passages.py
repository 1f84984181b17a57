"""Passages: a document cut into pieces a model can read, each knowing its exact place.

Laws (tests/laws/test_passages.py): a piece's text is `document.text[start:end]`; pieces are in order and disjoint;
every character that is not white space lies in one; none costs more than `limit` or has more than `MAX_CHARS`
characters; none runs from the body of one section into the next.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from openbook.book.documents import MAX_NAME, Document
from openbook.book.embedder import TokenCounter
from openbook.book.sentences import Span, cut_near, sentences, trim

MAX_TOKENS = 200
MAX_CHARS = 2_000
BYTES_A_TOKEN = 8
"""Word pieces count a word of any length as one; a Thai one is a sentence, and hundreds of tokens of a language model.
So a piece costs at least its bytes of UTF-8 over this, indentation apart. English and Chinese have fewer bytes to one.
"""

_BLANK = re.compile(r"\n[ \t\f\v]*\n\s*")
_SPACES = re.compile(r"[ \t\n]+")
_DEFINITION = re.compile(
    r"\n(?=(?:(?:export|public|private|protected|static|async|pub|abstract|final|inline) )*"
    r"(?:def|class|function|func|fn|impl|struct|enum|trait|interface|type|module|namespace|template|create|@\w+)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Piece:
    """A passage before it is stored: `start:end` are characters of the document's text, line and page count from 1."""

    text: str
    start: int
    end: int
    line: int
    page: int | None
    heading: str | None


@dataclass(frozen=True)
class Passage:
    """A stored passage. `document` is the document's name, `start:end` characters of its text, `line` from 1.

    The id is made of name, place and text: it stays the same when unchanged text is added again.
    """

    id: str
    document: str
    title: str
    heading: str | None
    text: str
    start: int
    end: int
    page: int | None
    line: int


def passage_id(document: str, piece: Piece) -> str:
    """32 hexadecimal digits of the document's name, the span and the text."""
    key = f"{document}\0{piece.start}\0{piece.end}\0{piece.text}"
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def in_place(title: str, heading: str | None, text: str) -> str:
    """What both searches read of a passage: its document's title and section stand before it (docs/book.md)."""
    sections = [part for part in (heading or "").split(" > ") if part and part != title]
    return " > ".join([title, *sections]) + "\n" + text


@dataclass(frozen=True)
class _Unit:
    """What is packed whole: a sentence, a line, or a part of one too long. `opens`: a paragraph begins with it."""

    span: Span
    section: int
    opens: bool
    tokens: int = -1

    @property
    def chars(self) -> int:
        return self.span[1] - self.span[0]


def split(document: Document, counter: TokenCounter, limit: int = MAX_TOKENS) -> list[Piece]:
    """Cut a document into pieces that cost at most `limit` (8 or more), preferring paragraphs, then sentences."""
    text = document.text
    sections = list(_sections(document))
    units = _fit(text, list(_units(document, sections)), counter, limit)
    packed = [unit for section in _by_section(units) for unit in _pack(section, limit)]
    # Tokens of two neighbours may join to more than their sum: counted again, and cut where they do.
    packed = _fit(text, packed, counter, limit)
    newlines = [match.start() for match in re.finditer("\n", text)]
    return [
        Piece(
            text=text[unit.span[0] : unit.span[1]],
            start=unit.span[0],
            end=unit.span[1],
            line=bisect_left(newlines, unit.span[0]) + 1,
            page=document.page(unit.span[0]),
            heading=sections[unit.section][1],
        )
        for unit in packed
    ]


def _sections(document: Document) -> Iterator[tuple[Span, str | None]]:
    """(span, path of headings). Headings with no text between them open one section, named by the last."""
    text, begin, path, label = document.text, 0, dict[int, str](), None
    body_from = 0
    for heading in document.headings:
        if trim(text, body_from, heading.start):
            yield (begin, heading.start), label
            begin = heading.start
        path = {level: name for level, name in path.items() if level < heading.level}
        path[heading.level] = heading.text[:MAX_NAME]
        label = " > ".join(name for _, name in sorted(path.items()) if name) or None
        body_from = heading.end
    yield (begin, len(text)), label


def _units(document: Document, sections: list[tuple[Span, str | None]]) -> Iterator[_Unit]:
    text = document.text
    for index, ((start, end), _) in enumerate(sections):
        for block in _blocks(text, start, end, code=document.kind == "code"):
            opens = True
            parts = sentences(text, *block) if document.kind == "prose" else _lines(text, *block)
            for span in parts:
                yield _Unit(span, index, opens)
                opens = False


def _blocks(text: str, start: int, end: int, code: bool) -> Iterator[Span]:
    """Paragraphs: what stands between empty lines; in code also between top-level definitions."""
    begin = start
    cuts = [match.end() for match in _BLANK.finditer(text, start, end)]
    if code:
        # The white space of an empty line may hold the next line's indentation, which code needs.
        cuts = [text.rfind("\n", start, cut) + 1 for cut in cuts]
        cuts = sorted({*cuts, *_definitions(text, start, end)})
    for cut in [*cuts, end]:
        if trim(text, begin, cut):
            yield begin, cut
        begin = cut


def _definitions(text: str, start: int, end: int) -> Iterator[int]:
    for match in _DEFINITION.finditer(text, start, end):
        above = text.rfind("\n", start, match.start()) + 1
        if not text.startswith("@", above):  # a decorator belongs to what it decorates
            yield match.end()


def _lines(text: str, start: int, end: int) -> Iterator[Span]:
    """Lines that hold something, with their indentation, without their newline."""
    begin = start
    while begin < end:
        stop = text.find("\n", begin, end)
        stop = end if stop < 0 else stop
        if kept := trim(text, begin, stop):
            yield begin, kept[1]
        begin = stop + 1


def _fit(text: str, units: list[_Unit], counter: TokenCounter, limit: int) -> list[_Unit]:
    """The same stretch in units within both bounds, counted; all units of a round are counted in one call."""
    units = [part for unit in units for part in _divide(text, unit, -(-unit.chars // MAX_CHARS))]
    while True:
        fresh = [i for i, unit in enumerate(units) if unit.tokens < 0]
        texts = [text[slice(*units[i].span)] for i in fresh]
        for i, own, count in zip(fresh, texts, counter.count_tokens(texts), strict=True):
            units[i] = replace(units[i], tokens=max(count, _least(own)))
        if all(unit.tokens <= limit or unit.chars == 1 for unit in units):
            return units
        units = [part for unit in units for part in _divide(text, unit, -(-unit.tokens // limit))]


def _least(text: str) -> int:
    return -(-len(_SPACES.sub(" ", text).encode("utf-8", "surrogatepass")) // BYTES_A_TOKEN)


def _divide(text: str, unit: _Unit, parts: int) -> list[_Unit]:
    """The unit itself for one part, else about `parts` uncounted units of about equal length that cover it."""
    (start, end), found = unit.span, list[_Unit]()
    if parts <= 1 or unit.chars < 2:
        return [unit]
    opens = unit.opens
    for left in range(parts, 0, -1):
        cut = end
        if left > 1 and end - start >= 2:
            cut = cut_near(text, start, end, start + (end - start) // left, reach=(end - start) // (4 * left))
        if span := trim(text, start, cut):
            found.append(_Unit(span, unit.section, opens))
            opens = False
        start = cut
    return found


def _by_section(units: list[_Unit]) -> Iterator[list[_Unit]]:
    for _, section in groupby(units, key=lambda unit: unit.section):
        yield list(section)


def _pack(units: list[_Unit], limit: int) -> list[_Unit]:
    """Neighbours joined while both bounds allow; a passage at least half full ends where a paragraph does."""
    packed: list[_Unit] = []
    for index, unit in enumerate(units):
        last = packed[-1] if packed else None
        full = last and unit.opens and 2 * last.tokens >= limit
        if last and _joins(last, unit, limit) and not (full and _paragraph(units, index) + last.tokens > limit):
            packed[-1] = _join(last, unit)
        else:
            packed.append(unit)
    if len(packed) > 1 and 8 * packed[-1].tokens < limit and _joins(packed[-2], packed[-1], limit):
        packed[-2:] = [_join(packed[-2], packed[-1])]
    return [replace(unit, tokens=-1) for unit in packed]


def _joins(left: _Unit, right: _Unit, limit: int) -> bool:
    return left.tokens + right.tokens <= limit and right.span[1] - left.span[0] <= MAX_CHARS


def _join(left: _Unit, right: _Unit) -> _Unit:
    return replace(left, span=(left.span[0], right.span[1]), tokens=left.tokens + right.tokens)


def _paragraph(units: list[_Unit], index: int) -> int:
    """Tokens of the paragraph that unit `index` opens, counted no further than one passage needs."""
    total = units[index].tokens
    for unit in units[index + 1 : index + 1 + MAX_CHARS]:
        if unit.opens:
            break
        total += unit.tokens
    return total
