"""Dense retrieval: the cosine of two texts' vectors, exactly (every vector is compared).

Shapes: M width of a vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openbook.book.candidates import COLUMNS, Candidate, Vector, candidates

if TYPE_CHECKING:
    import lance


def search(table: lance.LanceDataset, query_M: Vector, count: int) -> list[Candidate]:
    """The `count` passages whose vectors have the highest cosine with the query's, best first."""
    scanner = table.scanner(
        columns=[*COLUMNS, "_distance"],
        nearest={"column": "vector", "q": query_M, "k": count, "metric": "cosine"},
        disable_scoring_autoprojection=True,
    )
    return candidates(scanner.to_table())
