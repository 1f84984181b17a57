"""Adding files and folders to a book: only what changed is read, embedded and stored."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from openbook.book.apart import parse_apart
from openbook.book.documents import Unreadable, load, own_kind, parse, searched, supported
from openbook.book.embedder import Embedder
from openbook.book.manifest import BookFault
from openbook.book.passages import in_place, split
from openbook.book.uploads import UPLOADS, Incoming, settle
from openbook.book.walk import Found, Skipped, is_book, walk
from openbook.book.writer import Batch, Entry, Writer, document_id

Progress = Callable[[int, int, str], None]
"""Called with (files done, files in all, what is being done)."""

COMMIT_DOCUMENTS, COMMIT_PASSAGES, COMMIT_SECONDS = 64, 512, 10.0
EMBED_AT_ONCE = 64
RACY_NS = 2_000_000_000
"""A file changed less than this before it was read may change again within one tick of the file system's clock."""


@dataclass(frozen=True)
class Known:
    """What the book holds of a file already."""

    id: str
    name: str
    path: str
    hash: str
    size: int
    mtime_ns: int
    media: str | None = None


@dataclass
class Added:
    """What an `add` did. `documents` and `passages` were stored now, `replaced` of those documents were here before."""

    documents: int = 0
    passages: int = 0
    unchanged: int = 0
    replaced: int = 0
    dropped: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ignored: int = 0
    seconds: float = 0.0


def _absolute(path: str | Path) -> Path:
    """The path as the person wrote it, from the root: links stay links, so that names stay the names they know."""
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100  (resolve would follow links)


def _shown(path: Path) -> str:
    """The path as text that can be printed and stored, whatever bytes are in the name."""
    return os.fsencode(path).decode("utf-8", "replace")


@dataclass(frozen=True)
class _Job:
    path: Path
    root: Path


def add(
    writer: Writer,
    known: Sequence[Known],
    paths: Sequence[str | Path],
    encoder: Embedder,
    progress: Progress | None,
    as_media: str | None = None,
    careful: bool = False,
    incoming: Mapping[Path, Incoming] | None = None,
) -> Added:
    """Bring the book up to date with `paths`; see `Book.add`. `as_media`: read them as that, whatever their ending."""
    began = time.monotonic()
    run = _Run(writer, known, encoder, progress or (lambda done, total, name: None), as_media, careful, incoming or {})
    run.plan([_absolute(path) for path in paths])
    run.work()
    run.added.seconds = time.monotonic() - began
    return run.added


