"""Dense retrieval: the cosine of two texts' vectors.

Up to `EXACT` passages every vector is compared. Above, the book carries an inverted file over quantised vectors
(IVF, Jégou 2011; extended RaBitQ, Gao 2024, arXiv 2409.09913: 5 bits a dimension), which brings candidates; passages
that it does not hold yet are compared one by one. Whoever asks compares the candidates' own vectors: what is found
may miss a passage, its score is the cosine either way.

Shapes: M width of a vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openbook.book.candidates import LEAST, Vector

if TYPE_CHECKING:
    import lance

EXACT = 20_000
"""Passages up to which every vector is compared: 1.8 kB each are read, 20 ms in all."""
INDEX = "vector_idx"
ROWS = 4_096
"""Vectors of a cell of the inverted file when it is made; it is made anew when there are twice as many."""
PROBED = 0.25
"""Share of the cells that is searched, but `LEAST_PROBED` of them at least. Measured in docs/book.md."""
LEAST_PROBED = 16


def search(table: lance.LanceDataset, query_M: Vector, count: int) -> list[int]:
    """Rows of the `count` passages with the highest cosine with the query, best first; from the index at least
    `LEAST`, in about that order."""
    how: dict[str, Any] = {"k": count, "use_index": False}
    if indexed(table):
        how = {"k": max(count, LEAST), "nprobes": max(LEAST_PROBED, round(PROBED * table.count_rows() / ROWS))}
    scanner = table.scanner(
        columns=["_distance"],
        nearest={"column": "vector", "q": query_M, "metric": "cosine", **how},
        with_row_id=True,
        disable_scoring_autoprojection=True,
    )
    rows: list[int] = scanner.to_table()["_rowid"].to_pylist()
    return rows


def indexed(table: lance.LanceDataset) -> bool:
    """Whether a table is so long that its index is searched; it may hold an index and be short again."""
    return bool(table.count_rows() > EXACT)
