"""Markdown and reStructuredText: the text as it stands, and where its headings are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from openbook.book.documents import Extracted, Heading, reader
from openbook.book.readers.plain import decode

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_NO_PARAGRAPH = re.compile(r"\s*$| {4}|\t|\s*(?:[-*+>|]|\d+[.)])(?:\s|$)")
_FRONT_TITLE = re.compile(r"title:[ \t]*[\"']?(.*?)[\"']?[ \t]*$")
_RULE = re.compile(r"([=\-`:'\"~^_*+#<>.!$%&(),/;?@\[\]\\{|}])\1{2,}[ \t]*$")

MAX_LINE = 1_000
"""A longer line is no heading: the patterns that take one apart need time that grows with its square."""

Line = tuple[int, str]
"""Offset of a line's first character, and the line without its newline."""


@reader(".md", ".markdown", ".mdx", ".mkd", ".qmd", ".rmd", media="text/markdown")
def read_markdown(data: bytes) -> Extracted:
    """ATX and setext headings outside code fences; the title is front matter's, else the first heading's."""
    text, note = decode(data)
    lines, title = list(lines_of(text)), None
    if lines and lines[0][1].rstrip() == "---":
        end = next((i for i, (_, line) in enumerate(lines[1:], 1) if line.rstrip() in ("---", "...")), 0)
        if end:
            titles = (_FRONT_TITLE.match(line) for _, line in lines[1:end] if len(line) <= MAX_LINE)
            title = next((found[1] for found in titles if found), None)
            lines = lines[end + 1 :]
    headings = tuple(markdown_headings(lines))
    return Extracted(text, title or _first(headings), headings=headings, note=note)


def lines_of(text: str) -> Iterator[Line]:
    """The lines of a text, each with its offset."""
    start = 0
    for line in text.split("\n"):
        yield start, line
        start += len(line) + 1


def _first(headings: tuple[Heading, ...]) -> str | None:
    return next((h.text for h in headings if h.text), None)


def markdown_headings(lines: Iterable[Line]) -> Iterator[Heading]:
    """Headings of Markdown, in order: ATX and setext, none inside a code fence."""
    fence = ""
    before: Line | None = None  # the line above, while it could be the text of a setext heading
    for start, line in lines:
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
            before = None
        elif mark:
            fence, before = mark[1], None
        elif len(line) <= MAX_LINE and (atx := _ATX.match(line)):
            yield Heading(start, start + len(line), len(atx[1]), _plain(atx[2] or ""))
            before = None
        elif before and (under := _SETEXT.match(line)):
            yield Heading(before[0], start + len(line), 1 if under[1][0] == "=" else 2, _plain(before[1]))
            before = None
        else:
            # A paragraph of several lines may be a setext heading too, but far oftener a rule follows it.
            first = before is None and len(line) <= MAX_LINE and not _NO_PARAGRAPH.match(line)
            before = (start, line) if first else None


def _plain(heading: str) -> str:
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    heading = re.sub(r"[`*]+|\s*\{#[^}]*\}\s*$", "", heading)
    return " ".join(heading.split())


@reader(".rst", ".rest", media="text/x-rst")
def read_rst(data: bytes) -> Extracted:
    """reStructuredText: levels follow the order in which underline styles first appear."""
    text, note = decode(data)
    headings = tuple(_rst_headings(list(lines_of(text))))
    return Extracted(text, _first(headings), headings=headings, note=note)


def _rst_headings(lines: list[Line]) -> Iterator[Heading]:
    styles: list[str] = []
    for i in range(1, len(lines)):
        (start, above), (under, line) = lines[i - 1], lines[i]
        rule = _RULE.match(line)
        if not rule or not above.strip() or _RULE.match(above) or len(line.rstrip()) < len(above.rstrip()):
            continue
        if len(above) > MAX_LINE:
            continue
        over = i >= 2 and lines[i - 2][1].rstrip() == line.rstrip()
        if not over and (above[0].isspace() or (i >= 2 and lines[i - 2][1].strip())):
            continue  # indented text or the end of a paragraph: a table or a quotation, not a title
        style = rule[1] + ("over" if over else "")
        if style not in styles:
            styles.append(style)
        first = lines[i - 2][0] if over else start
        yield Heading(first, under + len(line), styles.index(style) + 1, _rst_plain(above))


def _rst_plain(heading: str) -> str:
    heading = re.sub(r":[\w:+-]+:`([^`<]*?)(?:\s*<[^`]*>)?`", r"\1", heading)
    return " ".join(re.sub(r"[`*]+", "", heading).replace("\\ ", "").split())
