"""Word documents (Office Open XML): mammoth makes HTML of them, which is read as such."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any
from xml.etree import ElementTree

from openbook.book.documents import Extracted, Unreadable, reader, size
from openbook.book.readers.html import read_html

MAX_ENTRIES = 5_000
MAX_XML = 32 * 2**20
"""Bytes of XML, unpacked, that are parsed: a thousand pages have some 5 MB; a tree of them takes fifty times that."""
_TITLE = "{http://purl.org/dc/elements/1.1/}title"
_STYLES = "p[style-name='Title'] => h1:fresh\np[style-name='Subtitle'] => p:fresh"


@reader(".docx", media="application/vnd.openxmlformats-officedocument.wordprocessingml.document")
def read_docx(data: bytes) -> Extracted:
    """Text with its headings, lists, tables and notes; pictures are left out. Word keeps no pages in its files."""
    title = _check(data)
    try:
        html = _html(data)
    except Unreadable:
        raise
    except RecursionError as error:
        raise Unreadable("nests its elements too deeply") from error
    except Exception as error:  # mammoth's errors have no common kind
        raise Unreadable(f"is a damaged Word document ({type(error).__name__})") from error
    found = read_html(html.encode("utf-8", "replace"))
    return Extracted(found.text, title or found.title, headings=found.headings)


def _html(data: bytes) -> str:
    import mammoth

    def left_out(picture: Any) -> list[Any]:
        return []

    made = mammoth.convert_to_html(
        io.BytesIO(data),
        convert_image=left_out,
        style_map=_STYLES,
        include_embedded_style_map=False,  # a file says nothing of how it is read
        external_file_access=False,
    )
    html: str = made.value
    return html


def _check(data: bytes) -> str | None:
    """The document's title; `Unreadable` where the file is no Word document, or too much is packed in it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_ENTRIES:
                raise Unreadable(f"packs {len(entries):,} files, more than the limit of {MAX_ENTRIES:,}")
            parts = [entry for entry in entries if entry.filename.endswith((".xml", ".rels"))]
            # What is unpacked of an entry ends at this size, even where that is a lie.
            if (total := sum(entry.file_size for entry in parts)) > MAX_XML:
                raise Unreadable(f"unpacks to {size(total)} of text, more than the limit of {size(MAX_XML)}; split it")
            if any(entry.flag_bits & 1 for entry in entries):
                raise Unreadable("is encrypted; save a copy without a password")
            texts = {entry.filename: archive.read(entry) for entry in parts}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        whole = "" if data.startswith(b"PK") else ", whatever its name says"
        raise Unreadable(f"is not a Word document{whole} ({error})"[:200]) from error
    except (RuntimeError, zlib.error) as error:
        raise Unreadable("is a damaged Word document") from error
    if "[Content_Types].xml" not in texts:
        raise Unreadable("is a zip file, but not a Word document")
    # Word writes no declarations of entities; with them a few bytes unpack to gigabytes (in UTF-16 too).
    if any(b"<!DOCTYPE" in text.replace(b"\0", b"") for text in texts.values()):
        raise Unreadable("declares entities, which a Word document does not")
    return _title(texts.get("docProps/core.xml"))


def _title(core: bytes | None) -> str | None:
    try:
        return None if core is None else ElementTree.fromstring(core).findtext(_TITLE)  # noqa: S314  (no entities)
    except (ElementTree.ParseError, ValueError):
        return None
