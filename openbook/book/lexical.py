"""Lexical retrieval: BM25 (Robertson 1994) over Lance's full-text index."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openbook.book.candidates import COLUMNS, Candidate, candidates

if TYPE_CHECKING:
    import lance

MAX_QUERY_CHARS = 4_000


def search(table: lance.LanceDataset, query: str, count: int) -> list[Candidate]:
    """The `count` passages with the highest BM25, best first; none where no word of the query occurs.

    The query is words and nothing else: `MatchQuery` knows no operators. Rows that came after the index was last
    brought up to date are searched without it.
    """
    from lance.query import MatchQuery

    scanner = table.scanner(
        columns=[*COLUMNS, "_score"],
        full_text_query=MatchQuery(query[:MAX_QUERY_CHARS], "searched"),
        limit=count,
        disable_scoring_autoprojection=True,
    )
    return candidates(scanner.to_table(), score="_score")
