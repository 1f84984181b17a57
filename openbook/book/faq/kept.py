"""Indices that were made, kept in the book's folder `faq/`: what is there can be made again, and is when it is damaged.

A file holds an index, its weights and its threshold, under a name made of the documents that it is of, so a version
gone back to finds its own. No text is in it: terms and texts are hashes. What an index has vectors of, the next need
not embed.

    book/faq/<24 hexadecimal digits>.npz     book/faq/lock
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from openbook.book.embedder import Embedder
from openbook.book.faq.entries import Entry
from openbook.book.faq.fit import Calibration, Fitted
from openbook.book.faq.index import FEATURES, Index
from openbook.book.faq.learn import LOG
from openbook.book.faq.pairs import MEDIA
from openbook.book.faq.terms import Array
from openbook.book.manifest import faults, path_of, sync

if TYPE_CHECKING:
    from openbook.book.store import Book

FORMAT = 3
"""Raised when the same pairs come to other numbers: weights, thresholds, terms."""
FOLDER = "faq"
FILES = 3
"""Indices that are kept: the newest."""
LARGEST = 4 << 30
_NAME = re.compile(r"[0-9a-f]{24}\.npz")
_ROWS = ("questions", "sentences", "rejected")


def name_of(book: Book, encoder: Embedder, precision: float) -> str:
    """The file of a book's pairs and judgements, as they are at its version."""
    held: list[tuple[str, str]] = []
    if book.documents_table is not None:
        with faults(book.path):
            where = f"media IN ('{MEDIA}', '{LOG}')"
            rows = book.documents_table.scanner(columns=["id", "hash"], filter=where).to_table().to_pylist()
        held = sorted((row["id"], row["hash"]) for row in rows)
    facts = json.dumps([FORMAT, FEATURES, encoder.name, encoder.width, precision, held])
    return hashlib.sha256(facts.encode()).hexdigest()[:24] + ".npz"


def read(book: Path, name: str, entries: Sequence[Entry], width: int) -> tuple[Index, Fitted] | None:
    """What is kept under a name; None where nothing is, or nothing that can be used."""
    with suppress(OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        found = _load(book / FOLDER / name)
        weights_K = found["weights"].astype(np.float64)
        calibration = Calibration(**json.loads(found["calibration"].tobytes()))
        numbers = np.array([*weights_K, *vars(calibration).values()], np.float64)
        if weights_K.shape != (len(FEATURES),) or not np.isfinite(numbers).all():
            return None
        return Index.from_arrays(found, len(entries), width), Fitted(weights_K, calibration)
    return None


def write(book: Book, name: str, entries: Sequence[Entry], index: Index, fitted: Fitted) -> None:
    """Keep an index, if its version is still there: documents of it may have been forgotten meanwhile. Where nothing
    can be written there is simply none."""
    keys = [np.frombuffer(text_key(t), np.uint8) for rows in _ROWS for e in entries for t in getattr(e, rows)]
    calibration = np.frombuffer(json.dumps(fitted.calibration.to_dict()).encode(), np.uint8)
    arrays: dict[str, npt.NDArray[Any]] = index.arrays() | {"weights": fitted.weights_K, "calibration": calibration}
    folder = book.path / FOLDER
    if folder.is_symlink():
        return
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        with _alone(folder):
            if not path_of(book.path, book.version).exists():
                return
            _store(folder / name, arrays | {"texts": np.array(keys, np.uint8).reshape(-1, 16)})
            for old in _files(folder)[FILES:]:
                old.unlink(missing_ok=True)


def vectors(book: Path, width: int) -> dict[bytes, Array]:
    """Vectors that are at hand, by `text_key`."""
    for path in _files(book / FOLDER):
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            found = _load(path)
            rows = np.concatenate([found[part] for part in ("questions_VM", "sentences_SM", "rejected_RM")])
            keys = found["texts"]
            if rows.shape == (len(keys), width) and np.isfinite(rows).all():
                return {key.tobytes(): row for key, row in zip(keys, rows, strict=True)}
    return {}


def text_key(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()[:16]


def retain(book: Path, texts: Iterable[str], width: int) -> None:
    """Leave of all that is kept the vectors of these texts alone: what `forget` and `prune` removed is not among it."""
    folder = book / FOLDER
    if folder.is_symlink():
        folder.unlink()  # what it leads to is not the book's
    if not folder.is_dir():
        return
    with _alone(folder):
        kept = vectors(book, width)
        staying = {key: kept[key] for key in map(text_key, texts) if key in kept}
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "lock":
                path.unlink()
        if staying:
            rows = np.array(list(staying.values()), np.float32)
            keys = np.array([np.frombuffer(key, np.uint8) for key in staying], np.uint8)
            none = np.zeros((0, width), np.float32)
            parts = {"questions_VM": rows, "sentences_SM": none, "rejected_RM": none, "texts": keys}
            _store(folder / ("0" * 24 + ".npz"), parts)
        sync(folder)


def _files(folder: Path) -> list[Path]:
    """What is kept, the newest first."""
    found = [path for path in folder.glob("*.npz") if _NAME.fullmatch(path.name) and not path.is_symlink()]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _load(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file. What says it is larger than its file is refused: nothing here is packed."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        if size > LARGEST or sum(part.file_size for part in archive.infolist()) > size:
            raise ValueError("larger than it can be")
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _store(path: Path, arrays: Mapping[str, Any]) -> None:
    """A file, whole or not at all."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync(path.parent)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
