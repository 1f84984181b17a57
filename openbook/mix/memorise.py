"""Where a model reads a book to remember it: keys, values and pointers for kNN-LM (Khandelwal 2020, section 2).

A text is read in windows that overlap. A token's key is what the last layer's feed-forward read at the token before
it, with at least `CONTEXT` tokens before that (fewer at the beginning of the text). Which window a token is read in
depends on its place alone, and a window is read by itself: so the key of a token is one and the same however a
datastore came about, at once, in parts, or after a kill.

Shapes: T tokens of a window, M width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from openbook.book.manifest import faults
from openbook.book.neighbours import contents
from openbook.book.segment_writer import SegmentWriter, writing
from openbook.book.segments import folder_of
from openbook.book.store import Book, open_book
from openbook.book.tending import tend
from openbook.lm.model import LanguageModel

WINDOW, CONTEXT = 512, 128
"""Tokens of a window, and how many of them at its beginning were predicted in the window before."""

Progress = Callable[[int, int, str], None]
"""Told (bytes of files done, in all, what)."""


@dataclass(frozen=True)
class Memorised:
    """What was remembered now: rows, of so many documents, in so many seconds."""

    rows: int
    documents: int
    seconds: float


class Window(NamedTuple):
    """Tokens `[start, stop)` of a text are read; the keys of those from `first` on are new."""

    start: int
    stop: int
    first: int


def windows(length: int, first: int = 1) -> Iterator[Window]:
    """Windows over a text of `length` tokens, from the one on that reads the state at `first` anew.

    The state at i predicts token i + 1. That at 0 is left out: it is nearly the same whatever the first token is, so it
    would be near to the beginning of any text, and say nothing of it. Windows lie at fixed places.
    """
    start, fresh = 0, 1
    while fresh < length - 1:
        stop = min(start + WINDOW, length)
        if stop - 1 > first:
            yield Window(start, stop, max(fresh, first))
        start, fresh = start + WINDOW - CONTEXT, stop - 1


def tokens_of(model: LanguageModel, text: str) -> tuple[list[int], list[int]]:
    """The text as the model reads it, with a BOS where it wants one; and where in the text each token begins."""
    ids, starts = model.tokenizer.encode_at(text)
    bos = model.tokenizer.bos_id
    if bos is not None and model.tokenizer.encode("", special=True)[:1] == [bos]:
        return [bos, *ids], [0, *starts]
    return ids, starts


def memorise(book: Book, model: LanguageModel, progress: Progress | None = None) -> Memorised:
    """Bring the datastore of a model up to date with the documents of the book's live version.

    In a stream, in bounded memory; what was stored counts, so an interrupted call goes on where it stood at the last
    segment. Rows of contents that are no longer in the live version stay: earlier versions have them
    (`openbook.book.tending.forget` and `retain` remove). `BookFault` where another process does the same.
    """
    began, rows, documents = time.monotonic(), 0, 0
    folder = folder_of(book.path, model.fingerprint)
    with faults(folder), writing(folder):
        book = open_book(book.path, create=False)  # as it is now that nobody can forget documents meanwhile
        writer = SegmentWriter(folder, model.spec.width)
        stored = writer.stored()
        missing = [key for key in sorted(contents(book)) if key not in stored or stored[key][0] < stored[key][1]]
        told = _Told(progress, book, {id for id, _ in missing})
        for key in missing:
            text, done = book.text(told.name(key[0])), stored.get(key, (0, 0))[0]
            with model.runner.alone():
                ids, starts = tokens_of(model, text)
                rows += _read(writer, model, key, ids, starts, done, told)
            documents += 1
            told.finish(key[0])
        tend(writer, told.say)
        told.say("")
    return Memorised(rows, documents, time.monotonic() - began)


def _read(
    writer: SegmentWriter,
    model: LanguageModel,
    key: tuple[str, str],
    ids: Sequence[int],
    starts: Sequence[int],
    done: int,
    told: _Told,
) -> int:
    """Read what is left of one document, and store its rows; how many."""
    of, rows = max(0, len(ids) - 2), 0
    if of == 0:
        writer.append(key, 0, 0, np.zeros((0, model.spec.width), np.float32), np.zeros(0), np.zeros(0))
    for window in windows(len(ids), done + 1):
        fresh = slice(window.first - window.start, window.stop - 1 - window.start)
        keys_TM = model.runner.hidden(torch.tensor([ids[window.start : window.stop]])).feed_forward_BTM[0, fresh]
        predicted = slice(window.first + 1, window.stop)
        values, offsets = np.array(ids[predicted]), np.array(starts[predicted])
        writer.append(key, window.first - 1, of, keys_TM.cpu().numpy(), values, offsets)
        rows += len(values)
        told.within(key[0], window.stop / len(ids))
    return rows


class _Told:
    """Progress in bytes of the files, and how long the rest will take at the pace so far."""

    def __init__(self, progress: Progress | None, book: Book, ids: set[str]) -> None:
        self._progress = progress
        self._of = {document.id: document for document in book.documents() if document.id in ids}
        self._total = max(1, sum(document.size for document in self._of.values()))
        self._began, self._done = time.monotonic(), 0

    def name(self, id: str) -> str:
        return self._of[id].name

    def within(self, id: str, share: float) -> None:
        """Of this document so much is read."""
        done = self._done + round(share * self._of[id].size)
        left = (time.monotonic() - self._began) * (self._total - done) / done if done else 0.0
        self._tell(done, f"{self.name(id)}: {lasting(left)} left" if done else self.name(id))

    def finish(self, id: str) -> None:
        """This document is read."""
        self._done += self._of[id].size

    def say(self, what: str) -> None:
        """All are read; what is done now."""
        self._tell(self._total, what)

    def _tell(self, done: int, what: str) -> None:
        if self._progress is not None:
            self._progress(done, self._total, what)


def lasting(seconds: float) -> str:
    """A time in words: `40 s`, `3 min`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
