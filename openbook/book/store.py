"""A book: documents and their passages, searchable, at one version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openbook.book import tables, versions
from openbook.book.adding import Added, Known, Progress, add
from openbook.book.candidates import FIELDS
from openbook.book.embedder import Embedder
from openbook.book.manifest import BookFault, Manifest, Wait, faults, look, now, numbers, publish, sync, writing
from openbook.book.passages import Passage
from openbook.book.uploads import UPLOADS, Incoming, here
from openbook.book.uploads import retain as retain_originals
from openbook.book.versions import Diff, Pruned, Ref, Version
from openbook.book.walk import is_book
from openbook.book.writer import Writer

if TYPE_CHECKING:
    import lance

    from openbook.book.forget import Forgotten
    from openbook.book.graph import Graph
    from openbook.book.prove import Report
    from openbook.book.traces import Traces


@dataclass(frozen=True)
class Stored:
    """A document in the book; `path` is where it was read from, `size` its bytes there, `passages` how many."""

    id: str
    name: str
    path: str
    title: str
    media: str
    size: int
    passages: int
    note: str | None


class Book:
    """A folder on the disk, seen at one version: what others write later is not seen until it is opened again.

    The version is held as long as this object lives: clean-up passes it over (`forget` does not).
    """

    def __init__(self, path: Path, at: Ref | None = None) -> None:
        self.path = path
        self.pinned = at is not None
        self.manifest, self._lease = look(path, None if at is None else versions.resolve(path, at))
        self._graph: Graph | None = None

    def __repr__(self) -> str:
        return f"Book({str(self.path)!r}, version={self.version}, passages={self.count})"

    @property
    def version(self) -> int:
        """The version seen; 0 is a book nothing was ever added to."""
        return self.manifest.version

    @property
    def count(self) -> int:
        """How many passages it holds."""
        return self.manifest.passages

    def add(
        self,
        *paths: str | Path,
        encoder: Embedder | None = None,
        progress: Progress | None = None,
        wait: Wait = True,
        as_media: str | None = None,
        made: str = "add",
        careful: bool = False,
        incoming: Mapping[Path, Incoming] | None = None,
    ) -> Added:
        """Read files and folders into the book, and bring what came from them before up to date.

        Unchanged files are left alone, changed ones replaced, vanished and now unreadable ones dropped. Stored in
        batches: interrupted, it keeps what was stored, and the next call goes on. Another writer is waited for.
        Raises `BookFault` where a path is missing or holds no documents, the disk is full, this book was opened `at` a
        version, or another process is writing and `wait` is False. `as_media` names what they are read as, where that
        is not for their endings to say (`openbook.book.faq`); `made` is what `versions` says of it.
        `careful` reads each file in a process apart, bounded (`openbook.book.apart`); `incoming` says for paths that
        are yet to be where their bytes lie (`openbook.book.uploads`).
        """
        if not paths:
            raise BookFault("nothing to add: name at least one file or folder")
        self._must_be_live()
        with writing(self.path, wait):
            self._see()
            encoder = self.encoder(encoder)
            writer = Writer(self.path, self.manifest, made)
            try:
                writer.sweep()
                return add(writer, self._known(), paths, encoder, progress, as_media, careful, incoming)
            finally:
                self._see()

    def versions(self) -> list[Version]:
        """All versions of the book, oldest first."""
        return versions.versions(self.path)

    def tag(self, name: str, at: Ref | None = None) -> int:
        """Name a version, else the one seen here; it is kept for good. Returns its number."""
        return versions.tag(self.path, name, self.version if at is None else at)

    def untag(self, *names: str) -> None:
        """Take names off; `BookFault` where one is not there."""
        versions.untag(self.path, names)

    def use(self, ref: Ref, wait: Wait = True) -> int:
        """Make the live version equal to another, as a new version, and see that; readers keep what they opened.

        Takes no longer for a large book. Returns the new version; `use` of the one before undoes it.
        """
        self._must_be_live()
        versions.use(self.path, ref, wait)
        self._see()
        return self.version

    def diff(self, before: Ref, after: Ref | None = None) -> Diff:
        """How one version, else the one seen here, differs from another before it."""
        return versions.diff(self.path, before, self.version if after is None else after)

    def prune(self, keep: int, wait: Wait = True) -> Pruned:
        """Remove all but the newest `keep` versions, those with a tag and those that readers look at."""
        self._must_be_live()
        if self._lease is not None:
            self._lease.close()  # it would hold what was live until now
        try:
            pruned = versions.prune(self.path, keep, wait)
        finally:
            self._see()
        if (self.path / UPLOADS).exists():
            with writing(self.path, wait):
                kept = (Book(self.path, n) for n in versions.apart(self.path))
                retain_originals(self.path, {known.path for book in kept for known in book._known()})
        if (self.path / "neighbours").exists():
            from openbook.book.neighbours import contents
            from openbook.book.tending import retain

            retain(self.path, set().union(*(contents(Book(self.path, n)) for n in versions.apart(self.path))))
        if (self.path / "graph").exists():
            from openbook.book.graph import build, forgetting

            held = (build.contents(Book(self.path, n)) for n in versions.apart(self.path))
            forgetting.retain(self.path, set().union(*held))
        if (self.path / "faq").exists():
            from openbook.book.faq.knowledge import forget

            forget(self.path)
        return pruned

    def forget(self, *documents: str, tags: bool = False, wait: Wait = True) -> Forgotten:
        """Remove documents, by name, path or id, from every file of the book; see `openbook.book.forget`.

        Old versions that hold one go too, also under a reader; where they have tags, only if `tags` says so.
        """
        from openbook.book.forget import forget

        self._must_be_live()
        try:
            return forget(self.path, documents, tags, wait)
        finally:
            self._see()

    def prove(self, traces: Traces) -> Report:
        """Search every file of the book for what documents leave: `forget(…).traces`."""
        from openbook.book.prove import prove

        return prove(self.path, traces)

    def graph(self, progress: Progress | None = None) -> Graph:
        """Who and what the documents of this version name (`openbook.book.graph`); what is new is extracted first."""
        if self._graph is None:
            from openbook.book.graph import open_graph

            self._graph = open_graph(self, progress)
        return self._graph

    def _must_be_live(self) -> None:
        if self.pinned:
            raise BookFault(f"{self.path} was opened at version {self.version} to look at; open it without that")

    def encoder(self, given: Embedder | None = None) -> Embedder:
        """The encoder given, else the default one; `BookFault` if the book's vectors are another's."""
        given = given or self._default_encoder
        made, width = self.manifest.encoder, self.manifest.width
        if made is not None and (made, width) != (given.name, given.width):
            raise BookFault(
                f"{self.path} was made with the encoder {made} (width {width}), not {given.name} "
                f"(width {given.width}); use {made}, or make a new book"
            )
        return given

    @cached_property
    def _default_encoder(self) -> Embedder:
        from openbook.lm.encoder import load_encoder

        return load_encoder()

    def documents(self) -> list[Stored]:
        """All documents, by name."""
        columns = ["id", "name", "path", "title", "media", "size", "passages", "note"]
        return sorted((Stored(**row) for row in self._rows(self.documents_table, columns)), key=lambda d: d.name)

    def passages(self) -> Iterator[Passage]:
        """All passages, document by document in the order they were stored, read as they are asked for."""
        if self.passages_table is None:
            return
        with faults(self.path):
            for batch in self.passages_table.scanner(columns=FIELDS).to_batches():
                yield from (Passage(**row) for row in batch.to_pylist())

    def passage(self, id: str) -> Passage:
        """The passage with an id; `BookFault` if there is none at this version."""
        found: Passage = self._one(self.passages_table, FIELDS, "id", id, Passage)
        return found

    def text(self, document: str) -> str:
        """The whole text of a document by its name: what every span counts in."""
        text: str = self._one(self.documents_table, ["text"], "name", document, dict)["text"]
        return text

    @cached_property
    def documents_table(self) -> lance.LanceDataset | None:
        """The Lance table of documents at this version; None before anything was stored. Read only."""
        return self._table(tables.DOCUMENTS, self.manifest.documents_table)

    @cached_property
    def passages_table(self) -> lance.LanceDataset | None:
        """The Lance table of passages at this version; None before anything was stored. Read only."""
        return self._table(tables.PASSAGES, self.manifest.passages_table)

    @cached_property
    def _session(self) -> lance.Session:
        """Versions share most of their files, so what one has read another need not read."""
        return tables.session()

    def _table(self, name: str, version: int | None) -> lance.LanceDataset | None:
        if version is None:
            return None
        try:
            with faults(self.path):
                return tables.open_at(self.path / name, version, self._session)
        except ValueError as error:  # how Lance says that the files are not there
            if self.version not in numbers(self.path):
                raise BookFault(
                    f"{self.path}: version {self.version} is gone, a document of it was forgotten; open the book again"
                ) from error
            raise BookFault(f"{self.path}: {name} is missing or damaged; delete the book and add again") from error

    def _see(self) -> None:
        """Look at what is live now."""
        self.manifest, self._lease = look(self.path)
        self._graph = None
        self.__dict__.pop("documents_table", None)
        self.__dict__.pop("passages_table", None)

    def _known(self) -> list[Known]:
        columns = ["id", "name", "path", "hash", "size", "mtime_ns", "media"]
        rows = self._rows(self.documents_table, columns)
        return [Known(**row | {"path": here(self.path, row["path"])}) for row in rows]

    def _rows(self, table: lance.LanceDataset | None, columns: Sequence[str], where: str | None = None) -> list[Any]:
        if table is None:
            return []
        with faults(self.path):
            rows: list[Any] = table.scanner(columns=list(columns), filter=where).to_table().to_pylist()
        return rows

    def _one(self, table: Any, columns: Sequence[str], key: str, value: str, make: Any) -> Any:
        rows = self._rows(table, columns, f"{key} IN ({tables.quoted([value])})")
        if not rows:
            raise BookFault(f"{self.path} holds nothing with the {key} {value!r} at version {self.version}")
        return make(**rows[0])


def open_book(path: str | Path, create: bool = True, at: Ref | None = None) -> Book:
    """Open the book in a folder at its live version, or `at` a version or tag, which can then only be read.

    Made, empty, if absent and `create`; `BookFault` where the version is not there.
    """
    path = Path(path).expanduser()
    if path.is_dir() and (path / "HEAD").exists():
        return Book(path, at)
    if path.exists() and not path.is_dir():
        raise BookFault(f"{path} is a file, not a book; a book is a folder")
    if not _blank(path):
        raise BookFault(f"{path} is not a book and not empty; name another folder for the book")
    if not create:
        raise BookFault(f"there is no book at {path}; make one with: openbook add PATH --book {path}")
    with faults(path):
        (path / "versions").mkdir(parents=True, exist_ok=True)
        with writing(path):
            # Another process may have made it while this one waited to look.
            if not is_book(path):
                publish(path, Manifest(created=now()))
                sync(path.parent)
    return Book(path, at)


def _blank(path: Path) -> bool:
    """Whether nothing is there but what an interrupted `open_book` leaves."""
    if not path.exists():
        return True
    with faults(path):
        names = {entry.name for entry in path.iterdir()}
        if not names <= {"versions", "lock", "HEAD.new"}:
            return False
        return {p.name for p in (path / "versions").glob("*")} <= {"000000.json", "000000.json.new"}
