"""Reading a file of pairs, and the pairs of a book."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from openbook.book.documents import Extracted, Unreadable, check_length, load, stored_as
from openbook.book.faq.forms import form_of, forms
from openbook.book.faq.pairs import MEDIA, Pair, Problem, Sorted, sort_out, stored, written
from openbook.book.manifest import faults
from openbook.book.readers.html import decode_page
from openbook.book.readers.plain import decode

if TYPE_CHECKING:
    from openbook.book.store import Book

SHOWN = 5
"""Problems that a document's note tells of."""


def read_pairs(path: Path) -> Sorted:
    """The pairs of a file and what was left out of it; `Unreadable` where that is not a file of pairs."""
    return sorted_pairs(load(path).data, path)


def sorted_pairs(data: bytes, path: Path) -> Sorted:
    """The pairs in a file's bytes; its form is that of the path's ending."""
    find = form_of(path.suffix)
    if find is None:
        raise Unreadable(f"is of no form in which pairs are read; these are: {' '.join(forms())}", str(path))
    try:
        text, _ = decode_page(data) if path.suffix.lower() in (".html", ".htm", ".xhtml") else decode(data)
        check_length(len(text))
        made = sort_out(find(text))
        if not made.pairs:
            raise Unreadable(_empty(made.problems))
    except Unreadable as error:
        raise Unreadable(error.reason, str(path)) from error
    return made


def _empty(problems: list[Problem]) -> str:
    if not problems:
        return "holds no questions with answers; pairs are rows of question and answer, or headings that ask something"
    return f"holds no whole pair: {problems[0]}" + (f", and {len(problems) - 1} more" if len(problems) > 1 else "")


@stored_as(MEDIA)
def as_pairs(data: bytes, path: Path) -> Extracted:
    """A file of pairs as the document it becomes."""
    made = sorted_pairs(data, path)
    note = None
    if made.problems:
        more = f", and {len(made.problems) - SHOWN} more" if len(made.problems) > SHOWN else ""
        note = f"left out: {'; '.join(map(str, made.problems[:SHOWN]))}{more}"[:1_000]
    return written(made.pairs, note=note)


def pairs_of(book: Book) -> Iterator[Pair]:
    """All pairs of a book at its version, document by document."""
    for row in texts_of(book, MEDIA):
        yield from stored(row["name"], row["title"], row["text"])


def texts_of(book: Book, media: str) -> list[dict[str, str]]:
    """Names, titles and texts of a book's documents of one kind, by name."""
    if book.documents_table is None:
        return []
    with faults(book.path):
        columns = ["name", "title", "text"]
        rows = book.documents_table.scanner(columns=columns, filter=f"media = '{media}'").to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["name"]))
