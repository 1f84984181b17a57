"""Files that strangers hand over, and where a book keeps them: `<book>/uploads/<document's id>/<name>`.

A client's name decides what a document is called, never where anything is written: its folder is a hash, and the last
part of the name is made safe first. A file is read apart (`openbook.book.apart`) before it takes its place; one that
cannot be read leaves nothing, and the document of that name stays as it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from openbook.book import tables
from openbook.book.documents import Unreadable, load
from openbook.book.manifest import BookFault, faults, sync
from openbook.book.writer import document_id

if TYPE_CHECKING:
    from openbook.book.adding import Added, Progress
    from openbook.book.embedder import Embedder
    from openbook.book.store import Book

UPLOADS = "uploads"
MAX_PARTS, MAX_PART, MAX_BYTES = 8, 120, 200
"""Folders of a name and the name itself; characters and UTF-8 bytes of each."""
FRESH_SECONDS = 60.0
"""So young a folder of uploads is left alone, whoever is at work in it."""
_PLACE = re.compile(r"/uploads/([0-9a-f]{32})/([^/]+)\Z")
# Characters no name of a file may have on some system, and those that have a name read otherwise than it is.
_UNSAFE = re.compile('[\0-\x1f\x7f-\x9f"*:<>?|\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufff0-\uffff]')
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d|conin\$|conout\$)(?=\.|\Z)")


def safe_name(name: str) -> str:
    """A client's name for a file as a document's: parts joined by `/`, each a plain name on any system.

    Never empty, absolute, hidden, `..`, a device's name or longer than `MAX_PARTS` parts; a safe name is left as it is.
    """
    parts = [part for raw in re.split(r"[/\\]", name) if (part := _part(raw))]
    return "/".join(parts[-MAX_PARTS:]) or "document"


def _part(raw: str) -> str:
    """One part of a name; empty where nothing of it can stay."""
    text = _UNSAFE.sub("", unicodedata.normalize("NFC", _UNSAFE.sub("", raw)))
    text = " ".join(text.split()).strip(". ")
    if len(text) > MAX_PART or len(text.encode()) > MAX_BYTES:
        stem, dot, ending = text.rpartition(".")
        ending = dot + ending if stem and len((dot + ending).encode()) <= 16 else ""
        whole = text[: len(text) - len(ending)][: MAX_PART - len(ending)].encode()
        text = whole[: MAX_BYTES - len(ending.encode())].decode("utf-8", "ignore").rstrip(". ") + ending
    return f"_{text}"[:MAX_PART] if _DEVICE.match(text) else text


@dataclass(frozen=True)
class Incoming:
    """A file on its way into the book: where its bytes lie until they are read, and what the document is called."""

    staged: Path
    name: str


@contextmanager
def staging(book: Path) -> Iterator[Path]:
    """A folder of one's own to write uploads into, on the book's file system; it goes with all that stays in it.

    Those of processes that were killed are swept away.
    """
    uploads = book / UPLOADS
    with faults(book):
        if uploads.is_symlink():
            raise BookFault(f"{uploads} is a link; uploads are kept in the book itself: remove it")
        uploads.mkdir(exist_ok=True)
        _sweep(uploads)
        folder, lock = _claimed(uploads)
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _claimed(uploads: Path) -> tuple[Path, IO[str]]:
    """A new folder, and the lock that says that its process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=".staged-", dir=uploads))
        lock = (folder / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # else somebody swept it away before it was locked
            return folder, lock
        lock.close()


def _sweep(uploads: Path) -> None:
    for lock in uploads.glob(".staged-*/.lock"):
        with contextlib.suppress(OSError), lock.open("r") as file:
            if time.time() - lock.stat().st_mtime < FRESH_SECONDS:
                continue  # it may be made, and not yet locked
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def receive(
    book: Book,
    files: Sequence[tuple[str, Path]],
    encoder: Embedder | None = None,
    progress: Progress | None = None,
    as_media: str | None = None,
) -> Added:
    """Take staged files, each with the name that its client gave it, into the book; see `Book.add`.

    Each is read in a process apart. What cannot be read is in `skipped` under its (safe) name and the others go on;
    `BookFault` where nothing could be. Their places on the disk are what `staging` gave.
    """
    incoming: dict[Path, Incoming] = {}
    for given, staged in files:
        name = _unused(safe_name(given), {come.name for come in incoming.values()})
        incoming[place(book.path, name)] = Incoming(staged, name)
    return book.add(*incoming, encoder=encoder, progress=progress, as_media=as_media, careful=True, incoming=incoming)


def _unused(name: str, taken: set[str]) -> str:
    stem, dot, ending = name.rpartition(".")
    stem, ending = (stem, dot + ending) if stem and "/" not in ending else (name, "")
    tries = (f"{stem} ({number}){ending}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(other for other in tries if other not in taken)


def place(book: Path, name: str) -> Path:
    """Where the original of a document that was uploaded under a safe name is kept."""
    return Path(os.path.abspath(book)) / UPLOADS / document_id(name) / name.rpartition("/")[2]  # noqa: PTH100


def settle(come: Incoming, path: Path) -> None:
    """Move a file whose document is stored to its place, durable; one of the same name is replaced in one step.

    After the document: whoever is killed in between leaves one without its original, not a text that nobody forgets.
    """
    if path.parent.is_symlink():  # a book that others made may lead anywhere
        path.parent.unlink()
    path.parent.mkdir(exist_ok=True)
    sync(come.staged)
    come.staged.replace(path)
    for folder in (path.parent, path.parent.parent):
        sync(folder)


def here(book: Path, path: str) -> str:
    """The path stored with a document, or where its original is now, if that is in a book that was moved."""
    found = _PLACE.search(path)
    now = Path(os.path.abspath(book), UPLOADS, found[1], found[2]) if found else None  # noqa: PTH100
    return str(now) if now is not None and now.is_file() else path


def original(book: Book, name: str) -> bytes | None:
    """The bytes that a document was read from, where they are still there, unchanged; `BookFault` if there is no such.

    Checked against the hash stored with the document: a book may come from others, and name any file.
    """
    wanted = f"name IN ({tables.quoted([name])})"
    table = book.documents_table
    with faults(book.path):
        rows = [] if table is None else table.scanner(columns=["path", "hash"], filter=wanted).to_table().to_pylist()
    if not rows:
        raise BookFault(f"{book.path} holds no document {name!r} at version {book.version}")
    try:
        data = load(Path(here(book.path, rows[0]["path"]))).data
    except Unreadable:
        return None
    return data if hashlib.sha256(data).hexdigest() == rows[0]["hash"] else None


def retain(book: Path, paths: Iterable[str]) -> None:
    """Remove every original but those of documents with these paths: what was forgotten, and what a kill left."""
    uploads = book / UPLOADS
    if uploads.is_symlink() or not uploads.is_dir():
        return
    kept = {found[1] for path in paths if (found := _PLACE.search(path))}
    for folder in uploads.iterdir():
        if re.fullmatch("[0-9a-f]{32}", folder.name) and folder.name not in kept:
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    sync(uploads)
