"""The two indices of the passages table and how they grow: in segments, like a log-structured merge tree (O'Neil 1996).

New rows become a segment of their own; a segment is joined with what came after it once that is about as long. So the
number of segments, and how often a row is indexed again, grow as log(N). Lance keeps an index with each version
of the table and brings rows that no segment holds to a search itself: `add` and deletions count at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openbook.book import dense

if TYPE_CHECKING:
    import lance

WORDS = "searched_idx"
# English stems and stop words: measured in docs/book.md. ICU, because Lance's default loses Chinese.
FULL_TEXT: dict[str, Any] = {"base_tokenizer": "icu", "stem": True, "remove_stop_words": True, "with_position": False}
LOOSE = 4_096
"""Rows past the vector index that are left to be compared one by one: 4 ms of a search."""

SLACK = 1.5
"""How much longer a segment may be than what it is joined with: batches are of about one size, not of one."""


def create(table: lance.LanceDataset) -> None:
    """Index all rows anew: their words, and their vectors where they are many."""
    table.create_scalar_index("searched", "INVERTED", name=WORDS, replace=True, **FULL_TEXT)
    if dense.indexed(table):
        _train(table)


def drop(table: lance.LanceDataset) -> bool:
    """Remove the indices; False where there were none."""
    names = [index.name for index in table.describe_indices()]
    for name in names:
        table.drop_index(name)
    return bool(names)


def catch_up(table: lance.LanceDataset) -> None:
    """Index the rows that came since the last time."""
    sizes, rows = segments(table), table.count_rows()
    if (fresh := rows - sum(sizes[WORDS])) > 0:
        _extend(table, WORDS, joined(sizes[WORDS], fresh))
    if not dense.indexed(table):
        return
    held = sizes.get(dense.INDEX, [])
    fresh = rows - sum(held)
    # Joined into one, there are twice as many as its cells were made for.
    if not held or joined(held, fresh) == len(held):
        _train(table)
    elif fresh > LOOSE:
        _extend(table, dense.INDEX, joined(held, fresh))


def joined(sizes: Sequence[int], fresh: int) -> int:
    """How many of the newest segments (sizes, oldest first) are joined with `fresh` rows: those not much longer.

    >>> joined([800, 100, 100], 50), joined([800, 110, 60], 50), joined([410, 210, 105], 100)
    (0, 2, 3)
    """
    count = 0
    for size in reversed(sizes):
        if size > SLACK * fresh:
            break
        fresh, count = fresh + size, count + 1
    return count


def segments(table: lance.LanceDataset) -> dict[str, list[int]]:
    """Rows alive in each segment of each index, oldest first."""
    rows = {fragment.fragment_id: fragment.count_rows() for fragment in table.get_fragments()}
    return {
        index.name: [sum(rows.get(id, 0) for id in segment.fragment_ids) for segment in index.segments]
        for index in table.describe_indices()
    }


def _extend(table: lance.LanceDataset, name: str, joining: int) -> None:
    table.optimize.optimize_indices(index_names=[name], num_indices_to_merge=joining)


def _train(table: lance.LanceDataset) -> None:
    width = table.schema.field("vector").type.list_size
    kind = "IVF_RQ" if width % 8 == 0 else "IVF_SQ"  # RaBitQ packs its bits into bytes; else 8 bits a dimension
    cells = max(1, table.count_rows() // dense.ROWS)
    table.create_index("vector", kind, name=dense.INDEX, metric="cosine", replace=True, num_partitions=cells)
