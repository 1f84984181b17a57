"""Lexical retrieval: BM25 (Robertson 1994) over Lance's full-text index."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lance

MAX_QUERY_CHARS = 4_000


def search(table: lance.LanceDataset, query: str, count: int) -> dict[int, float]:
    """The `count` passages with the highest BM25, best first: row to score; none where no word of the query occurs.

    The query is words and nothing else: `MatchQuery` knows no operators. Rows that came after the index was last
    brought up to date are searched without it.
    """
    from lance.query import MatchQuery

    found = table.scanner(
        columns=["_score"],
        full_text_query=MatchQuery(query[:MAX_QUERY_CHARS], "searched"),
        limit=count,
        with_row_id=True,
        disable_scoring_autoprojection=True,
    ).to_table()
    return dict(zip(found["_rowid"].to_pylist(), found["_score"].to_pylist(), strict=True))
