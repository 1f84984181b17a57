"""The books of one process. Each request is given a book at one version and keeps it to its end.

Others may write a book meanwhile, in this process or another: what was read before stays what it was (a `Book` is a
snapshot), and the next request sees the new version. In this process one writer at a time has a book; each opens it
for itself.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from openbook.book.embedder import Embedder
from openbook.book.faq.knowledge import Knowledge, open_knowledge
from openbook.book.faq.read import pairs_of
from openbook.book.graph import Graph
from openbook.book.manifest import BookFault, read_head
from openbook.book.store import Book, open_book
from openbook.book.versions import Ref, resolve
from openbook.errors import Fault
from openbook.lm.backends.shared import Seat
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.model import LanguageModel
from openbook.mix.reading import memory_budget, passage_cache
from openbook.serve.engine import Busy
from openbook.serve.errors import Refused

VERSIONS_OPEN = 8
"""Versions of a book, besides the live one, that stay open for the next who asks for them."""
WRITERS_WAITING = 8


class Shelved:
    """A book under the name that it has here."""

    def __init__(self, name: str, path: Path, encoder: Embedder) -> None:
        self.name, self.path, self.encoder = name, path, encoder
        self._kept: dict[str, tuple[LanguageModel, PrefixStore]] = {}
        self._budgets: tuple[int | None, int | None] = None, None
        self._live = open_book(path)
        self._seen: OrderedDict[int, Book] = OrderedDict()
        self._lock = threading.Lock()
        self._graphs, self._pairs = threading.Lock(), threading.Lock()
        self._knowledge: tuple[Book, Knowledge] | None = None
        self._writer = asyncio.Lock()
        self._writers = 0

    def at(self, ref: Ref | None = None) -> Book:
        """The book at a version or tag, else at the live one; `Refused` (404) where it is not there."""
        try:
            number = None if ref is None else resolve(self.path, ref)
            with self._lock:
                if self._live.version != read_head(self.path).version:
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
            raise Refused(404, str(error), code="version_not_found") from error

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Book]:
        """The book, opened to be written by who comes first; others wait, not too many."""
        if self._writers >= WRITERS_WAITING:
            raise Busy(f"{self._writers} changes of {self.name} wait already; try again in a moment")
        self._writers += 1
        try:
            async with self._writer:
                yield await asyncio.to_thread(Book, self.path)
        finally:
            self._writers -= 1
            with self._lock:  # a version that was forgotten must not be handed out any more
                self._seen.clear()

    def keep_for(self, model: LanguageModel, memory: int | None = None, disk: int | None = None) -> None:
        """Keep passages' keys and values of this model, for all requests and versions."""
        self._budgets = memory, disk
        self._kept[model.fingerprint] = model, passage_cache(self._live, model, memory, disk)

    def kept_for(self, model: LanguageModel) -> PrefixStore | None:
        """What is kept of this model; whose seat is left waits there for no other's reading."""
        if model.fingerprint not in self._kept:
            return None
        store = self._kept[model.fingerprint][1]
        return store.heeding(model.runner.stay) if isinstance(model.runner, Seat) else store

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Within, documents are forgotten: what requests at work have of them in memory never reaches the disk again,
        and who comes later begins with an empty memory."""
        for _, store in self._kept.values():
            store.leave_disk()
        try:
            yield
        finally:
            with self._lock:
                self._live, self._knowledge = Book(self.path), None
            for model, _ in list(self._kept.values()):
                self.keep_for(model, *self._budgets)

    def graph(self, book: Book) -> Graph:
        """The graph of one of these books; who asks meanwhile waits until it is made."""
        with self._graphs:
            return book.graph()

    def knowledge(self, book: Book) -> Knowledge | None:
        """What the book's questions and answers say, ready to be asked; None where it has none."""
        with self._pairs:
            if self._knowledge is None or self._knowledge[0] is not book:
                if next(iter(pairs_of(book)), None) is None:
                    return None
                self._knowledge = book, open_knowledge(book, self.encoder)
            return self._knowledge[1]


class Shelf:
    """All books, by name, in the order they were named in."""

    def __init__(self, books: Sequence[Shelved]) -> None:
        self._books = {book.name: book for book in books}
        folders = [book.path.resolve() for book in books]
        if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
            raise Fault(f"{twice} is named twice; what is forgotten through one name would be held under the other")

    def keep_for(self, models: Sequence[LanguageModel], memory: int | None = None, disk: int | None = None) -> None:
        """Keep passages' keys and values of these models: in memory so many bytes in all, on disk so many a book."""
        share = (memory_budget() if memory is None else memory) // max(1, len(self._books) * len(models))
        for book in self:
            for model in models:
                book.keep_for(model, share, disk)

    def __iter__(self) -> Iterator[Shelved]:
        return iter(self._books.values())

    def named(self, name: str | None = None) -> Shelved:
        """A book by name, else the first; `Refused` (404) where there is none."""
        if name is None and self._books:
            return next(iter(self._books.values()))
        if name not in self._books:
            raise Refused(404, f"there is no book {name!r}; there are: {', '.join(self._books)}", code="book_not_found")
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
