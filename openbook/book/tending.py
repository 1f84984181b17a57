"""Looking after the datastore of kNN-LM: segments joined, an index over many rows, documents removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from openbook.book import approximate
from openbook.book.manifest import faults
from openbook.book.neighbours import sound_index
from openbook.book.segment_writer import COPIED, SegmentWriter, writing
from openbook.book.segments import Piece, Segment, datastores, read_listing

Float = npt.NDArray[np.float32]

EXACT = 16_384
"""Rows up to which keys are compared one by one; of more, an index names the candidates."""


def tend(writer: SegmentWriter, told: Callable[[str], None] = lambda what: None) -> None:
    """Join small segments, and have the index cover what is too much to be compared one by one."""
    writer.flush()
    writer.join()
    listing = writer.listing
    total = sum(map(len, writer.segments()))
    if total - listing.indexed <= EXACT:
        return
    told("indexing")
    anew = listing.index is None or total > 4 * listing.trained
    with faults(writer.folder):
        name = f"{writer.new_name()}.lists"
        segments, first = writer.segments(), 0 if anew else listing.indexed
        index = approximate.train(_sample(segments, total), total) if anew else sound_index(writer.folder, listing)
        index = approximate.extend(index, _chunks(segments, first), first)
        approximate.write(index, writer.folder / name)
        trained = total if anew else listing.trained
        writer.commit(replace(writer.listing, index=name, indexed=total, trained=trained))
        writer.sweep()


def _sample(segments: Sequence[Segment], total: int) -> Float:
    """Keys to train on, in the order they stand; at most so many a list."""
    wanted = min(total, approximate.TRAINED_A_LIST * approximate.lists_for(total))
    rows = np.sort(np.random.default_rng(0).choice(total, wanted, replace=False))
    starts = np.cumsum([0, *map(len, segments)])
    parts = [s.keys_NM[rows[(rows >= a) & (rows < a + len(s))] - a] for a, s in zip(starts, segments, strict=False)]
    return np.concatenate(parts).astype(np.float32)


def _chunks(segments: Sequence[Segment], first: int) -> Iterator[Float]:
    """Keys from row `first` on, some at a time."""
    start = 0
    for segment in segments:
        for at in range(max(0, first - start), len(segment), COPIED):
            yield segment.keys_NM[at : at + COPIED].astype(np.float32)
        start += len(segment)


def forget(book: Path, documents: Sequence[str]) -> int:
    """Remove all that was remembered of documents (ids), in every version and for every model; how many rows went.

    To be called when no version that stays names them any more: whoever builds looks at the live version first. After
    it no file holds a key, a value or a pointer of theirs, nor an index that was made with them. `BookFault` where
    another process is writing.
    """
    gone = set(documents)
    return _drop(book, lambda piece: piece.id in gone)


def retain(book: Path, documents: set[tuple[str, str]]) -> int:
    """Remove what is remembered of all documents but these (id, hash of the content): those of versions that stay."""
    return _drop(book, lambda piece: (piece.id, piece.hash) not in documents)


def _drop(book: Path, gone: Callable[[Piece], bool]) -> int:
    count = 0
    for folder in datastores(book):
        with faults(folder), writing(folder):
            if read_listing(folder) is not None:
                writer = SegmentWriter(folder)
                count += writer.drop(gone)
                tend(writer)
    return count
