"""Documents: a file becomes text with exact places in it.

A reader is a plain function from bytes to `Extracted`, registered for file endings or whole file names:

    @reader(".epub", media="application/epub+zip")
    def read_epub(data: bytes) -> Extracted: ...

Every offset of the book counts characters (code points) of `Document.text`, after newlines were made `\\n`.
"""

from __future__ import annotations

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openbook.errors import Fault

MAX_FILE_BYTES = 64 * 2**20
MAX_TEXT_CHARS = 20 * 2**20
MAX_PAGES = 20_000
MAX_NAME = 200
"""Characters of a title or heading that are kept: every passage under it is stored and read with it."""

Kind = Literal["prose", "code", "lines"]
"""How a text falls into units: sentences and paragraphs, definitions, or one record a line."""


class Unreadable(Fault):
    """A file that cannot be read as a document; `reason` says why, the message also says which file."""

    def __init__(self, reason: str, path: str | None = None) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason


@dataclass(frozen=True)
class Heading:
    """A heading of level `level` (1 is the highest) whose line is `text[start:end]` of the document."""

    start: int
    end: int
    level: int
    text: str


@dataclass(frozen=True)
class Extracted:
    """What a reader hands back. `text` must already be tidy (see `tidy`); offsets refer to it."""

    text: str
    title: str | None = None
    kind: Kind = "prose"
    headings: tuple[Heading, ...] = ()
    page_starts: tuple[int, ...] | None = None
    note: str | None = None


@dataclass(frozen=True)
class Document:
    """One readable file: its text, and where its pages (offset of each first character) and headings are."""

    name: str
    title: str
    text: str
    page_starts: tuple[int, ...] | None = None
    headings: tuple[Heading, ...] = ()
    kind: Kind = "prose"
    media: str = "text/plain"
    note: str | None = None

    def page(self, offset: int) -> int | None:
        """The page, counted from 1, that holds character `offset`; None where the format has no pages."""
        return max(1, bisect_right(self.page_starts, offset)) if self.page_starts else None


Reader = Callable[[bytes], Extracted]

_READERS: dict[str, tuple[Reader, str]] = {}


def reader(*endings: str, media: str = "text/plain") -> Callable[[Reader], Reader]:
    """Register a reader for endings (".md") or whole file names ("makefile"), lower case; the last one wins."""

    def register(function: Reader) -> Reader:
        for ending in endings:
            _READERS[ending.lower()] = (function, media)
        return function

    return register


_STORED_AS: dict[str, tuple[Callable[[bytes, Path], Extracted], bool]] = {}


def stored_as(media: str, passages: bool = True) -> Callable[..., Callable[[bytes, Path], Extracted]]:
    """Register how a file is read that was added as something of its own (`parse(as_media=…)`), and is then read so
    again whenever it changed; without `passages` it is kept, but not searched by `find`."""

    def register(function: Callable[[bytes, Path], Extracted]) -> Callable[[bytes, Path], Extracted]:
        _STORED_AS[media] = function, passages
        return function

    return register


def own_kind(media: str) -> str | None:
    """The media type itself if files are added as such on purpose, not by their ending."""
    import openbook.book.faq.learn
    import openbook.book.faq.read  # noqa: F401  (they register theirs)

    return media if media in _STORED_AS else None


def searched(media: str) -> bool:
    """Whether documents of a media type are cut into passages."""
    return _STORED_AS[media][1] if own_kind(media) else True


def supported() -> list[str]:
    """Endings that have a reader, sorted."""
    return sorted(ending for ending in _registry() if ending.startswith("."))


def reader_for(path: Path) -> tuple[Reader, str] | None:
    """The reader and media type for a path's ending or whole name; None if unknown."""
    known = _registry()
    return known.get(path.suffix.lower()) or known.get(path.name.lower())


def _registry() -> dict[str, tuple[Reader, str]]:
    import openbook.book.readers  # noqa: F401  (registers the readers that come with openbook)

    return _READERS


def tidy(text: str) -> str:
    """Newlines as `\\n`, no NUL, no lone surrogates: text that can be stored and whose offsets stay true."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text


def size(count: int) -> str:
    """A number of bytes for people: `64.0 MB`."""
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count / 2**10:.1f} kB"


@dataclass(frozen=True)
class Load:
    """The bytes of a file and the size (bytes) and time (nanoseconds) it had when they were read."""

    data: bytes
    size: int
    mtime_ns: int


def load(path: Path, limit: int = MAX_FILE_BYTES) -> Load:
    """Read a regular file of at most `limit` bytes; `Unreadable` for anything else. Never blocks on a pipe."""
    try:
        # O_NONBLOCK: opening a FIFO without a writer would otherwise wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unreadable(_why(error), str(path)) from error
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("is not a regular file", str(path))
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(limit + 1) if status.st_size <= limit else b""
    except OSError as error:
        raise Unreadable(_why(error), str(path)) from error
    finally:
        os.close(handle)
    if len(data) > limit or status.st_size > limit:
        found = max(status.st_size, len(data))
        raise Unreadable(f"is {size(found)}, more than the limit of {size(limit)}; split it", str(path))
    return Load(data, len(data), status.st_mtime_ns)


def _why(error: OSError) -> str:
    reasons = {
        errno.EACCES: "may not be read by this user; change its permissions",
        errno.ELOOP: "is a link that leads back to itself",
        errno.ENOENT: "does not exist (or is a link to something that does not)",
        errno.EISDIR: "is a folder",
        errno.ENXIO: "is not a regular file",
    }
    return reasons.get(error.errno or 0, f"could not be read: {error.strerror or error}")


def parse(data: bytes, path: Path, name: str | None = None, as_media: str | None = None) -> Document:
    """Make a document of a file's bytes; the reader is that of `as_media`, else of the path's ending, else of text."""
    function, media = reader_for(path) or _registry()[".txt"]
    try:
        if as_media is not None and own_kind(as_media):
            media, extracted = as_media, _STORED_AS[as_media][0](data, path)
        else:
            extracted = function(data)
        check_length(len(extracted.text))
        if not extracted.text.strip():
            raise Unreadable("holds no text")
    except Unreadable as error:
        raise Unreadable(error.reason, str(path)) from error
    return Document(
        name=name or path.name,
        title=(extracted.title or "").strip()[:MAX_NAME] or path.stem,
        text=extracted.text,
        page_starts=extracted.page_starts,
        headings=extracted.headings,
        kind=extracted.kind,
        media=media,
        note=extracted.note,
    )


def check_length(chars: int, limit: int = MAX_TEXT_CHARS) -> None:
    """Raise `Unreadable` where an extracted text is longer than `limit` characters."""
    if chars > limit:
        raise Unreadable(f"holds {chars:,} characters of text, more than the limit of {limit:,}; split it")


def read(path: str | Path, name: str | None = None) -> Document:
    """Read one file, or raise `Unreadable` with the reason."""
    path = Path(path)
    return parse(load(path).data, path, name)
