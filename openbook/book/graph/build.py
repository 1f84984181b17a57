"""Bringing what is stored of a book's documents up to date: only documents that are new or changed are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openbook.book import versions
from openbook.book.graph.extract import FORMAT, extract, extractors, version_of
from openbook.book.graph.stored import FOLDER, Key, Store, key_of, keys, line_of, read_listing, writing
from openbook.book.manifest import BookFault, faults
from openbook.book.tables import quoted

if TYPE_CHECKING:
    from openbook.book.store import Book

Progress = Callable[[int, int, str], None]
"""Called with (documents read, of how many, what is being done)."""
AT_ONCE = 256
"""Documents that are stored at once: what a kill can cost."""
CHARACTERS = 1 << 23
"""Characters of them, at about."""


@dataclass(frozen=True)
class Caught:
    """What `catch_up` did: documents read, mentions found in them, seconds."""

    documents: int = 0
    mentions: int = 0
    seconds: float = 0.0


def contents(book: Book) -> set[Key]:
    """Each document of a book at its version: its id and the hash of its content."""
    if book.documents_table is None:
        return set()
    with faults(book.path):
        rows = book.documents_table.scanner(columns=["id", "hash"]).to_table()
    return set(zip(rows["id"].to_pylist(), rows["hash"].to_pylist(), strict=True))


def named(book: Book) -> dict[str, Key]:
    """The same by the documents' names."""
    if book.documents_table is None:
        return {}
    with faults(book.path):
        rows = book.documents_table.scanner(columns=["name", "id", "hash"]).to_table().to_pylist()
    return {row["name"]: (row["id"], row["hash"]) for row in rows}


def catch_up(book: Book, by: str = "built-in", progress: Progress | None = None) -> Caught:
    """Extract the documents of the book's version that were not yet; a batch is durable when it was stored.

    `BookFault` for an extractor that is not registered, a full disk, and where the version was forgotten meanwhile.
    """
    began, documents, mentions = time.monotonic(), 0, 0
    if by not in extractors():
        raise BookFault(f"no extractor is called {by!r}; there are: {', '.join(extractors())}")
    folder, made = book.path / FOLDER, version_of(by)
    missing = sorted(contents(book) - _stored(book, made))
    if not missing and read_listing(folder) is not None:
        return Caught()
    told = progress or (lambda done, total, what: None)
    for batch in _batches(book, [id for id, _ in missing]):
        told(documents, len(missing), "finding names")
        fresh = []
        for row in batch:
            found = extract(row["text"], by)
            fresh.append(line_of((row["id"], row["hash"]), row["title"] or "", found))
            documents, mentions = documents + 1, mentions + len(found.mentions)
            told(documents, len(missing), row["name"])
        _store(book, made, fresh)
    if not missing:
        _store(book, made, [])
    told(len(missing), len(missing), "")
    return Caught(documents, mentions, time.monotonic() - began)


def _stored(book: Book, made: str) -> set[Key]:
    listing = read_listing(book.path / FOLDER)
    if listing is None or (listing.by, listing.format) != (made, FORMAT):
        return set()
    return keys(book.path / FOLDER)


def _store(book: Book, made: str, fresh: list[str]) -> None:
    """Under the lock that forgetting takes last: what it has forgotten is not written again."""
    folder = book.path / FOLDER
    with faults(book.path), writing(folder):
        if versions.gone(book.path, book.version):
            raise BookFault(f"{book.path}: version {book.version} is gone, a document of it was forgotten; try again")
        store = Store(folder, made)
        there = store.keys()
        store.append([line for line in fresh if key_of(line.encode()) not in there])


def documents_of(book: Book, ids: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of documents with their text; long texts are not all held at once."""
    for batch in _batches(book, ids):
        yield from batch


def _batches(book: Book, ids: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows of documents, some at a time; long texts are not all held at once."""
    columns, batch, length = ["id", "hash", "name", "title", "text"], list[dict[str, Any]](), 0
    table = book.documents_table
    for at in range(0, len(ids), AT_ONCE):
        where = f"id IN ({quoted(ids[at : at + AT_ONCE])})"
        with faults(book.path):
            rows = table.scanner(columns=columns, filter=where, batch_size=16).to_batches()  # type: ignore[union-attr]
            for part in rows:
                for row in part.to_pylist():
                    batch.append(row)
                    length += len(row["text"])
                    if length >= CHARACTERS:
                        yield batch
                        batch, length = [], 0
        if batch:
            yield batch
            batch, length = [], 0
