"""What a search hands on: rows of the passages table with what is known of their match.

Shapes: M width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from openbook.book.passages import Passage

if TYPE_CHECKING:
    import pyarrow as pa

Vector = npt.NDArray[np.float32]
FIELDS = ["id", "document", "title", "heading", "text", "start", "end", "page", "line"]
COLUMNS = [*FIELDS, "vector"]
LEAST = 50
"""Candidates each search brings at least: fusing needs more than what is shown."""


@dataclass(frozen=True)
class Candidate:
    """A passage one of the searches found; `lexical` is its BM25 score, 0 where no word matched or it came too late."""

    passage: Passage
    vector_M: Vector
    lexical: float = 0.0


def candidates(found: pa.Table, score: str | None = None) -> list[Candidate]:
    """The rows of a search, in its order; `score` names the column of BM25 scores."""
    rows: list[dict[str, Any]] = found.select(FIELDS).to_pylist()
    if not rows:
        return []
    vectors = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    scores = found[score].to_pylist() if score else [0.0] * len(rows)
    return [Candidate(Passage(**row), v, float(s)) for row, v, s in zip(rows, vectors, scores, strict=True)]
