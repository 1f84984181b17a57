"""The passage cache filled beforehand, so that no question waits for its passages to be read."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from openbook.book.passages import in_place
from openbook.book.store import Book
from openbook.errors import Fault
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.model import LanguageModel
from openbook.mix.prompt import Framing
from openbook.mix.reading import passage_cache
from openbook.mix.settings import Settings
from openbook.mix.sources.branches import CLOSED_BOOK


@dataclass(frozen=True)
class Warmed:
    """What `warm` did, or has done so far: passages of the book, how many of them are on disk now, and what that took.

    `computed` passages were read by the model, `tokens` tokens in `seconds`; `pending` are still to be, and fit.
    `bytes` is what the book's passages occupy on disk under this model, of `budget`; `whole_bytes` what all would.
    """

    passages: int
    stored: int
    computed: int
    pending: int
    tokens: int
    pending_tokens: int
    seconds: float
    bytes: int
    whole_bytes: int
    budget: int

    @property
    def left(self) -> int:
        """Passages that are not on disk."""
        return self.passages - self.stored

    @property
    def tokens_per_second(self) -> float:
        """Of the reading so far."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "left": self.left, "tokens_per_second": round(self.tokens_per_second, 1)}


def warm(
    book: Book,
    model: LanguageModel,
    *,
    settings: Settings | None = None,
    limit: int | None = None,
    progress: Callable[[Warmed], None] | None = None,
) -> Warmed:
    """Compute and store the keys and values of a book's passages that are not on disk yet, in the order of the book.

    As many as fit: at most `limit` bytes (else 8 GiB) for all models of this book together, and never the disk's last
    gibibyte. What was kept of other models, or of texts that are no more, makes way. Each is on disk when `progress`
    has been told, so this can be interrupted and called again. Raises `Fault` for an empty book, or where nothing can
    be stored.
    """
    if not book.count:
        raise Fault(f"{book.path} holds no passages yet; add documents with: openbook add PATH --book {book.path}")
    store = passage_cache(book, model, disk=limit)
    if store.disk is None or store.make is None or store.disk.room == 0:
        raise Fault(
            f"no keys and values can be kept in {book.path / 'kv'}: the budget is 0, the disk is full or the folder is "
            "a link; raise kv_disk, or free some space"
        )
    work = _Work(store, model, Framing(model.tokenizer, (settings or Settings()).prompt))
    return work.run(book, progress)


class _Work:
    """What is to be read of one book, and the reading of it."""

    def __init__(self, store: PrefixStore, model: LanguageModel, framing: Framing) -> None:
        assert store.disk is not None and store.make is not None  # noqa: S101  (`warm` has seen to it)
        self.store, self.disk, self.make = store, store.disk, store.make
        self.runner, self.framing = model.runner, framing
        self.missing: list[tuple[str, array[int]]] = []

    def run(self, book: Book, progress: Callable[[Warmed], None] | None) -> Warmed:
        done = self._plan(book)
        self.disk.trim(reserve=sum(self.make.nbytes(len(text)) for _, text in self.missing))
        began = time.perf_counter()
        for name, text in self.missing:
            if not self.store.save(name, text, self.runner.prefill(text)):
                raise Fault(f"{self.disk.path} can no longer be written; free some space and run the same again")
            is_passage = name != CLOSED_BOOK.name
            done = replace(
                done,
                stored=done.stored + is_passage,
                computed=done.computed + is_passage,
                pending=done.pending - is_passage,
                tokens=done.tokens + len(text),
                pending_tokens=done.pending_tokens - len(text),
                seconds=time.perf_counter() - began,
                bytes=done.bytes + self.make.nbytes(len(text)),
            )
            if progress is not None:
                progress(done)
        return done

    def _plan(self, book: Book) -> Warmed:
        """Find what is missing and fits: what is there keeps its place, the rest has it in the order of the book."""
        budget = self.disk.room
        stored = there = absent_bytes = whole = 0
        absent: list[tuple[str, array[int]]] = []
        for name, text in self._texts(book):
            size = self.make.nbytes(len(text))
            whole += size
            if self.store.on_disk(name, text):
                there += size
                stored += name != CLOSED_BOOK.name
            elif absent_bytes + size <= budget:  # of a book far beyond the budget not every text is held here
                absent.append((name, text))
                absent_bytes += size
        room = budget - there
        for name, text in absent:
            size = self.make.nbytes(len(text))
            if size <= room:
                self.missing.append((name, text))
                room -= size
        return Warmed(
            passages=book.count,
            stored=stored,
            computed=0,
            pending=sum(name != CLOSED_BOOK.name for name, _ in self.missing),
            tokens=0,
            pending_tokens=sum(len(text) for _, text in self.missing),
            seconds=0.0,
            bytes=there,
            whole_bytes=whole,
            budget=budget,
        )

    def _texts(self, book: Book) -> Iterator[tuple[str, array[int]]]:
        """Name and tokens of everything that `Branches` keeps, the closed book first: every question reads it."""
        if closed := self.framing.prefix(())[:-1]:
            yield CLOSED_BOOK.name, array("q", closed)
        for passage in book.passages():
            text = in_place(passage.title, passage.heading, passage.text)
            yield passage.id, array("q", self.framing.prefix((text,))[:-1])
