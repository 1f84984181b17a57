"""The two Lance tables of a book: what a row holds, and how rows come and go.

Shapes: N rows, M width of a vector.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from openbook.book import indices

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

DOCUMENTS, PASSAGES = "documents.lance", "passages.lance"
INDEX_CACHE, METADATA_CACHE = 768 << 20, 64 << 20
"""Bytes of indices and of what describes files that a reader keeps: Lance would keep 6 GiB and 1 GiB."""
_KEY = {"lance-schema:unenforced-primary-key": "true"}
COMPACT_ABOVE = 32
"""Small fragments (one a commit) above which `tend` joins them. Words of 17,000 passages without index take 0.6 s."""
ROWS = {DOCUMENTS: 4_096, PASSAGES: 32_768}
"""Rows from which a fragment is not small: each is written again once or twice, however long the table grows."""


def documents_schema() -> pa.Schema:
    """One row a document; `size` in bytes, `mtime_ns` 0 where the time cannot be trusted."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    return pa.schema(
        [
            pa.field("id", text, nullable=False, metadata=_KEY),
            pa.field("name", text, nullable=False),
            pa.field("path", text, nullable=False),
            pa.field("root", text, nullable=False),
            pa.field("title", text),
            pa.field("hash", text),
            pa.field("size", number),
            pa.field("mtime_ns", number),
            pa.field("media", text),
            pa.field("text", pa.large_string()),
            pa.field("passages", number),
            pa.field("note", text),
        ]
    )


def passages_schema(width: int) -> pa.Schema:
    """One row a passage; `start:end` are characters of the document's text, `searched` is what BM25 reads."""
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    return pa.schema(
        [
            pa.field("id", text, nullable=False, metadata=_KEY),
            pa.field("document_id", text, nullable=False),
            pa.field("document", text, nullable=False),
            pa.field("title", text),
            pa.field("heading", text),
            pa.field("text", text),
            pa.field("searched", text),
            pa.field("start", number),
            pa.field("end", number),
            pa.field("page", number),
            pa.field("line", number),
            pa.field("vector", pa.list_(pa.float32(), width)),
        ]
    )


def vectors(vectors_NM: npt.NDArray[np.float32]) -> pa.Array:
    """Vectors as a column."""
    import pyarrow as pa

    flat = np.ascontiguousarray(vectors_NM, dtype=np.float32).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), vectors_NM.shape[1])


def session(of_indices: int = INDEX_CACHE) -> lance.Session:
    """What a reader keeps in memory of indices and files, bounded; to be shared by tables and versions of a book."""
    from lance import Session

    return Session(index_cache_size_bytes=of_indices, metadata_cache_size_bytes=METADATA_CACHE)


def open_at(path: Path, version: int, kept: lance.Session | None = None) -> lance.LanceDataset:
    """A table as it was at one of Lance's versions; `kept` is what is in memory of others."""
    import lance

    return lance.dataset(str(path), version=version, session=kept or session())


def create(path: Path, schema: pa.Schema) -> lance.LanceDataset:
    """A new empty table; what an interrupted first write left there goes."""
    import lance

    if path.exists():
        shutil.rmtree(path)
    return lance.write_dataset(schema.empty_table(), str(path), schema=schema)


def writable(path: Path, version: int) -> lance.LanceDataset:
    """A table whose newest version is `version` again, whatever an interrupted writer left after it."""
    table = open_at(path, version, session(METADATA_CACHE))  # a writer reads an index once, to join it
    if table.latest_version != version:
        table.restore()
    return table


def quoted(values: Iterable[str]) -> str:
    """A list for SQL's IN; ids only, but quoted as any text would have to be."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)


def remove(table: lance.LanceDataset, column: str, values: Sequence[str]) -> None:
    """Delete the rows whose `column` is one of `values`."""
    for at in range(0, len(values), 500):
        table.delete(f"{column} IN ({quoted(values[at : at + 500])})")


def due(table: lance.LanceDataset) -> bool:
    """Whether so many small fragments came that `tend` should not wait for the end of an `add`."""
    return len(_small(table)) > COMPACT_ABOVE


def tend(table: lance.LanceDataset) -> None:
    """Join small fragments where there are many, and index the rows that came since the last time."""
    if due(table):
        table.optimize.compact_files(target_rows_per_fragment=_enough(table))
    if table.describe_indices():
        indices.catch_up(table)


def _enough(table: lance.LanceDataset) -> int:
    return ROWS[DOCUMENTS if table.uri.endswith(DOCUMENTS) else PASSAGES]


def _small(table: lance.LanceDataset) -> list[lance.LanceFragment]:
    return [each for each in table.get_fragments() if each.count_rows() < _enough(table)]


def expunge(table: lance.LanceDataset) -> None:
    """Leave nothing of deleted rows in the newest version: their files are written anew, and so is every index.

    Lance hides deleted rows until a tenth of a file is gone, and an index keeps their words and vectors.
    """
    searched = indices.drop(table)  # else they would be brought along for nothing
    deleted = table.version
    table.optimize.compact_files(
        target_rows_per_fragment=_enough(table), materialize_deletions=True, materialize_deletions_threshold=0.0
    )
    if table.version == deleted:  # nothing to write anew; but that version says which ids were deleted
        table.restore()
    if searched:
        indices.create(table)
