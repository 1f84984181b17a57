"""One writer of a book: batches go in whole, each a new version."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from openbook.book import indices, tables
from openbook.book.documents import Document
from openbook.book.manifest import Manifest, Synced, now, publish
from openbook.book.passages import Piece, in_place, passage_id

if TYPE_CHECKING:
    import lance

_ID = re.compile("[0-9a-f]{32}")  # of a passage


@dataclass(frozen=True)
class Entry:
    """A document to store: its row without text, the document, its pieces."""

    id: str
    path: str
    root: str
    hash: str
    size: int
    mtime_ns: int
    document: Document
    pieces: list[Piece]


@dataclass
class Batch:
    """What one commit changes: documents that go (ids), then documents that come."""

    gone: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    @property
    def passages(self) -> int:
        return sum(len(entry.pieces) for entry in self.entries)

    def __bool__(self) -> bool:
        return bool(self.gone or self.entries)


def document_id(name: str) -> str:
    """32 hexadecimal digits of the document's name."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


class Writer:
    """Writes batches into the book at `path`, whose lock the caller holds; `made` is what `versions` says of them."""

    def __init__(self, path: Path, manifest: Manifest, made: str = "add") -> None:
        self.path = path
        self.manifest = manifest
        self._made, self._since = made, manifest.version
        self._synced = Synced(path)
        self._tables: tuple[lance.LanceDataset, lance.LanceDataset] | None = None

    def commit(self, batch: Batch, vectors_NM: npt.NDArray[np.float32], encoder: str, width: int) -> Manifest:
        """Store a batch; durable when this returns. `vectors_NM` has a row a piece, in the order of the entries."""
        documents, passages = self._open(width)
        stale = self._passage_ids(passages, batch.gone)
        tables.remove(passages, "document_id", batch.gone)
        tables.remove(documents, "id", batch.gone)
        fresh: set[object] = set()
        if batch.entries:
            rows = _passage_rows(batch.entries)
            fresh = set(rows["id"])
            _insert(passages, {**rows, "vector": tables.vectors(vectors_NM)})
            _insert(documents, _document_rows(batch.entries))
        self._publish(encoder=encoder, width=width)
        if stale := stale - fresh:
            self._forget_kv(stale.__contains__)
        return self.manifest

    def sweep(self) -> None:
        """Forget what a writer that was killed after it published left of passages that are no more."""
        if not (self.path / "kv").is_dir():
            return
        kept: set[object] = set()
        if self.manifest.width is not None:
            _, passages = self._open(self.manifest.width)
            kept = set(passages.scanner(columns=["id"]).to_table()["id"].to_pylist())
        self._forget_kv(lambda id: id not in kept)

    @property
    def due(self) -> bool:
        """Whether so much was stored since the last `tend` that it should not wait for the end."""
        return self._tables is not None and any(map(tables.due, self._tables))

    def tend(self) -> Manifest:
        """Join small fragments and index new rows, as a version of its own where that changed anything."""
        if self.manifest.width is not None:
            documents, passages = self._open(self.manifest.width)
            tables.tend(documents)
            tables.tend(passages)
            self._publish_if_changed()
        return self.manifest

    def settle(self) -> Manifest:
        """Make the live version the tables' newest, as Lance removes old ones alone; after a `use` it may not be."""
        if self.manifest.width is not None:
            self._open(self.manifest.width)
            self._publish_if_changed()
        return self.manifest

    def expunge(self, documents: Sequence[str]) -> Manifest:
        """Remove documents (ids), their rows and their words from the live version; it alone has what follows.

        Lance hides what is deleted; here the rows' files are written anew and the indices are built from what stays.
        """
        if self.manifest.width is not None:
            for table, column in zip(self._open(self.manifest.width), ("id", "document_id"), strict=True):
                tables.remove(table, column, documents)
                tables.expunge(table)
            self._publish_if_changed()
        self.sweep()
        return self.manifest

    def _publish_if_changed(self) -> None:
        if self._tables is None:
            return
        documents, passages = self._tables
        if (documents.version, passages.version) != (self.manifest.documents_table, self.manifest.passages_table):
            self._publish()

    def _open(self, width: int) -> tuple[lance.LanceDataset, lance.LanceDataset]:
        if self._tables is None:
            paths = self.path / tables.DOCUMENTS, self.path / tables.PASSAGES
            at = self.manifest
            if at.documents_table is None or at.passages_table is None:
                documents = tables.create(paths[0], tables.documents_schema())
                passages = tables.create(paths[1], tables.passages_schema(width))
                indices.create(passages)
            else:
                documents = tables.writable(paths[0], at.documents_table)
                passages = tables.writable(paths[1], at.passages_table)
            self._tables = documents, passages
        return self._tables

    def _publish(self, **changes: str | int) -> None:
        if self._tables is None:
            return
        self._synced()
        documents, passages = self._tables
        manifest = replace(
            self.manifest,
            version=self.manifest.version + 1,
            documents_table=documents.version,
            passages_table=passages.version,
            documents=documents.count_rows(),
            passages=passages.count_rows(),
            created=now(),
            made=self._made,
            since=self._since,
            **changes,  # type: ignore[arg-type]
        )
        publish(self.path, manifest)
        self.manifest = manifest

    def _passage_ids(self, passages: lance.LanceDataset, documents: Sequence[str]) -> set[object]:
        if not documents or not (self.path / "kv").is_dir():
            return set()
        found = passages.scanner(columns=["id"], filter=f"document_id IN ({tables.quoted(documents)})").to_table()
        return set(found["id"].to_pylist())

    def _forget_kv(self, gone: Callable[[object], bool]) -> None:
        """Delete the keys and values that another room keeps of removed passages: `kv/<model>/<passage id>.*`."""
        for file in (self.path / "kv").glob("*/*"):
            id = file.name.split(".")[0]
            if _ID.fullmatch(id) and gone(id):
                with contextlib.suppress(FileNotFoundError):
                    file.unlink()


def _insert(table: lance.LanceDataset, columns: dict[str, object]) -> None:
    import pyarrow as pa

    table.insert(pa.table(columns, schema=table.schema))


def _document_rows(entries: Sequence[Entry]) -> dict[str, object]:
    return {
        "id": [e.id for e in entries],
        "name": [e.document.name for e in entries],
        "path": [e.path for e in entries],
        "root": [e.root for e in entries],
        "title": [e.document.title for e in entries],
        "hash": [e.hash for e in entries],
        "size": [e.size for e in entries],
        "mtime_ns": [e.mtime_ns for e in entries],
        "media": [e.document.media for e in entries],
        "text": [e.document.text for e in entries],
        "passages": [len(e.pieces) for e in entries],
        "note": [e.document.note for e in entries],
    }


def _passage_rows(entries: Sequence[Entry]) -> dict[str, list[object]]:
    pairs = [(entry, piece) for entry in entries for piece in entry.pieces]
    return {
        "id": [passage_id(e.document.name, p) for e, p in pairs],
        "document_id": [e.id for e, _ in pairs],
        "document": [e.document.name for e, _ in pairs],
        "title": [e.document.title for e, _ in pairs],
        "heading": [p.heading for _, p in pairs],
        "text": [p.text for _, p in pairs],
        "searched": [in_place(e.document.title, p.heading, p.text) for e, p in pairs],
        "start": [p.start for _, p in pairs],
        "end": [p.end for _, p in pairs],
        "page": [p.page for _, p in pairs],
        "line": [p.line for _, p in pairs],
    }
