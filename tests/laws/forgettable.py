"""Books of which one document is to be forgotten, drawn for the tests of that."""

from __future__ import annotations

from pathlib import Path

from openbook.answer.history import keep
from openbook.book import open_book
from openbook.book.embedder import HashedWords
from openbook.book.store import Book

ENCODER = HashedWords()
MILL = """# The mill

The miller Quillfeather hid the silver under the grindstone of the mill.
Nobody but Zebedee knew of it; the sluice was opened at night.

Every document in this folder ends with this very sentence, which is nobody's.
"""


def write(folder: Path) -> Path:
    """Two documents that stay and one to forget, which has a sentence in common with them."""
    folder.mkdir()
    common = "Every document in this folder ends with this very sentence, which is nobody's.\n"
    (folder / "comet.md").write_text("# Comet\n\nThe comet was seen over the harbour in the winter.\n\n" + common)
    (folder / "river.md").write_text("# River\n\nThe river is crossed by nine bridges of stone.\n\n" + common)
    (folder / "mill.md").write_text(MILL)
    return folder


def fill(path: Path, notes: Path) -> Book:
    """Version 1 of the documents, then with the secret changed, as it has been in many a book."""
    book = open_book(path)
    (notes / "mill.md").rename(path / "mill.md")
    book.add(notes, encoder=ENCODER)
    book.tag("before")
    (path / "mill.md").rename(notes / "mill.md")
    book.add(notes, encoder=ENCODER)
    (notes / "mill.md").write_text(MILL.replace("silver", "golden candlesticks"))
    book.add(notes, encoder=ENCODER)
    return book


def raw(book: Book) -> bytes:
    return b"\n".join(file.read_bytes() for file in book.path.rglob("*") if file.is_file())


def answer(book: Book, document: str, text: str = "It is so.") -> int:
    """An answer kept with the book that has a document for its source."""
    source = {"id": "p1", "kind": "passage", "document": document, "text": text}
    at = {"path": str(book.path), "version": book.version}
    return keep(book.path, {"question": "?", "answer": text, "tokens": [], "sources": [source], "book": at})
