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

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.book.manifest import BookFault

FORMAT = 1
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
        named = all(_NAME.fullmatch(name) and int(name) < listing.next for name in names)  # the next is nobody's yet
        if not (sound and named and 0 < listing.width < 1 << 20):
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path) from error
    return listing


def open_segment(folder: Path, name: str, width: int) -> Segment:
    """A segment, its parts checked against each other."""
    path = folder / name
    try:
        pieces = tuple(_piece(**piece) for piece in _json(path / "pieces.json"))
        keys, values, offsets, sums = (_array(path / f"{part}.npy") for part in ("keys", "values", "offsets", "sums"))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(path) from error
    rows = len(values)
    kinds = [(keys, np.float16, (rows, width)), (values, np.int32, (rows,)), (offsets, np.int64, (rows,))]
    kinds.append((sums, np.float64, (len(pieces), width + 1)))
    tiled = [piece.start for piece in pieces] + [rows] == [0] + [piece.stop for piece in pieces]
    placed = all(0 <= p.start <= p.stop and p.first >= 0 and p.first + p.stop - p.start <= p.of for p in pieces)
    shaped = all(part.dtype == kind and part.shape == shape for part, kind, shape in kinds)
    if not (tiled and placed and shaped and np.isfinite(sums).all()):
        raise _damaged(path)
    return Segment(path, pieces, keys, values, offsets, sums)


def _piece(id: str, hash: str, start: int, stop: int, first: int, of: int) -> Piece:
    if not all(type(text) is str for text in (id, hash)) or not all(type(n) is int for n in (start, stop, first, of)):
        raise TypeError
    return Piece(id, hash, start, stop, first, of)


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


def datastores(book: Path) -> list[Path]:
    """The folders of all datastores of a book."""
    root = book / FOLDER
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
