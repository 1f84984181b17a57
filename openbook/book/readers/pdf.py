"""PDF, a page at a time."""

from __future__ import annotations

import re
from typing import Any

from openbook.book.documents import MAX_PAGES, Extracted, Unreadable, check_length, reader, tidy

# pdfium marks a hyphen that only the line's end put there with U+FFFE (older: U+0002).
_SOFT_HYPHEN = re.compile("[\ufffe\x02]\\s*")


@reader(".pdf", media="application/pdf")
def read_pdf(data: bytes) -> Extracted:
    """Text of all pages, an empty line between two; `page_starts` says where each begins."""
    pdf = opened(data)
    try:
        return _extract(pdf)
    finally:
        pdf.close()


def opened(data: bytes) -> Any:
    """The file as pdfium sees it, which the caller closes; `Unreadable` says why not."""
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise Unreadable(_reason(data, str(error))) from error


def _reason(data: bytes, message: str) -> str:
    if b"%PDF-" not in data[:1024]:
        return "is not a PDF, whatever its name says"
    if "assword" in message or "ecurity" in message:
        return "is encrypted; save a copy without a password"
    tail = "" if b"%%EOF" in data[-2048:] else " and ends too early (an unfinished download?)"
    return f"is a damaged PDF{tail}"


def _extract(pdf: Any) -> Extracted:
    count = len(pdf)
    if count > MAX_PAGES:
        raise Unreadable(f"has {count:,} pages, more than the limit of {MAX_PAGES:,}; split it")
    pieces: list[str] = []
    starts: list[int] = []
    length, broken = 0, []
    for number in range(count):
        try:
            page = _page(pdf, number)
        except Unreadable:
            raise
        except Exception:  # one damaged page must not cost the others; pdfium's errors are untyped
            broken.append(number + 1)
            page = ""
        if pieces:
            pieces.append("\n\n")
            length += 2
        starts.append(length)
        pieces.append(page)
        length += len(page)
        check_length(length)
    text = "".join(pieces)
    if not text.strip():
        raise Unreadable("holds no text (scanned?); run it through OCR first")
    note = f"pages that could not be read: {', '.join(map(str, broken))}" if broken else None
    return Extracted(text, _title(pdf), page_starts=tuple(starts), note=note)


def page_text(pdf: Any, number: int) -> str:
    """What page `number` (from 0) has in the document's text."""
    try:
        return _page(pdf, number)
    except Exception:  # as `_extract` has it: pdfium's errors are untyped
        return ""


def _page(pdf: Any, number: int) -> str:
    page = pdf[number]
    try:
        content = page.get_textpage()
        try:
            return tidy(_SOFT_HYPHEN.sub("", content.get_text_range()))
        finally:
            content.close()
    finally:
        page.close()


def _title(pdf: Any) -> str | None:
    try:
        return tidy(str(pdf.get_metadata_dict().get("Title") or "")) or None
    except Exception:  # metadata is a courtesy; a broken one is no reason to refuse the text
        return None
