"""A page of a PDF as a picture, with stretches of its text marked."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from openbook.book.documents import Unreadable
from openbook.book.readers.pdf import opened, page_text

Span = tuple[int, int]
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

MARK = (255, 226, 120)
"""What paper becomes under a mark, as RGB; ink stays ink, as under a felt pen."""
MAX_SIDE, SHARPEST = 4_000, 4.0
"""Pixels of a side; pixels a point (1/72 inch)."""
# What stands for one character of a document's text, or for none, in pdfium's: see `readers.pdf.page_text`.
_PIECES = re.compile("([\ufffe\x02]\\s*)|\r\n|.", re.DOTALL)


def picture(data: bytes, page: int, spans: Sequence[Span] = (), at_most: int = 1_600) -> bytes:
    """Page `page` (from 1) as a PNG whose longer side has at most so many pixels; `spans` are characters of the
    document's text, those on other pages are passed over."""
    pdf = opened(data)
    try:
        if not 1 <= page <= len(pdf):
            raise Unreadable(f"has {len(pdf):,} pages, but page {page:,} is asked for")
        start = sum(len(page_text(pdf, number)) + 2 for number in range(page - 1)) if spans else 0
        return png(_drawn(pdf[page - 1], [(a - start, b - start) for a, b in spans], min(at_most, MAX_SIDE)))
    finally:
        pdf.close()


def _drawn(page: Any, spans: Sequence[Span], at_most: int) -> Pixels:
    longest = max(page.get_size())
    if not 0 < longest < float("inf"):
        raise Unreadable("has a page without a size")
    bitmap = page.render(scale=min(SHARPEST, at_most / longest), rev_byteorder=True, may_draw_forms=False)
    rgb_HWC = np.ascontiguousarray(bitmap.to_numpy()[:, :, :3])
    place = bitmap.get_posconv(page)
    for left, bottom, right, top in _boxes(page, spans):
        x, y = zip(place.to_bitmap(left, bottom), place.to_bitmap(right, top), strict=True)
        box = (slice(max(0, min(y) - 1), max(0, max(y) + 1)), slice(max(0, min(x) - 1), max(0, max(x) + 1)))
        rgb_HWC[box] = (rgb_HWC[box].astype(np.uint16) * np.array(MARK, np.uint16) // 255).astype(np.uint8)
    return rgb_HWC


def _boxes(page: Any, spans: Sequence[Span]) -> Iterator[tuple[float, float, float, float]]:
    """Rectangles (left, bottom, right, top; points) around the spans, one a line of text."""
    import pypdfium2.raw as raw

    content = page.get_textpage()
    try:
        places = _places(content.get_text_range())
        for a, b in spans:
            if b <= 0 or a >= len(places) or a >= b:
                continue
            first, last = (
                raw.FPDFText_GetCharIndexFromTextIndex(content, i)
                for i in (places[max(a, 0)], places[min(b, len(places)) - 1])
            )
            if 0 <= first <= last:
                yield from (content.get_rect(i) for i in range(content.count_rects(first, last - first + 1)))
    finally:
        content.close()


def _places(raw_text: str) -> list[int]:
    """For each character that a page has in the document's text, its place in pdfium's text of the page."""
    return [found.start() for found in _PIECES.finditer(raw_text) if found[1] is None]


def png(rgb_HWC: Pixels) -> bytes:
    """8-bit RGB as a PNG (ISO 15948)."""
    height, width, _ = rgb_HWC.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), rgb_HWC.reshape(height, width * 3)], 1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
