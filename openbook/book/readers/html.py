"""HTML: the readable text in reading order, paragraphs apart, without what only the browser needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from openbook.book.documents import MAX_NAME, Extracted, Heading, Unreadable, check_length, reader, tidy
from openbook.book.readers.plain import decode


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_DROP = _words("""
    head script style noscript template nav footer svg math canvas iframe object embed button select input
    textarea dialog audio video map
""")
_BLOCK = _words("""
    html body p div section article main header aside h1 h2 h3 h4 h5 h6 ul ol dl dt dd li table caption thead
    tbody tfoot pre blockquote figure figcaption details summary address form fieldset hr center
""")
_TIGHT = frozenset({"li", "dt", "dd", "tr", "br", "caption"})
"""Parted from what stands before by one newline, not by an empty line."""
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_\-]{2,40})", re.IGNORECASE)
# Elements that stay open until they are closed (others, like <p> and <li>, close themselves).
_TAG = re.compile(
    r"<(/?)(?:div|span|section|article|main|header|aside|table|ul|ol|dl|blockquote|center|form|fieldset|figure|details"
    r"|a|b|i|u|s|em|strong|font|code|small|big|tt|strike|nobr|sub|sup|q|cite|label|svg|g|math|template|object"
    r"|[a-z]+-[\w-]*)(?=[\s/>])",
    re.IGNORECASE,
)
MAX_DEPTH = 2_000
"""The parser's time grows with the square of the depth; 200,000 open `<div>` took it minutes."""


@reader(".html", ".htm", ".xhtml", media="text/html")
def read_html(data: bytes) -> Extracted:
    """Text of the body; title from `<title>`, else the first heading; scripts, styles and navigation dropped."""
    from selectolax.lexbor import LexborHTMLParser, SelectolaxError

    source, note = decode_page(data)
    check_depth(source)
    try:
        tree = LexborHTMLParser(source)
    except SelectolaxError as error:  # any text is HTML to it, so this is memory
        raise Unreadable("needs more memory to be read than there is; split it") from error
    if tree.body is None:
        raise Unreadable("holds no text")
    text = _Text()
    for step, node in walk(tree.body, _hidden):
        text.take(step, node)
    whole, headings = text.finish()
    title = tree.css_first("head title")
    named = " ".join(title.text().split()) if title else ""
    return Extracted(whole, named or (headings[0].text if headings else None), headings=headings, note=note)


def decode_page(data: bytes) -> tuple[str, str | None]:
    """The text of a page's bytes, by the encoding it names, and a note where that was not so."""
    declared = _CHARSET.search(data[:4096])
    if declared and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        name = declared[1].decode("ascii").lower()
        try:
            return tidy(data.decode(name)), None
        except (LookupError, UnicodeDecodeError):
            pass  # the page lies about itself: find out
    return decode(data)


def check_depth(source: str) -> None:
    """`Unreadable` where elements are nested deeper than the parser should be given."""
    depth = deepest = 0
    for tag in _TAG.finditer(source):
        depth = max(0, depth - 1) if tag[1] else depth + 1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise Unreadable(f"nests its elements {deepest:,} deep, more than the limit of {MAX_DEPTH:,}")


def walk(root: Any, passed_over: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """("in" | "text" | "out", node) in document order, without recursion; elements passed over with what is in them."""
    node = root
    while True:
        if node.is_text_node:
            yield "text", node
        if node.is_element_node and not passed_over(node):
            yield "in", node
            if (child := node.child) is not None:
                node = child
                continue
            yield "out", node
        while node.next is None or node.mem_id == root.mem_id:
            if node.mem_id == root.mem_id or (node := node.parent) is None:
                return
            yield "out", node
            if node.mem_id == root.mem_id:
                return
        node = node.next


def _hidden(node: Any) -> bool:
    attributes = node.attributes
    return (
        node.tag in _DROP
        or "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or attributes.get("role") in ("navigation", "search")
    )


class _Text:
    """Collects text, keeping at most one separator between two pieces."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._gap = ""
        self._pre = 0
        self._heading: tuple[int, int] | None = None
        self._headings: list[tuple[int, int, int]] = []

    def take(self, step: str, node: Any) -> None:
        if step == "text":
            self._write(node.text_content or "")
            return
        tag = node.tag
        if tag == "pre":
            self._pre += 1 if step == "in" else -1
        if tag in _TIGHT:
            self._part("\n")
        elif tag in _BLOCK:
            self._part("\n\n")
        elif tag in ("td", "th") and step == "out":
            self._part("\t")
        if len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
            self._mark(step, int(tag[1]))

    def _part(self, gap: str) -> None:
        # An empty line outweighs a newline, a newline a tab, a tab a space.
        if (len(gap), gap == "\n") > (len(self._gap), self._gap == "\n"):
            self._gap = gap

    def _write(self, raw: str) -> None:
        if self._pre:
            self._append(raw)
            return
        words = raw.split()
        if not words:
            if raw:
                self._part(" ")
            return
        if raw[0].isspace():
            self._part(" ")
        self._append(" ".join(words))
        if raw[-1].isspace():
            self._part(" ")

    def _append(self, piece: str) -> None:
        if not piece:
            return
        if self._length:
            piece = self._gap + piece
        self._gap = ""
        self._pieces.append(piece)
        self._length += len(piece)
        check_length(self._length)

    def _mark(self, step: str, level: int) -> None:
        if step == "in":
            self._heading = (self._length + (len(self._gap) if self._length else 0), level)
        elif self._heading and self._heading[0] < self._length:
            self._headings.append((self._heading[0], self._length, self._heading[1]))

    def finish(self) -> tuple[str, tuple[Heading, ...]]:
        whole = tidy("".join(self._pieces))
        # Headings may be nested: the text of each is cut, or a page of 20 MB would become thousands of copies.
        cut = ((s, e, level, whole[s : min(e, s + 2 * MAX_NAME)]) for s, e, level in self._headings)
        return whole, tuple(Heading(s, e, level, " ".join(text.split())) for s, e, level, text in cut)
