"""How a book's graph is come by: what is new in the book is extracted, and what was derived before is recalled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openbook.book.graph import kept
from openbook.book.graph.asking import Extracting, chosen, folder_of, parts_of
from openbook.book.graph.build import Progress, catch_up, contents
from openbook.book.graph.derive import Places, Whole, derive
from openbook.book.graph.graph import Graph
from openbook.book.graph.modelled import overlaid
from openbook.book.graph.stored import FOLDER, Key, Said, read, read_listing
from openbook.book.manifest import faults

if TYPE_CHECKING:
    from openbook.book.store import Book


def places_of(book: Book) -> Places:
    """Where each passage of a version is."""
    columns = ["id", "document_id", "start", "end", "heading"]
    rows: dict[str, list[Any]] = {name: [] for name in [*columns, "_rowid"]}
    if book.passages_table is not None:
        with faults(book.path):
            rows = book.passages_table.scanner(columns=columns, with_row_id=True).to_table().to_pydict()
    order = sorted(range(len(rows["id"])), key=lambda i: (rows["document_id"][i], rows["start"][i]))

    def numbers(name: str) -> Whole:
        return np.array([rows[name][i] for i in order], dtype=np.int64)

    return Places(
        ids=[rows["id"][i] for i in order],
        rows_P=numbers("_rowid"),
        documents=[rows["document_id"][i] for i in order],
        starts_P=numbers("start"),
        ends_P=numbers("end"),
        headings=[(rows["heading"][i] or "").split(" > ")[-1] for i in order],
    )


def open_graph(book: Book, progress: Progress | None = None, *, by: str | None = None) -> Graph:
    """The graph of a book at the version it is seen at; what is new in it is extracted first.

    `by` an extractor, else as was chosen for the book (`openbook.book.graph.asking`); no model is asked here.
    `BookFault` where a file of the graph is damaged, the disk is full or the version was forgotten meanwhile.
    """
    folder = book.path / FOLDER
    extracting = chosen(folder) if by is None else Extracting(by)
    catch_up(book, extracting.by, progress)
    with faults(book.path):
        wanted, places = contents(book), places_of(book)
        asked = folder_of(folder, extracting.made) if extracting.how else None
        made = repr((sorted(wanted), read_listing(folder), extracting, asked and read_listing(asked)))
        key = kept.fingerprint(folder, [folder, *([asked] if asked else [])], made, places)
        if (found := kept.recall(folder, key, places)) is None:
            said = _said(folder, wanted, extracting)
            found = derive(said, places), [each.key[0] for each in said]
            kept.keep(book, key, *found)
        derived, documents = found
        return Graph(book, documents, derived, places, key.hex())


def _said(folder: Path, wanted: set[Key], extracting: Extracting) -> list[Said]:
    """What the documents mention, by document, with what a model named in them where one was chosen."""
    said = read(folder, wanted)
    parts = parts_of(folder, extracting.made, wanted) if extracting.how else {}
    return [overlaid(each, parts.get(each.key, []), extracting.how) for each in said]
