"""The datastore of kNN-LM as a version of a book sees it: what followed in contexts like this one, and where.

    p_kNN(y | x) ∝ Σ over the k nearest keys whose value is y of exp(−d / T),     d the squared L2 distance

(Khandelwal 2020, arXiv 1911.00172, equation 2.) Few keys are compared one by one; of many an index names candidates,
and their distances are computed from the keys as they were stored. So a distance is exact either way.

Shapes: N rows, M width of a key, Q queries, k neighbours, C candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from openbook.book import approximate
from openbook.book.manifest import BookFault, faults
from openbook.book.segments import (
    LISTING,
    Listing,
    Segment,
    folder_of,
    open_segment,
    read_listing,
)
from openbook.book.store import Book
from openbook.native import kernels

Float = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

PROBES = 24
"""Lists of the index that are looked into."""
SPARE = 64
"""Candidates of the index beyond the neighbours asked for."""
TIES = 8
"""More than k rows that are compared in the order of their numbers, where distances are equal."""
RESCORED = 1 << 24
"""Numbers of candidates' keys that are held at once."""


class Place(NamedTuple):
    """Where a row was read: the document's id, and the character where the token begins."""

    document_id: str
    offset: int


@dataclass(frozen=True)
class Found:
    """The nearest rows of Q queries, nearest first: exact squared distances, the tokens that followed, the rows.

    Of fewer rows than k there are fewer columns, or infinite distances of rows −1.
    """

    distances_Qk: Float
    values_Qk: npt.NDArray[np.int32]
    rows_Qk: Rows


