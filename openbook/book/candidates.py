"""What a search hands on, and the rows of the passages table behind it.

A search brings numbers of rows and scores alone; vectors are read for all candidates, texts for the shown ones.

Shapes: N rows, M width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from openbook.book.passages import Passage

if TYPE_CHECKING:
    import lance
    import pyarrow as pa

Vector = npt.NDArray[np.float32]
FIELDS = ["id", "document", "title", "heading", "text", "start", "end", "page", "line"]
LEAST = 50
"""Candidates each search brings at least: fusing needs more than what is shown."""


@dataclass(frozen=True)
class Candidate:
    """A passage that was found, not read yet: its `row` in the table, its id, and its vector."""

    row: int
    id: str
    vector_M: Vector


def candidates(table: lance.LanceDataset, rows: Iterable[int]) -> list[Candidate]:
    """The candidates at some rows, in their order, each once."""
    wanted = list(dict.fromkeys(rows))
    if not wanted:
        return []
    found = _rows(table, wanted, ["id", "vector"])
    vectors_NM = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(found), -1)
    return [Candidate(*each) for each in zip(wanted, found["id"].to_pylist(), vectors_NM, strict=True)]


def passages(table: lance.LanceDataset, rows: Sequence[int]) -> list[Passage]:
    """The passages at some rows, in their order."""
    return [Passage(**row) for row in _rows(table, rows, FIELDS).to_pylist()] if rows else []


def _rows(table: lance.LanceDataset, rows: Sequence[int], columns: list[str]) -> pa.Table:
    """Rows by their number, in the order asked for; Lance reads these alone, but brings them in the table's order."""
    wanted = f"_rowid IN ({', '.join(map(str, rows))})"
    found = table.scanner(columns=columns, filter=wanted, with_row_id=True).to_table()
    at = {row: place for place, row in enumerate(found["_rowid"].to_pylist())}
    return found.select(columns).take([at[row] for row in rows])
