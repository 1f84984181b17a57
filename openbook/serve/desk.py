"""What a program can ask of books through MCP, as plain functions that block; `openbook.serve.mcp` is the protocol.

Imports neither torch nor Lance until something needs them: a client starts the server with itself, and asks later.
A `Stopped` raised by `Work.tell` ends the work: nobody wants it any more.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.book.embedder import Embedder
    from openbook.book.store import Book
    from openbook.lm.cache.prefixes import PrefixStore
    from openbook.lm.model import LanguageModel
    from openbook.mix.reading import Reader
    from openbook.mix.settings import Settings

MOST_TEXT = 100_000
"""Characters of a document that are handed out at once."""
MOST_LISTED = 1_000


class Stopped(Exception):
    """The client took its request back."""


@dataclass(frozen=True)
class Work:
    """A request at work: whether it is still wanted, and whom to tell how far it is (done, in all, what)."""

    wanted: Callable[[], bool] = lambda: True
    told: Callable[[int, int, str], None] = lambda done, total, what: None

    def tell(self, done: int, total: int, what: str) -> None:
        """Say how far it is; `Stopped` where nobody wants it any more."""
        self.check()
        self.told(done, total, what)

    def check(self) -> None:
        """`Stopped` where nobody wants it any more."""
        if not self.wanted():
            raise Stopped


class Means(Protocol):
    """How the model and the encoder are had, at the first need, and how answers are written unless told otherwise."""

    def model(self) -> LanguageModel: ...
    def encoder(self) -> Embedder: ...
    def settings(self) -> Settings: ...
    def kept(self, book: Book, model: LanguageModel) -> PrefixStore | None: ...
    def run(self, model: LanguageModel) -> dict[str, Any]: ...


@dataclass
class Desk:
    """Books by name. Only files below `roots` may be added; `changes` says whether anything may be written at all."""

    books: Mapping[str, Path]
    means: Means
    roots: Sequence[Path] = ()
    changes: bool = True
    _open: dict[str, Book] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _keeping: threading.Lock = field(default_factory=threading.Lock)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def path(self, name: str | None) -> tuple[str, Path]:
        """A book's name and folder; the first book without a name."""
        if name is None:
            return next(iter(self.books.items()))
        if name not in self.books:
            raise Fault(f"there is no book {name!r} here; there are: {', '.join(self.books)}")
        return name, self.books[name]

    def book(self, name: str | None, at: int | str | None = None) -> Book:
        """A book at a version or tag, else at what is live now."""
        from openbook.book.manifest import read_head
        from openbook.book.store import open_book

        name, path = self.path(name)
        if not (path / "HEAD").exists():
            raise Fault(f"the book {name} is empty; add documents first (add, or: openbook add PATH --book {path})")
        if at is not None:
            return open_book(path, create=False, at=at)
        with self._lock:
            if name not in self._open or self._open[name].version != read_head(path).version:
                self._open[name] = open_book(path, create=False)
            return self._open[name]

    def _reader(self, name: str | None, at: int | str | None, work: Work, **given: Any) -> Reader:
        from openbook.mix.reading import Reader

        book = self.book(name, at)
        work.tell(0, 1, "loading the model")
        model, encoder = self.means.model(), self.means.encoder()
        settings = replace(self.means.settings(), **{k: v for k, v in given.items() if v is not None})
        with self._keeping:
            key = str(book.path)
            if key not in self._kept:
                self._kept[key] = self.means.kept(book, model)
            return Reader(book, model, encoder, settings, self._kept[key], work.tell)

    def ask(
        self, work: Work, question: str, book: str | None = None, at: int | str | None = None, anyway: bool = False,
        **given: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """An answer's dict, kept with its book as number `id`."""
        from openbook.answer.ask import tokens_of

        reader = self._reader(book, at, work, **given)
        if anyway:
            reader.settings = replace(reader.settings, margin=None)
        tokens, written, count = tokens_of(reader, question), "", 0
        try:
            while True:
                token = next(tokens)
                written, count = written + token.text, count + 1
                work.tell(count, reader.settings.max_tokens, written[-60:].strip())
        except StopIteration as end:
            answer = end.value
        finally:
            tokens.close()
        return self._keep(reader.book, reader.model, answer.to_dict())

    def _keep(self, book: Book, model: LanguageModel | None, facts: dict[str, Any]) -> dict[str, Any]:
        from openbook.answer.history import keep

        run = {} if model is None else {"run": self.means.run(model)}
        try:
            return {**facts, "id": keep(book.path, {**facts, **run}) if self.changes else None}
        except (OSError, Fault):  # it was given all the same
            return {**facts, "id": None}

    def why(self, number: int | None = None, book: str | None = None) -> dict[str, Any]:
        """A kept answer, the last one unless it has a number."""
        from openbook.answer.history import numbers, recall

        _, path = self.path(book)
        chosen = max(numbers(path), default=None) if number is None else number
        return {**recall(path, chosen), "id": chosen}

    def find(
        self, work: Work, query: str, k: int = 5, by: str = "fused", book: str | None = None,
        at: int | str | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Passages that fit, best first."""
        from openbook.book.documents import tidy
        from openbook.book.retrieve import find, hit_dicts

        if not query.strip():
            raise Fault("the query is empty; say what to look for")
        opened = self.book(book, at)
        if by in ("graph", "pagerank"):
            opened.graph(work.tell)
        return hit_dicts(find(opened, tidy(query), k, self.means.encoder(), by=by))

    def check(self, work: Work, text: str, question: str | None = None, book: str | None = None) -> dict[str, Any]:
        """A text held against the book, sentence by sentence."""
        from openbook.answer.check import check

        return check(text, self._reader(book, None, work), question).to_dict()

    def faq(self, work: Work, question: str, book: str | None = None) -> dict[str, Any]:
        """The stored answer to a question, or an abstention."""
        from openbook.answer.faq import reply
        from openbook.book.faq.knowledge import open_knowledge

        opened = self.book(book)
        knowledge = open_knowledge(opened, self.means.encoder(), work.tell)
        return reply(question, knowledge, book=opened).to_dict()

    def summarize(self, work: Work, question: str, points: int = 8, book: str | None = None) -> dict[str, Any]:
        """Points about the whole book, each with where it stands."""
        from openbook.answer.summarize import Plan, summarize_with

        reader = self._reader(book, None, work)
        facts = summarize_with(reader, question, replace(Plan(), points=points), work.tell).to_dict()
        return self._keep(reader.book, None, facts)

    def add(self, work: Work, paths: Sequence[str], book: str | None = None) -> dict[str, Any]:
        """Files and folders below the roots, read into a book in processes apart."""
        from openbook.book.store import open_book

        self._may_change()
        allowed = [self.allowed(path) for path in paths]
        with self._writing:
            opened = open_book(self.path(book)[1])
            added = opened.add(*allowed, encoder=self.means.encoder(), progress=work.tell, careful=True)
        facts = asdict(added)
        facts["skipped"] = [{"name": Path(s.name).name, "reason": s.reason} for s in added.skipped]
        return {**facts, "version": opened.version}

    def allowed(self, given: str) -> Path:
        """A path as it is on the disk, if it is in one of the roots; `Fault` where it is not, or is hidden there."""
        if not self.roots:
            raise Fault("no folder may be read; start the server with: openbook mcp --allow FOLDER")
        for root in map(Path, map(os.path.realpath, self.roots if "\0" not in given else ())):
            path = Path(os.path.realpath(root / Path(given).expanduser()))
            if path == root or root in path.parents:
                if any(part.startswith(".") for part in path.relative_to(root).parts):
                    raise Fault(f"{given} is hidden; hidden files are not read")
                if path.exists():
                    return path
        # One answer for what is elsewhere and what is nowhere: the disk is not to be explored by asking.
        named = ", ".join(str(root) for root in self.roots)
        raise Fault(f"{given} is not in a folder that may be read ({named})")

    def forget(self, documents: Sequence[str], prove: bool = False, book: str | None = None) -> dict[str, Any]:
        """Documents taken out of every file of the book."""
        self._may_change()
        with self._writing:
            name, path = self.path(book)
            self.book(name)
            from openbook.book.forget import known
            from openbook.book.store import open_book

            opened = open_book(path, create=False)
            if unknown := [document for document in documents if not known(path, document)]:
                raise Fault(f"there is no document {unknown[0]!r} at any version; names are as documents lists them")
            with self._keeping:  # what requests at work have of it in memory does not reach the disk again
                if (store := self._kept.pop(str(opened.path), None)) is not None:
                    store.leave_disk()
                done = opened.forget(*documents)
            left = [f"{left.where}: {left.what}" for left in opened.prove(done.traces).left] if prove else None
        facts = {"forgotten": list(done.documents), "passages": done.passages, "versions": list(done.versions)}
        return {**facts, "answers": done.answers, "left": left, "version": opened.version}

    def versions(self, book: str | None = None) -> list[dict[str, Any]]:
        """The versions of a book, oldest first."""
        return [asdict(version) for version in self.book(book).versions() if version.whole]

    def tag(self, name: str, version: int | str | None = None, book: str | None = None) -> int:
        """Name a version; its number."""
        self._may_change()
        return self.book(book).tag(name, version)

    def use(self, version: int | str, book: str | None = None) -> int:
        """Go back to a version, as a new one; its number."""
        from openbook.book.store import open_book

        self._may_change()
        with self._writing:
            return open_book(self.path(book)[1], create=False).use(version)

    def documents(self, book: str | None = None) -> list[dict[str, Any]]:
        """Documents of a book, by name."""
        keys = ("name", "title", "media", "passages")
        return [{key: getattr(stored, key) for key in keys} for stored in self.book(book).documents()]

    def text(self, book: str, document: str, start: int = 0, length: int = MOST_TEXT) -> tuple[str, int]:
        """Characters of a document's text from `start` on, and how many it has."""
        whole = self.book(book).text(document)
        return whole[start : start + min(length, MOST_TEXT)], len(whole)

    def _may_change(self) -> None:
        if not self.changes:
            raise Fault("this server was started with --read-only; nothing is changed")
