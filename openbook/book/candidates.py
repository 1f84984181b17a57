"""What a search hands on, and the rows of the passages table behind it.

A search brings numbers of rows and scores alone; vectors are read for all candidates, texts for the shown ones.

Shapes: N rows, M width of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from openbook.book.manifest import BookFault
from openbook.book.passages import Passage

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

Vector = npt.NDArray[np.float32]
FIELDS = ["id", "document", "title", "heading", "text", "start", "end", "page", "line"]
LEAST = 50
"""Candidates each search brings at least: fusing needs more than what is shown."""


def vectors(table: lance.LanceDataset, rows: Sequence[int]) -> npt.NDArray[np.float32]:
    """The vectors at some rows, in their order: `[N, M]`."""
    if not rows:
        return np.zeros((0, 0), np.float32)
    column = _rows(table, rows, ["vector"])["vector"].combine_chunks()
    vectors_NM: npt.NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    return vectors_NM


def passages(table: lance.LanceDataset, rows: Sequence[int]) -> list[Passage]:
    """The passages at some rows, in their order."""
    return [Passage(**row) for row in _rows(table, rows, FIELDS).to_pylist()] if rows else []


def _rows(table: lance.LanceDataset, rows: Sequence[int], columns: list[str]) -> pa.Table:
    """Rows by their number, in the order asked for.

    Lance has this for its own samplers only (pyproject.toml bounds its version); a filter by `_rowid`, which everybody
    may use, takes twice as long.
    """
    found: pa.Table = table._take_rows(list(rows), columns=columns)
    if len(found) != len(rows):
        raise BookFault(f"{table.uri} lacks rows that its index names; read the documents again: openbook add")
    return found
