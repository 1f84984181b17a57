"""The books of one process, for every face of it. Each request is given a book at one version and keeps it to its end.

Others may write a book meanwhile, in this process or another: what was read before stays what it was (a `Book` is a
snapshot), and the next request sees the new version. In this process one writer at a time has a book; each opens it
for itself. Imports neither torch nor Lance until something needs them, and knows no protocol.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openbook.book.manifest import BookFault, read_head
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.book.adding import Progress
    from openbook.book.embedder import Embedder
    from openbook.book.faq.knowledge import Knowledge
    from openbook.book.forget import Forgotten
    from openbook.book.graph import Graph
    from openbook.book.prove import Report
    from openbook.book.retrieve import Hit
    from openbook.book.store import Book
    from openbook.book.versions import Ref
    from openbook.lm.cache.prefixes import PrefixStore
    from openbook.lm.model import LanguageModel
    from openbook.mix.reading import Reader
    from openbook.mix.settings import Settings

T = TypeVar("T")
VERSIONS_OPEN = 8
"""Versions of a book, besides the live one, that stay open for the next who asks for them."""
WRITERS_WAITING = 8
BY_GRAPH = ("graph", "pagerank")
"""Retrievers that go through the book's graph, which may have to be made first."""


class Absent(Fault):
    """A book, version or document is not here; `code` tells programs which. Over HTTP: 404."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class Shelved:
    """A book under the name that it has here. `encoder` is called when vectors are first needed, and each time."""

    def __init__(self, name: str, path: Path, encoder: Callable[[], Embedder]) -> None:
        self.name, self.path, self._encoder = name, path, encoder
        self._live: Book | None = None
        self._seen: OrderedDict[int, Book] = OrderedDict()
        self._lock = threading.Lock()
        self._budget: tuple[int | None, int | None, int] = None, None, 1
        self._kept: dict[str, PrefixStore] = {}
        self._keeping, self._going = threading.Lock(), False
        self._graphs, self._pairs = threading.Lock(), threading.Lock()
        self._knowledge: tuple[Book, Knowledge] | None = None
        self._writer, self._turns, self._waiting = threading.Lock(), asyncio.Lock(), 0

    @property
    def encoder(self) -> Embedder:
        """Of the book's vectors."""
        return self._encoder()

    def at(self, ref: Ref | None = None) -> Book:
        """The book at a version or tag, else at the live one; `Absent` where it is not there."""
        from openbook.book.store import Book
        from openbook.book.versions import resolve

        if not (self.path / "HEAD").exists():
            how = f"add documents first (add, or: openbook add PATH --book {self.path})"
            raise Absent(f"the book {self.name} is empty; {how}", "book_not_found")
        try:
            number = None if ref is None else resolve(self.path, ref)
            with self._lock:
                if self._live is None or self._live.version != read_head(self.path).version:
                    self._live = Book(self.path)
                # Another may have become live just now: who names a version is given that one.
                if number is None or number == self._live.version:
                    return self._live
                if number not in self._seen:
                    self._seen[number] = Book(self.path, number)
                self._seen.move_to_end(number)
                while len(self._seen) > VERSIONS_OPEN:
                    self._seen.popitem(last=False)
                return self._seen[number]
        except BookFault as error:
            raise Absent(str(error), "version_not_found") from error

    def change(self, work: Callable[[Book], T]) -> T:
        """What a function does to the book, made if absent and opened for it alone; others wait."""
        from openbook.book.store import open_book

        with self._writer:
            return work(open_book(self.path))

    async def in_turn(self, work: Callable[[], T]) -> T:
        """What changes the book, on a thread that it takes when its turn comes: threads are few, and readers need them
        too. `Busy` where too many wait."""
        if self._waiting >= WRITERS_WAITING:
            from openbook.serve.engine import Busy

            raise Busy(f"{self._waiting} changes of {self.name} wait already; try again in a moment")
        self._waiting += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(work)
        finally:
            self._waiting -= 1

    def use(self, ref: Ref) -> tuple[int, int]:
        """Make the live version equal to another, as a new one; the versions before and after."""
        wanted = self.at(ref).version
        return self.change(lambda book: (book.version, book.use(wanted)))

    def forget(
        self, documents: Sequence[str], tags: bool = False, prove: bool = False
    ) -> tuple[Forgotten, Report | None, int]:
        """Take documents out of every file of the book: what that did, what a search finds of them after it if it is to
        `prove` that, the new version. `Absent` where no version holds one of them."""
        from openbook.book.forget import known

        self.at()

        def work(book: Book) -> tuple[Forgotten, Report | None, int]:
            if (unknown := next((name for name in documents if not known(self.path, name)), None)) is not None:
                raise Absent(f"the book holds no document {unknown!r} at any version", "document_not_found")
            with self._forgetting():
                done = book.forget(*documents, tags=tags)
            return done, book.prove(done.traces) if prove else None, book.version

        return self.change(work)

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Within, documents are forgotten: what requests at work have of them in memory never reaches the disk again,
        and who comes later begins with an empty memory."""
        with self._keeping:
            self._going, held = True, list(self._kept.values())
        for store in held:
            store.leave_disk()
        try:
            yield
        finally:
            with self._lock:
                self._live = self._knowledge = None
                self._seen.clear()
            with self._keeping:
                self._going = False
                self._kept.clear()

    def budget(self, memory: int | None = None, disk: int | None = None, parts: int = 1) -> None:
        """How many bytes passages' keys and values may take of memory, of which each model gets one of so many parts,
        and on the disk; to be said before the first question."""
        self._budget = memory, disk, parts

    def kept_for(self, model: LanguageModel) -> PrefixStore:
        """What is kept of passages for a model, for all requests and versions; whose seat is left waits there for no
        other's reading."""
        from openbook.lm.backends.shared import Seat
        from openbook.mix.reading import memory_budget, passage_cache

        with self._keeping:
            if model.fingerprint not in self._kept:
                memory, disk, parts = self._budget
                share = (memory_budget() if memory is None else memory) // parts
                store = self._kept[model.fingerprint] = passage_cache(self.at(), model, share, disk)
                if self._going:
                    store.leave_disk()
            store = self._kept[model.fingerprint]
        return store.heeding(model.runner.stay) if isinstance(model.runner, Seat) else store

    def reader(self, book: Book, model: LanguageModel, settings: Settings, told: Progress | None = None) -> Reader:
        """A model and one of these books, ready for questions; `BookFault` where that version was forgotten."""
        from openbook.book.versions import gone
        from openbook.mix.reading import Reader

        kept = self.kept_for(model)
        # Looked at after `kept` is had: what is kept anew after a forget is not for who can still read what went.
        if gone(self.path, book.version):
            raise BookFault(f"version {book.version} of {self.name} is gone, a document of it was forgotten; ask again")
        return Reader(book, model, self.encoder, settings, kept, told)

    def find(self, book: Book, query: str, k: int = 5, by: str = "fused", told: Progress | None = None) -> list[Hit]:
        """Passages of one of these books that fit, best first."""
        from openbook.book.documents import tidy
        from openbook.book.retrieve import find

        if by in BY_GRAPH:
            self.graph(book, told)
        return find(book, tidy(query), k, self.encoder, by=by)

    def graph(self, book: Book, told: Progress | None = None) -> Graph:
        """The graph of one of these books; who asks meanwhile waits until it is made."""
        with self._graphs:
            return book.graph(told)

    def knowledge(self, book: Book, told: Progress | None = None) -> Knowledge | None:
        """What the book's questions and answers say, ready to be asked; None where it has none."""
        from openbook.book.faq.knowledge import open_knowledge
        from openbook.book.faq.read import pairs_of

        with self._pairs:
            if self._knowledge is None or self._knowledge[0] is not book:
                if next(iter(pairs_of(book)), None) is None:
                    return None
                self._knowledge = book, open_knowledge(book, self.encoder, told)
            return self._knowledge[1]

    def pairs(self, book: Book, told: Progress | None = None) -> Knowledge:
        """The same; `Absent` where it has none."""
        if (found := self.knowledge(book, told)) is None:
            raise Absent(f"{self.name} holds no questions with answers; add them: openbook faq --add FILE")
        return found

    def keep(self, facts: Mapping[str, Any], run: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """An answer's JSON with its number `id` among the book's kept answers; null where it could not be kept."""
        from openbook.answer.history import keep

        try:
            return {**facts, "id": keep(self.path, {**facts, **({} if run is None else {"run": run})})}
        except (OSError, Fault):  # it was given all the same
            return {**facts, "id": None}


class Shelf:
    """All books, by name, in the order they were named in."""

    def __init__(self, books: Sequence[Shelved]) -> None:
        self._books = {book.name: book for book in books}
        folders = [book.path.resolve() for book in books]
        if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
            raise Fault(f"{twice} is named twice; what is forgotten through one name would be held under the other")

    def budget(self, memory: int | None = None, disk: int | None = None, models: int = 1) -> None:
        """How many bytes passages' keys and values of so many models may take: of memory in all, on the disk a book."""
        for book in self:
            book.budget(memory, disk, len(self._books) * models)

    def __iter__(self) -> Iterator[Shelved]:
        return iter(self._books.values())

    def named(self, name: str | None = None) -> Shelved:
        """A book by name, else the first; `Absent` where there is none."""
        if name is None and self._books:
            return next(iter(self._books.values()))
        if name not in self._books:
            raise Absent(f"there is no book {name!r}; there are: {', '.join(self._books)}", "book_not_found")
        return self._books[name]


def names_of(paths: Sequence[Path]) -> list[str]:
    """A short name for each folder, fit for an address and all different: `notes` for `work/notes.book`."""
    names: list[str] = []
    for path in paths:
        plain = re.sub(r"[^\w.-]+", "-", path.absolute().name.removesuffix(".book")).strip(".-") or "book"
        name, count = plain, 1
        while name in names:
            count += 1
            name = f"{plain}-{count}"
        names.append(name)
    return names
