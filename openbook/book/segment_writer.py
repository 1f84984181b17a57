"""Writing the datastore of kNN-LM (`openbook.book.segments`): one process at a time, and nothing half-visible."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.book.manifest import BookFault, faults, sync
from openbook.book.segments import LISTING, Half, Listing, Piece, Segment, Whole, open_segment, read_listing

SEGMENT = 16_384
"""Rows after which a segment is written: what a kill can cost."""
COPIED = 65_536
"""Rows that are copied at once when segments are joined."""


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the writer's lock of a datastore; `BookFault` if another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with faults(folder), (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BookFault(f"{folder} is being written by another process; wait until it is done") from error
        yield


@dataclass
class _Buffer:
    """Rows on their way to the disk."""

    pieces: list[Piece] = field(default_factory=list)
    keys: list[Half] = field(default_factory=list)
    values: list[npt.NDArray[np.int32]] = field(default_factory=list)
    offsets: list[Whole] = field(default_factory=list)
    rows: int = 0


class SegmentWriter:
    """Changes the datastore in `folder`, whose lock (`writing`) the caller holds.

    What an interrupted writer left is removed at once. `flush` makes durable what was appended.
    """

    def __init__(self, folder: Path, width: int | None = None) -> None:
        self.folder = folder
        found = read_listing(folder)
        if found is None:
            if width is None:
                raise BookFault(f"{folder} is no datastore")
            found = Listing(width)
        elif width is not None and found.width != width:
            raise BookFault(f"{folder} has keys of width {found.width}, not {width}; delete that folder")
        self.listing = found
        self._buffer = _Buffer()
        self.sweep()

    def segments(self) -> list[Segment]:
        """All segments that count, in order."""
        return [open_segment(self.folder, name, self.listing.width) for name in self.listing.segments]

    def stored(self) -> dict[tuple[str, str], tuple[int, int]]:
        """How many rows of each document (id, hash) there are, of how many."""
        counts: dict[tuple[str, str], tuple[int, int]] = {}
        for segment in self.segments():
            for piece in segment.pieces:
                have, _ = counts.get((piece.id, piece.hash), (0, 0))
                counts[piece.id, piece.hash] = have + piece.stop - piece.start, piece.of
        return counts

    def append(
        self,
        document: tuple[str, str],
        first: int,
        of: int,
        keys_NM: npt.NDArray[np.float32],
        values_N: npt.NDArray[Any],
        offsets_N: npt.NDArray[Any],
    ) -> None:
        """The next rows of a document (id, hash), from its row `first` on, of `of`; written when there are enough."""
        keys = _half(keys_NM, self.folder)
        buffer, rows = self._buffer, len(values_N)
        last = buffer.pieces[-1] if buffer.pieces else None
        if last is not None and (last.id, last.hash) == document and last.first + last.stop - last.start == first:
            buffer.pieces[-1] = replace(last, stop=last.stop + rows)
        else:
            buffer.pieces.append(Piece(*document, buffer.rows, buffer.rows + rows, first, of))
        buffer.keys.append(keys)
        buffer.values.append(values_N.astype(np.int32))
        buffer.offsets.append(offsets_N.astype(np.int64))
        buffer.rows += rows
        if buffer.rows >= SEGMENT:
            self.flush()

    def flush(self) -> None:
        """Bring what was appended to the disk, as a segment."""
        buffer, self._buffer = self._buffer, _Buffer()
        if not buffer.pieces:
            return
        chunk = np.concatenate(buffer.keys), np.concatenate(buffer.values), np.concatenate(buffer.offsets)
        name = self._write(buffer.pieces, buffer.rows, [chunk])
        self.commit(replace(self.listing, segments=(*self.listing.segments, name)))

    def join(self) -> None:
        """Join neighbouring segments where the newer are together at least half as long as the one before them.

        So there are few, and a row is copied a logarithmic number of times. Their rows stay in order.
        """
        segments = self.segments()
        keep = len(segments)
        newer = 0
        for at in reversed(range(len(segments))):
            if newer and 2 * newer >= len(segments[at]):
                keep = at
            newer += len(segments[at])
        if len(segments) - keep > 1:
            self._replace(segments[:keep], segments[keep:], lambda piece: True)

    def drop(self, gone: Callable[[Piece], bool]) -> int:
        """Rows of these pieces go from every file, and with them the index; how many went."""
        segments = self.segments()
        count = sum(p.stop - p.start for segment in segments for p in segment.pieces if gone(p))
        if not any(gone(piece) for segment in segments for piece in segment.pieces):
            return 0
        listing, names = replace(self.listing, index=None, indexed=0, trained=0), []
        for segment in segments:
            kept = [piece for piece in segment.pieces if not gone(piece)]
            if len(kept) == len(segment.pieces):
                names.append(segment.path.name)
            elif kept:
                names.append(self._copy([segment], lambda piece: not gone(piece)))
        self.commit(replace(listing, segments=tuple(names), next=self.listing.next))
        self.sweep()
        return count

    def new_name(self) -> str:
        """A name that no file of this datastore has had since its listing was written."""
        name = f"{self.listing.next:06d}"
        self.listing = replace(self.listing, next=self.listing.next + 1)
        return name

    def commit(self, listing: Listing) -> None:
        """Make this what counts, for good."""
        fresh = self.folder / (LISTING + ".new")
        with fresh.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(listing)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.folder / LISTING)
        sync(self.folder)
        self.listing = listing

    def _replace(self, before: Sequence[Segment], joined: Sequence[Segment], kept: Callable[[Piece], bool]) -> None:
        names = [segment.path.name for segment in before]
        names.append(self._copy(joined, kept))
        self.commit(replace(self.listing, segments=tuple(names)))
        self.sweep()

    def _copy(self, segments: Sequence[Segment], kept: Callable[[Piece], bool]) -> str:
        """A new segment of the kept pieces of some, in bounded memory; its name."""
        pieces: list[Piece] = []
        runs: list[tuple[Segment, int, int]] = []
        rows = 0
        for segment in segments:
            for piece in filter(kept, segment.pieces):
                length, last = piece.stop - piece.start, pieces[-1] if pieces else None
                follows = last is not None and (last.id, last.hash) == (piece.id, piece.hash)
                if last is not None and follows and last.first + last.stop - last.start == piece.first:
                    pieces[-1] = replace(last, stop=last.stop + length)
                else:
                    pieces.append(replace(piece, start=rows, stop=rows + length))
                if runs and runs[-1][0] is segment and runs[-1][2] == piece.start:
                    runs[-1] = (segment, runs[-1][1], piece.stop)
                else:
                    runs.append((segment, piece.start, piece.stop))
                rows += length

        def chunks() -> Iterator[tuple[Half, npt.NDArray[np.int32], Whole]]:
            for segment, start, stop in runs:
                for at in range(start, stop, COPIED):
                    part = slice(at, min(stop, at + COPIED))
                    yield segment.keys_NM[part], segment.values_N[part], segment.offsets_N[part]

        return self._write(pieces, rows, chunks())

    def _write(self, pieces: Sequence[Piece], rows: int, chunks: Any) -> str:
        """A segment on the disk under a new name, which counts once it is listed."""
        name, width = self.new_name(), self.listing.width
        path = self.folder / name
        if path.exists():
            shutil.rmtree(path)
        path.mkdir()
        kinds = {"keys": (np.float16, (rows, width)), "values": (np.int32, (rows,)), "offsets": (np.int64, (rows,))}
        sums_PM = np.zeros((len(pieces), width + 1))
        with (
            (path / "keys.npy").open("wb") as a,
            (path / "values.npy").open("wb") as b,
            (path / "offsets.npy").open("wb") as c,
        ):
            files = [a, b, c]
            for file, (kind, shape) in zip(files, kinds.values(), strict=True):
                header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            at = 0
            for chunk in chunks:
                for file, part in zip(files, chunk, strict=True):
                    file.write(np.ascontiguousarray(part).data)
                _add_sums(sums_PM, pieces, at, chunk[0])
                at += len(chunk[0])
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        with (path / "sums.npy").open("wb") as sums, (path / "pieces.json").open("w", encoding="utf-8") as listed:
            np.save(sums, sums_PM, allow_pickle=False)
            json.dump([asdict(piece) for piece in pieces], listed)
            for written in (sums, listed):
                written.flush()
                os.fsync(written.fileno())
        sync(path)
        sync(self.folder)
        return name

    def sweep(self) -> None:
        """Remove what the listing does not name."""
        named = {*self.listing.segments, self.listing.index, LISTING, "lock"}
        for path in self.folder.iterdir():
            if path.name not in named:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        sync(self.folder)


def _half(keys_NM: npt.NDArray[np.float32], folder: Path) -> Half:
    with np.errstate(over="ignore"):
        half = keys_NM.astype(np.float16)
    if not np.isfinite(half).all():
        raise BookFault(f"{folder}: this model's hidden states do not fit into 16 bits; it can have no neighbours")
    return half


def _add_sums(sums_PM: npt.NDArray[np.float64], pieces: Sequence[Piece], at: int, keys_NM: Half) -> None:
    """Add to each piece's sums what these rows, the segment's from `at` on, have of it."""
    first = bisect_right(pieces, at, key=lambda piece: piece.stop)
    last = bisect_left(pieces, at + len(keys_NM), key=lambda piece: piece.start)
    for row, piece in zip(range(first, last), pieces[first:last], strict=True):
        part = keys_NM[max(piece.start - at, 0) : piece.stop - at].astype(np.float64)
        sums_PM[row, :-1] += part.sum(0)
        sums_PM[row, -1] += (part * part).sum()
