"""The datastore of kNN-LM on the disk: keys, values and pointers in segments that appear whole or not at all.

    book/neighbours/<model>/
      store.json         which segments count, in which order, and which index covers how many of their rows
      000004/            keys.npy [N, M] fp16 · values.npy [N] int32 · offsets.npy [N] int64 · pieces.json · sums.npy
      000007.lists/      the index of the first rows (openbook.book.approximate)
      lock               held by the one process that writes

A row is one token of a document: its value is the token, its key what the model had read before it, its offset the
character of the document where the token begins. `store.json` is replaced in one step, after all that it names is on
the disk (fsync); what it does not name is rubbish, which the next writer removes. A row belongs to a document by the
document's id and the hash of its content: so it is of every version of the book that has that content.

Shapes: N rows, M width of a key, P pieces.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.book.manifest import BookFault, faults, sync

FORMAT = 1
SEGMENT = 16_384
"""Rows after which a segment is written: what a kill can cost."""
COPIED = 65_536
"""Rows that are copied at once when segments are joined."""
LONGEST = 1 << 28
"""Bytes of a description that is read at all."""
FOLDER, LISTING = "neighbours", "store.json"
_NAME = re.compile(r"\d{6,12}")

Half = npt.NDArray[np.float16]
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Rows `start:stop` of a segment: a document's (id, hash of its content) from its row `first` on, of `of` rows."""

    id: str
    hash: str
    start: int
    stop: int
    first: int
    of: int


@dataclass(frozen=True)
class Listing:
    """What counts: names of segments in order, and the index over their first `indexed` rows, made of `trained`."""

    width: int
    segments: tuple[str, ...] = ()
    index: str | None = None
    indexed: int = 0
    trained: int = 0
    next: int = 1
    format: int = FORMAT


@dataclass(frozen=True)
class Segment:
    """A segment, memory-mapped. `sums_PM` are float64 sums of each piece's keys and, last, of their squares."""

    path: Path
    pieces: tuple[Piece, ...]
    keys_NM: Half
    values_N: npt.NDArray[np.int32]
    offsets_N: Whole
    sums_PM: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values_N)


def folder_of(book: Path, model: str) -> Path:
    """Where the datastore of a model is kept; `model` names all that decides the bits of its keys."""
    return book / FOLDER / re.sub(r"[^A-Za-z0-9._-]", "_", model)[:200]


def read_listing(folder: Path) -> Listing | None:
    """What counts in a datastore, checked; None where there is none."""
    path = folder / LISTING
    if not path.exists():
        return None
    try:
        facts = _json(path)
        listing = Listing(**{**facts, "segments": tuple(facts["segments"])})
        counts = (listing.width, listing.indexed, listing.trained, listing.next)
        sound = listing.format == FORMAT and all(isinstance(n, int) and n >= 0 for n in counts)
        names = [*listing.segments, *([listing.index.removesuffix(".lists")] if listing.index else [])]
        if not (sound and 0 < listing.width < 1 << 20 and all(_NAME.fullmatch(name) for name in names)):
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path) from error
    return listing


def open_segment(folder: Path, name: str, width: int) -> Segment:
    """A segment, its parts checked against each other."""
    path = folder / name
    try:
        pieces = tuple(Piece(**piece) for piece in _json(path / "pieces.json"))
        keys, values, offsets, sums = (_array(path / f"{part}.npy") for part in ("keys", "values", "offsets", "sums"))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path) from error
    rows = len(values)
    kinds = [(keys, np.float16, (rows, width)), (values, np.int32, (rows,)), (offsets, np.int64, (rows,))]
    kinds.append((sums, np.float64, (len(pieces), width + 1)))
    tiled = [piece.start for piece in pieces] + [rows] == [0] + [piece.stop for piece in pieces]
    placed = all(0 <= p.start <= p.stop and p.first >= 0 and p.first + p.stop - p.start <= p.of for p in pieces)
    if not (tiled and placed and all(part.dtype == kind and part.shape == shape for part, kind, shape in kinds)):
        raise _damaged(path)
    return Segment(path, pieces, keys, values, offsets, sums)


def _json(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise ValueError
    return json.loads(data)


def _array(path: Path) -> npt.NDArray[Any]:
    if os.path.getsize(path) == 0:  # noqa: PTH202
        raise ValueError
    try:
        found: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        found = np.load(path, allow_pickle=False)  # nothing can be mapped of an array without rows
    return found


def _damaged(path: Path) -> BookFault:
    return BookFault(f"{path} is damaged; delete {path.parent} and run: openbook add --neighbours")


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
    for row, piece in enumerate(pieces):
        part = keys_NM[max(piece.start - at, 0) : max(piece.stop - at, 0)].astype(np.float64)
        sums_PM[row, :-1] += part.sum(0)
        sums_PM[row, -1] += (part * part).sum()


def datastores(book: Path) -> list[Path]:
    """The folders of all datastores of a book."""
    root = book / FOLDER
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
