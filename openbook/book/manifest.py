"""The history of a book: one small file a commit, and HEAD, which names the live one.

    book/
      HEAD                  "000007": the live version
      versions/000007.json  which version of each Lance table it is, by which encoder, and counts
      tags.json             names for versions, made by `openbook.book.versions`
      documents.lance/  passages.lance/
      lock                  held by the one process that writes
      forgetting.json       there while documents are being forgotten (`openbook.book.forget`)

A version counts once HEAD names it. Everything it needs is on the disk (fsync) before HEAD is replaced, so a crash
at any moment leaves the version before, whole; what was written past it is rolled back by the next writer.
A reader holds a shared lock on the file of the version it looks at, so that clean-up leaves that version alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from openbook.errors import Fault

FORMAT = 2
READ = (1, 2)
"""Formats that can be read: the first did not say how a version was made."""
FORGETTING = "forgetting.json"
Wait = bool | Callable[[str], None]
"""What to do while another process writes: wait, be told so once and wait, or (False) be refused."""
_FULL = re.compile(r"no space left|os error 28|disk quota|os error 122|storage.?full", re.IGNORECASE)


class BookFault(Fault):
    """A book cannot be opened, read or written; the message says which and what to do."""


@dataclass(frozen=True)
class Manifest:
    """One version of a book. Table versions are Lance's; None before the first passage is stored.

    `made` says how it came to be ("add", "forget", "use 3"), `since` the version that was live when that began: an
    `add` stores many versions, a batch each, of one `since`.
    """

    version: int = 0
    documents_table: int | None = None
    passages_table: int | None = None
    encoder: str | None = None
    width: int | None = None
    documents: int = 0
    passages: int = 0
    created: str = ""
    made: str = ""
    since: int | None = None
    format: int = FORMAT


def now() -> str:
    """The time of a commit, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def path_of(book: Path, version: int) -> Path:
    """The file of a version."""
    return book / "versions" / f"{version:06d}.json"


def read_head(book: Path) -> Manifest:
    """The live version; `BookFault` with one line where HEAD or its manifest is damaged."""
    number = _head(book)
    while True:
        try:
            return read_manifest(book, number)
        except BookFault:
            before, number = number, _head(book)
            if number == before:  # else there was a new one meanwhile, and this was cleaned up
                raise


def _head(book: Path) -> int:
    try:
        head = (book / "HEAD").read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BookFault(f"{book}: HEAD cannot be read ({error}); {_remedy(book)}") from error
    if not re.fullmatch(r"\d{6,12}", head):
        raise BookFault(f"{book}: HEAD is damaged, it names no version; {_remedy(book)}")
    return int(head)


def read_manifest(book: Path, version: int) -> Manifest:
    """A version's manifest, checked."""
    path = path_of(book, version)
    try:
        fields = read_json(path)
        if fields["format"] not in READ:
            raise BookFault(f"{book} has format {fields['format']}, this openbook reads {FORMAT}; use a matching one")
        manifest = Manifest(**fields)
        counts = (manifest.documents, manifest.passages)
        others = (manifest.documents_table, manifest.passages_table, manifest.width, manifest.since)
        numbered = all(type(n) is int for n in (*counts, *(n for n in others if n is not None)))
        whole = manifest.version == version and numbered
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BookFault(f"{book}: version {version} cannot be read ({path.name}); {_remedy(book, version)}") from error
    if not whole:
        raise BookFault(f"{book}: {path.name} is damaged; {_remedy(book, version)}")
    return manifest


def manifests(book: Path) -> list[Manifest]:
    """The versions that count, oldest first: those above HEAD were never published."""
    head, found = read_head(book).version, []
    for number in numbers(book):
        try:
            if number <= head:
                found.append(read_manifest(book, number))
        except BookFault:
            if path_of(book, number).exists():  # else it was cleaned up since its name was read
                raise
    return found


def _remedy(book: Path, bad: int | None = None) -> str:
    intact = [number for number in numbers(book) if number != bad]
    if intact:
        return f"to go back to version {intact[-1]}, write {intact[-1]:06d} into {book / 'HEAD'}"
    return "no other version is here: delete the folder and add the documents again"