class Neighbours:
    """Rows of these documents (id, hash of the content), open to read; `documents` None: all there are."""

    def __init__(self, folder: Path, documents: set[tuple[str, str]] | None = None) -> None:
        with faults(folder):
            self.folder = folder
            self.listing, self.segments, self._index = _opened(folder)
        self._starts = np.cumsum([0, *map(len, self.segments)])
        self._live = [[documents is None or (p.id, p.hash) in documents for p in s.pieces] for s in self.segments]
        pieces = [
            piece
            for live, segment in self._lived()
            for piece, is_live in zip(segment.pieces, live, strict=True)
            if is_live
        ]
        self.count = sum(piece.stop - piece.start for piece in pieces)
        self.documents = len({(piece.id, piece.hash) for piece in pieces})

    def __len__(self) -> int:
        return self.count

    @property
    def width(self) -> int:
        """M, the width of a key."""
        return self.listing.width

    @cached_property
    def variance(self) -> float:
        """The total variance of the keys, Σ over the M numbers: what distances are measured by."""
        sums = np.zeros(self.width + 1)
        for live, segment in self._lived():
            sums += segment.sums_PM[np.array(live, dtype=bool)].sum(0)
        if self.count == 0:
            return 0.0
        mean = sums / self.count
        return float(max(mean[-1] - (mean[:-1] ** 2).sum(), 0.0))

    def search(self, q_QM: Float, k: int) -> Found:
        """The k nearest rows of each query."""
        q_QM = np.ascontiguousarray(q_QM, dtype=np.float32)
        if not self.count:
            none_Q0 = np.empty((len(q_QM), 0))
            return Found(none_Q0.astype(np.float32), none_Q0.astype(np.int32), none_Q0.astype(np.int64))
        named = [self._indexed(q_QM, k), self._scanned(q_QM, k)]
        rows_QC = np.concatenate([rows for rows in named if rows is not None], 1)
        d_QC = self.distances(q_QM, rows_QC)
        order = np.lexsort((rows_QC, d_QC))[:, :k]  # ties by row: the same whoever named them
        rows_Qk, d_Qk = np.take_along_axis(rows_QC, order, 1), np.take_along_axis(d_QC, order, 1)
        return Found(d_Qk, self._values(rows_Qk), rows_Qk)

    def distances(self, q_QM: Float, rows_QC: Rows) -> Float:
        """Exact squared L2 distances, fp32, of these rows' keys; infinite where a row is −1."""
        d_QC = np.full(rows_QC.shape, np.inf, np.float32)
        many = max(1, RESCORED // max(1, rows_QC.shape[1] * self.width))
        for at in range(0, len(q_QM), many):
            part = slice(at, at + many)
            d_QC[part] = self._apart(q_QM[part], rows_QC[part])
        d_QC[rows_QC < 0] = np.inf
        return d_QC

    def _apart(self, q_QM: Float, rows_QC: Rows) -> Float:
        if (k := kernels()) is not None:
            d_QC, rows_QC = np.empty(rows_QC.shape, np.float32), np.ascontiguousarray(rows_QC)
            sides = (q_QM.ctypes.data, len(q_QM), self.width, rows_QC.ctypes.data, rows_QC.shape[1])
            k.distances(*sides, self._addresses, d_QC.ctypes.data)
            return d_QC
        import torch  # turns 16 bits into 32 four times as fast as numpy

        keys_QCM = torch.from_numpy(self._keys(rows_QC))
        far_QCM = keys_QCM.float().sub_(torch.from_numpy(q_QM)[:, None])
        apart: Float = far_QCM.mul_(far_QCM).sum(-1).numpy()
        return apart

    @cached_property
    def _addresses(self) -> list[tuple[int, int]]:
        """Of each segment that has rows, the first one and where its keys lie in memory."""
        each = zip(self._starts, self.segments, strict=False)
        return [(int(start), segment.keys_NM.ctypes.data) for start, segment in each if len(segment)]

    def place(self, row: int) -> Place:
        """Where a row was read."""
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        segment, inside = self.segments[at], row - int(self._starts[at])
        starts = [piece.start for piece in segment.pieces]
        piece = segment.pieces[int(np.searchsorted(starts, inside, side="right")) - 1]
        return Place(piece.id, int(segment.offsets_N[inside]))

    def _lived(self) -> Iterator[tuple[list[bool], Segment]]:
        yield from zip(self._live, self.segments, strict=True)

    @cached_property
    def _whole(self) -> bool:
        return all(all(live) for live in self._live)

    @cached_property
    def _live_N(self) -> npt.NDArray[np.bool_]:
        """Which rows are of these documents."""
        live_N = np.zeros(int(self._starts[-1]), dtype=bool)
        for base, (live, segment) in zip(self._starts, self._lived(), strict=False):
            for piece, is_live in zip(segment.pieces, live, strict=True):
                live_N[base + piece.start : base + piece.stop] = is_live
        return live_N

    def _indexed(self, q_QM: Float, k: int) -> Rows | None:
        if self._index is None:
            return None
        live_N = None if self._whole else self._live_N[: self.listing.indexed]
        found_QC = self._index.candidates(q_QM, k + SPARE, PROBES, live_N)
        # Where few rows are of these documents they may be in none of the nearest lists: all are looked into.
        few_Q = (found_QC >= 0).sum(1) < min(k, self._covered)
        if few_Q.any():
            lists = len(self._index.centres_LM)
            found_QC[few_Q] = self._index.candidates(q_QM[few_Q], k + SPARE, lists, live_N)
        return found_QC

    @cached_property
    def _covered(self) -> int:
        """Rows of these documents that the index covers."""
        return self.count - len(self._rest)

    @cached_property
    def _rest(self) -> Rows:
        """Rows of these documents that the index does not cover: compared one by one."""
        rows: Rows = np.flatnonzero(self._live_N[self.listing.indexed :]) + self.listing.indexed
        return rows

    def _scanned(self, q_QM: Float, k: int) -> Rows | None:
        rows_N = self._rest
        if not len(rows_N):
            return None
        d_QN = self.distances(q_QM, np.broadcast_to(rows_N, (len(q_QM), len(rows_N))))
        if len(rows_N) <= k + TIES:
            return np.broadcast_to(rows_N, d_QN.shape)
        near: Rows = rows_N[np.argpartition(d_QN, k + TIES, axis=1)[:, : k + TIES]]
        return near

    def _keys(self, rows_QC: Rows) -> npt.NDArray[np.float16]:
        """Keys `[Q, C, M]` as they are stored, of row 0 where a row is −1."""
        return self._gather(rows_QC, [segment.keys_NM for segment in self.segments])

    def _values(self, rows_Qk: Rows) -> npt.NDArray[np.int32]:
        return self._gather(rows_Qk, [segment.values_N for segment in self.segments])

    def _gather(self, rows: Rows, columns: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """What a column of the segments has at these rows."""
        flat = np.maximum(rows.ravel(), 0)
        if len(columns) == 1:
            gathered = np.asarray(columns[0])[flat]
        else:
            gathered = np.empty((len(flat), *columns[0].shape[1:]), columns[0].dtype)
            of = np.searchsorted(self._starts, flat, side="right") - 1
            for at in np.unique(of):
                mine = of == at
                gathered[mine] = np.asarray(columns[at])[flat[mine] - self._starts[at]]
        return gathered.reshape(*rows.shape, *columns[0].shape[1:])


def _opened(folder: Path) -> tuple[Listing, list[Segment], approximate.Index | None]:
    """What counts, its segments and its index: again where a writer replaced and removed them in between."""
    while True:
        listing = read_listing(folder)
        if listing is None:
            raise BookFault(f"there are no neighbours in {folder}; make them with: openbook add PATH --neighbours")
        try:
            segments = [open_segment(folder, name, listing.width) for name in listing.segments]
            if (listing.index is None) != (listing.indexed == 0) or listing.indexed > sum(map(len, segments)):
                raise BookFault(f"{folder / LISTING} is damaged; delete {folder} and run: openbook add --neighbours")
            return listing, segments, sound_index(folder, listing) if listing.index else None
        except BookFault:
            if read_listing(folder) == listing:
                raise


def open_neighbours(book: Book, model: str) -> Neighbours:
    """The neighbours that a model (`folder_of`) finds in a book at its version; `BookFault` if none were made."""
    folder = folder_of(book.path, model)
    if read_listing(folder) is None:
        raise BookFault(
            f"{book.path} has no neighbours for this model; make them with: openbook add PATH --neighbours "
            f"--book {book.path}"
        )
    return Neighbours(folder, contents(book))


def contents(book: Book) -> set[tuple[str, str]]:
    """Each document of a book at its version: its id and the hash of its content."""
    if book.documents_table is None:
        return set()
    with faults(book.path):
        rows = book.documents_table.scanner(columns=["id", "hash"]).to_table()
    return set(zip(rows["id"].to_pylist(), rows["hash"].to_pylist(), strict=True))


def sound_index(folder: Path, listing: Listing) -> approximate.Index:
    """The index of a datastore, of the keys that it says it covers; `BookFault` where it is damaged."""
    path = folder / str(listing.index)
    try:
        index = approximate.read(path)
        rows, width = index.rows_N, index.centres_LM.shape[1]
        if width != listing.width or not 0 < len(rows) == listing.indexed > rows.max() >= rows.min() >= 0:
            raise ValueError
    except (FileNotFoundError, ValueError) as error:
        raise BookFault(f"{path} is damaged; delete {folder} and run: openbook add --neighbours") from error
    return index


__all__ = ["Found", "Listing", "Neighbours", "Place", "contents", "open_neighbours", "sound_index"]