class _Run:
    def __init__(
        self,
        writer: Writer,
        known: Sequence[Known],
        encoder: Embedder,
        progress: Progress,
        as_media: str | None = None,
        careful: bool = False,
        incoming: Mapping[Path, Incoming] | None = None,
    ) -> None:
        self.added = Added()
        self._as_media = as_media
        self._parse = parse_apart if careful else parse
        self._incoming = incoming or {}
        self._settling: list[tuple[Incoming, Path]] = []
        self._writer = writer
        self._encoder = encoder
        self._progress = progress
        self._known = {row.path: row for row in known}
        self._owner = {row.name: row.path for row in known}
        self._jobs: dict[str, _Job] = {}
        self._roots: list[Path] = []
        self._batch = Batch()
        self._since = time.monotonic()
        self._done = 0

    def plan(self, roots: Sequence[Path]) -> None:
        """Find the files; refuse, before anything is written, what cannot be meant."""
        for root in roots:
            if root not in self._incoming and not os.path.lexists(root):
                raise BookFault(f"{root} does not exist; nothing was added")
            found = self._look(root)
            if not found.files and not any(self._under(row.path, root) for row in self._known.values()):
                reasons = "".join(f"; {s.name}: {s.reason}" for s in found.skipped[:3])
                raise BookFault(
                    f"no readable documents in {root} ({found.ignored} files of other kinds{reasons}); "
                    f"Markdown, text, HTML, PDF, Word and source code are read ({len(supported())} endings)"
                )
            self.added.ignored += found.ignored
            self.added.skipped += found.skipped
            self._roots.append(root)
            for path in found.files:
                if (shown := _shown(path)) == str(path):
                    self._jobs.setdefault(str(path), _Job(path, root))
                else:
                    self.added.skipped.append(Skipped(shown, "its name is not UTF-8; rename it"))

    def _look(self, root: Path) -> Found:
        if root in self._incoming or not root.is_dir():
            return Found([root])
        if is_book(root):
            raise BookFault(f"{root} is a book, not documents; name the folder the documents are in")
        return walk(root)

    @staticmethod
    def _under(path: str, root: Path) -> bool:
        return path == str(root) or path.startswith(str(root).rstrip("/") + "/")

    def work(self) -> None:
        """Drop what vanished, store what is new or changed, a batch at a time."""
        for row in self._known.values():
            if row.path not in self._jobs and any(self._under(row.path, root) for root in self._roots):
                self._batch.gone.append(row.id)
                self.added.dropped += 1
        for job in self._jobs.values():
            self._progress(self._done, len(self._jobs), job.path.name)
            self._take(job)
            if self._due():
                self._flush()
            self._done += 1
        self._flush()
        self._check_any()
        self._progress(self._done, len(self._jobs), "indexing")
        self._writer.tend()
        self._progress(self._done, len(self._jobs), "")

    def _check_any(self) -> None:
        """Nothing but unreadable files is a fault: the person would otherwise search an empty book."""
        added = self.added
        if added.skipped and not (added.documents or added.unchanged or added.dropped):
            first = "; ".join(f"{s.name}: {s.reason}" for s in added.skipped[:3])
            more = f" and {len(added.skipped) - 3} more" if len(added.skipped) > 3 else ""
            raise BookFault(f"nothing could be read: {first}{more}")

    def _take(self, job: _Job) -> None:
        row, come = self._known.get(str(job.path)), self._incoming.get(job.path)
        try:
            if row and not come and self._as_before(row) and self._same_time(job.path, row):
                self.added.unchanged += 1
                return
            entry = self._read(job, row)
            if come:
                self._settling.append((come, job.path))
        except Unreadable as error:
            self.added.skipped.append(Skipped(come.name if come else str(job.path), error.reason))
            if row and not come:  # a file that came and cannot be read is no reason to lose the one that is here
                self._batch.gone.append(row.id)
                self.added.dropped += 1
            return
        if entry is None:
            self.added.unchanged += 1
            return
        if row:
            self._batch.gone.append(row.id)
            self.added.replaced += 1
        if entry.document.note:
            self.added.notes.append(f"{entry.document.name}: {entry.document.note}")
        self._batch.entries.append(entry)
        self.added.documents += 1
        self.added.passages += len(entry.pieces)

    def _as_before(self, row: Known) -> bool:
        """Whether the file is to be read as it was: what was added as something of its own stays that."""
        return self._as_media is None or row.media == self._as_media

    @staticmethod
    def _same_time(path: Path, row: Known) -> bool:
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_mtime_ns, status.st_size) == (row.mtime_ns, row.size) and os.access(path, os.R_OK)

    def _read(self, job: _Job, row: Known | None) -> Entry | None:
        """The entry to store, or None where the content is what the book holds."""
        come = self._incoming.get(job.path)
        loaded = load(come.staged if come else job.path)
        digest = hashlib.sha256(loaded.data).hexdigest()
        if row and row.hash == digest and self._as_before(row):
            return None
        name = row.name if row else self._name(job)
        document = self._parse(
            loaded.data, job.path, name, self._as_media or (own_kind(row.media or "") if row else None)
        )
        # Like git's "racy" files: a time this fresh proves nothing, so 0 makes the next add compare contents.
        trusted = time.time_ns() - loaded.mtime_ns > RACY_NS
        return Entry(
            id=document_id(name),
            path=str(job.path),
            root=str(job.root),
            hash=digest,
            size=loaded.size,
            mtime_ns=loaded.mtime_ns if trusted else 0,
            document=document,
            pieces=split(document, self._encoder) if searched(document.media) else [],
        )

    def _name(self, job: _Job) -> str:
        """`notes/comet.md` for a file below `notes/`; the whole path where another document has that name."""
        if come := self._incoming.get(job.path):
            name = come.name
            while self._owner.get(name, str(job.path)) != str(job.path):
                name = f"{UPLOADS}/{name}"
            self._owner[name] = str(job.path)
            return name
        inside = "" if job.path == job.root else job.path.relative_to(job.root).as_posix()
        name = "/".join(part for part in (job.root.name, inside) if part)
        if self._owner.get(name, str(job.path)) != str(job.path):
            name = job.path.as_posix()
        self._owner[name] = str(job.path)
        return name

    def _due(self) -> bool:
        batch = self._batch
        full = len(batch.entries) >= COMMIT_DOCUMENTS or batch.passages >= COMMIT_PASSAGES
        return full or (bool(batch) and time.monotonic() - self._since >= COMMIT_SECONDS)

    def _flush(self) -> None:
        if self._batch:
            vectors = np.concatenate([np.zeros((0, self._encoder.width), np.float32), *self._vectors()])
            self._writer.commit(self._batch, vectors, self._encoder.name, self._encoder.width)
            if self._writer.due:
                self._progress(self._done, len(self._jobs), "indexing")
                self._writer.tend()
        for come, path in self._settling:
            settle(come, path)
        self._settling = []
        self._batch = Batch()
        self._since = time.monotonic()

    def _vectors(self) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        texts = [
            in_place(entry.document.title, piece.heading, piece.text)
            for entry in self._batch.entries
            for piece in entry.pieces
        ]
        for at in range(0, len(texts), EMBED_AT_ONCE):
            self._progress(self._done, len(self._jobs), f"embedding {at}/{len(texts)} passages")
            yield self._encoder.embed(texts[at : at + EMBED_AT_ONCE])