def publish(book: Path, manifest: Manifest) -> None:
    """Make `manifest` the live version, for good: it is on the disk when this returns."""
    path = path_of(book, manifest.version)
    write(path, json.dumps(asdict(replace(manifest, format=FORMAT)), indent=1) + "\n")
    write(book / "HEAD", f"{manifest.version:06d}\n")


def numbers(book: Path) -> list[int]:
    """Versions whose manifests are here, oldest first; one that was not published may be among them, above HEAD."""
    names = (path.stem for path in (book / "versions").glob("*.json"))
    return sorted(int(name) for name in names if name.isdigit())


class Lease:
    """A version held while it is looked at: clean-up passes it over until this is dropped, or the process ends."""

    def __init__(self, handle: int) -> None:
        self.close = weakref.finalize(self, os.close, handle)


def look(book: Path, version: int | None = None) -> tuple[Manifest, Lease | None]:
    """A version (else the live one) and a hold on it; the hold is None where the file system knows no locks."""
    for _ in range(500):
        manifest = read_head(book) if version is None else read_manifest(book, version)
        try:
            return manifest, _hold(path_of(book, manifest.version))
        except (BlockingIOError, FileNotFoundError):  # it is being cleaned up this moment
            time.sleep(0.01)
    raise BookFault(f"{book}: version {manifest.version} is being cleaned up; try again")


def _hold(path: Path) -> Lease | None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.stat()  # a lock on a file that has just been deleted holds nothing
    except (BlockingIOError, FileNotFoundError):
        os.close(handle)
        raise
    except OSError:
        os.close(handle)
        return None
    return Lease(handle)


def drop(book: Path, version: int, even_held: bool = False) -> bool:
    """Delete a version's manifest; False where a reader holds it, unless `even_held`."""
    path = path_of(book, version)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not even_held:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def read_json(path: Path) -> Any:
    """What a file of the book says; `ValueError` where it is no JSON, or nested as nothing of ours is."""
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deep") from error


def write(path: Path, text: str) -> None:
    """Replace a file in one step, durable."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Synced:
    """Brings the files that Lance wrote since the last call to the disk; Lance itself never does."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen = set(self._files())

    def __call__(self) -> None:
        new = [path for path in self._files() if path not in self._seen]
        fresh = [Path(path) for path in new]
        for path in fresh:
            sync(path)
        for folder in {folder for path in fresh for folder in (path.parent, path.parent.parent)}:
            sync(folder)
        self._seen.update(new)

    def _files(self) -> Iterator[str]:
        # As strings: a long `add` looks through thousands of names after every batch.
        for table in self._root.glob("*.lance"):
            for folder, _, names in os.walk(table):
                yield from (f"{folder}/{name}" for name in names)


@contextmanager
def writing(book: Path, wait: Wait = True, forgetting: bool = False) -> Iterator[None]:
    """Hold the writer's lock of a book. Another process (or book object) that has it is waited for.

    `BookFault` where `wait` is False and another has it, and where documents are half forgotten: that is finished
    first (`forgetting` says that this is it), else it could forget what came later.
    """
    with faults(book), (book / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if wait is False:
                raise BookFault(f"{book} is being written by another process; wait until it is done") from error
            if callable(wait):
                wait(f"{book} is being written by another process; waiting until it is done")
            fcntl.flock(file, fcntl.LOCK_EX)
        if (book / FORGETTING).exists() and not forgetting:
            raise BookFault(f"{book}: a forget was interrupted; finish it with: openbook forget --book {book}")
        yield


@contextmanager
def faults(book: Path) -> Iterator[None]:
    """Failures of the disk, and of Lance upon it, as one clear line."""
    try:
        yield
    except Fault:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # Lance raises any, with the system's message inside
        message = " ".join(str(error).split())
        if _FULL.search(message):
            raise BookFault(
                f"the disk under {book} is full; free some space and run the same command again "
                "(what was stored before is kept)"
            ) from error
        of_lance = isinstance(error, RuntimeError) and "lance" in message.lower()
        if isinstance(error, OSError) or of_lance or type(error).__module__ == "pyarrow.lib":
            raise BookFault(f"{book} cannot be used: {message[:300]}") from error
        raise
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # what a file that was cut comes to in Lance
            raise BookFault(f"{book} cannot be used: a file of it is damaged") from error
        raise
