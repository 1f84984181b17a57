"""What a program can ask of books through MCP, as plain functions that block; `openbook.serve.mcp` is the protocol.

The books are a `Shelf`, as for HTTP; here is what MCP alone needs: folders that may be read, requests taken back, a
model that is loaded when it is first asked, as a client starts the server with itself, and asks later.
A `Stopped` raised by `Work.tell` ends the work: nobody wants it any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from openbook.errors import Fault
from openbook.serve.shelf import Shelf

if TYPE_CHECKING:
    from openbook.book.store import Book
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
    """How the model is had, at the first need, and how answers are written unless told otherwise."""

    def model(self) -> LanguageModel: ...
    def settings(self) -> Settings: ...
    def run(self, model: LanguageModel) -> dict[str, Any]: ...


@dataclass
class Desk:
    """Books by name. Only files below `roots` may be added; `changes` says whether anything may be written at all."""

    shelf: Shelf
    means: Means
    roots: Sequence[Path] = ()
    changes: bool = True

    def _reader(self, name: str | None, at: int | str | None, work: Work, **given: Any) -> Reader:
        shelved = self.shelf.named(name)
        book = shelved.at(at)
        work.tell(0, 1, "loading the model")
        settings = replace(self.means.settings(), **{k: v for k, v in given.items() if v is not None})
        return shelved.reader(book, self.means.model(), settings, work.tell)

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
        return self._kept(book, answer.to_dict(), self.means.run(reader.model))

    def _kept(self, name: str | None, facts: dict[str, Any], run: dict[str, Any] | None = None) -> dict[str, Any]:
        return self.shelf.named(name).keep(facts, run) if self.changes else {**facts, "id": None}

    def why(self, number: int | None = None, book: str | None = None) -> dict[str, Any]:
        """A kept answer, the last one unless it has a number."""
        from openbook.answer.history import numbers, recall

        path = self.shelf.named(book).path
        chosen = max(numbers(path), default=None) if number is None else number
        return {**recall(path, chosen), "id": chosen}

    def find(
        self, work: Work, query: str, k: int = 5, by: str = "fused", book: str | None = None,
        at: int | str | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Passages that fit, best first."""
        from openbook.book.retrieve import hit_dicts

        if not query.strip():
            raise Fault("the query is empty; say what to look for")
        shelved = self.shelf.named(book)
        return hit_dicts(shelved.find(shelved.at(at), query, k, by, work.tell))

    def check(self, work: Work, text: str, question: str | None = None, book: str | None = None) -> dict[str, Any]:
        """A text held against the book, sentence by sentence."""
        from openbook.answer.check import check

        return check(text, self._reader(book, None, work), question).to_dict()

    def faq(self, work: Work, question: str, book: str | None = None) -> dict[str, Any]:
        """The stored answer to a question, or an abstention."""
        from openbook.answer.faq import reply

        shelved = self.shelf.named(book)
        opened = shelved.at()
        return reply(question, shelved.pairs(opened, work.tell), book=opened).to_dict()

    def summarize(self, work: Work, question: str, points: int = 8, book: str | None = None) -> dict[str, Any]:
        """Points about the whole book, each with where it stands."""
        from openbook.answer.summarize import Plan, summarize_with

        reader = self._reader(book, None, work)
        return self._kept(book, summarize_with(reader, question, Plan(points=points), work.tell).to_dict())

    def add(self, work: Work, paths: Sequence[str], book: str | None = None) -> dict[str, Any]:
        """Files and folders below the roots, read into a book in processes apart."""
        self._may_change()
        allowed, shelved = [self.allowed(path) for path in paths], self.shelf.named(book)

        def take(opened: Book) -> dict[str, Any]:
            added = opened.add(*allowed, encoder=shelved.encoder, progress=work.tell, careful=True)
            skipped = [{"name": Path(s.name).name, "reason": s.reason} for s in added.skipped]
            return {**asdict(added), "skipped": skipped, "version": opened.version}

        return shelved.change(take)

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
        done, report, version = self.shelf.named(book).forget(documents, prove=prove)
        left = None if report is None else [f"{left.where}: {left.what}" for left in report.left]
        facts = {"forgotten": list(done.documents), "passages": done.passages, "versions": list(done.versions)}
        return {**facts, "answers": done.answers, "left": left, "version": version}

    def versions(self, book: str | None = None) -> list[dict[str, Any]]:
        """The versions of a book, oldest first."""
        return [asdict(version) for version in self.shelf.named(book).at().versions() if version.whole]

    def tag(self, name: str, version: int | str | None = None, book: str | None = None) -> int:
        """Name a version; its number."""
        self._may_change()
        return self.shelf.named(book).at(version).tag(name)

    def use(self, version: int | str, book: str | None = None) -> int:
        """Go back to a version, as a new one; its number."""
        self._may_change()
        return self.shelf.named(book).use(version)[1]

    def documents(self, book: str | None = None) -> list[dict[str, Any]]:
        """Documents of a book, by name."""
        keys = ("name", "title", "media", "passages")
        return [{key: getattr(stored, key) for key in keys} for stored in self.shelf.named(book).at().documents()]

    def text(self, book: str, document: str, start: int = 0, length: int = MOST_TEXT) -> tuple[str, int]:
        """Characters of a document's text from `start` on, and how many it has."""
        whole = self.shelf.named(book).at().text(document)
        return whole[start : start + min(length, MOST_TEXT)], len(whole)

    def _may_change(self) -> None:
        if not self.changes:
            raise Fault("this server was started with --read-only; nothing is changed")
