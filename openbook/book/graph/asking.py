"""Asking a model what the documents name: stretch by stretch, within a budget, each reply on the disk before the next.

A model is handed in (`Modeller`): the book knows none. What one has said of a document's stretch is kept under the name
of the model and its prompt, beside what others have said, in the form of `openbook.book.graph.stored`; a kill costs the
stretch at work. Which extraction a book's graph is of is written in `graph/extraction.json`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from openbook.book import versions
from openbook.book.graph.build import contents, documents_of
from openbook.book.graph.extract import FORMAT, extractors, sentences_of, version_of
from openbook.book.graph.modelled import PRINT, WAYS, Part, grounded, part_line, read_part, stretches
from openbook.book.graph.stored import (
    ASKED,
    CHOICE,
    FOLDER,
    Key,
    Store,
    damaged,
    lines,
    read_listing,
    steadily,
    writing,
)
from openbook.book.manifest import BookFault, faults, read_json, write
from openbook.book.sentences import Span

if TYPE_CHECKING:
    from openbook.book.store import Book

Told = Callable[[int, int, str], None]


class Reply(NamedTuple):
    """What a model answered, and how many tokens it read and wrote; `unsure` names were left out of it that the model
    itself gave little."""

    text: str
    read: int
    written: int
    unsure: int = 0


class Modeller(Protocol):
    """A model that says what a text names."""

    @property
    def made(self) -> str:
        """Names the model and its prompt: under it replies are kept."""

    def cost(self, text: str) -> tuple[int, int]:
        """Tokens that asking about a text would read, and write at most."""

    def __call__(self, text: str) -> Reply:
        """What it says: JSON as `modelled.items` reads it, or anything else."""


@dataclass(frozen=True)
class Extracting:
    """Which extraction a graph is of: the extractor `by`, and `how` (one of `WAYS`, or nothing) the model of `made`."""

    by: str = PRINT
    how: str = ""
    made: str = ""


@dataclass
class Asking:
    """What is to be asked, or what was: documents, calls, tokens read and written; names and relations kept of the
    replies, and dropped because the text does not say them or the model was not sure. `left` calls are still to be
    made."""

    documents: int = 0
    calls: int = 0
    read: int = 0
    written: int = 0
    names: int = 0
    relations: int = 0
    dropped_names: int = 0
    dropped_relations: int = 0
    left: int = 0
    seconds: float = 0.0

    @property
    def kept(self) -> float:
        """The share of the names told that the texts say."""
        return self.names / max(1, self.names + self.dropped_names)


def chosen(folder: Path) -> Extracting:
    """The extraction that a graph's folder names; the built-in one where nothing was chosen."""
    path = folder / CHOICE
    try:
        value = Extracting(**read_json(path))
        if not all(isinstance(each, str) for each in asdict(value).values()) or value.how not in ("", *WAYS):
            raise ValueError
    except FileNotFoundError:
        return Extracting()
    except (OSError, ValueError, TypeError) as error:
        raise BookFault(f"{path} is damaged; say again how names are extracted: openbook graph --extract") from error
    return value


def choose(book: Book, extracting: Extracting) -> None:
    """Let the book's graph be of this extraction from now on; `BookFault` where it is none, or not installed."""
    if extracting.by not in extractors():
        raise BookFault(f"no extractor is called {extracting.by!r}; there are: {', '.join([*extractors(), *WAYS])}")
    version_of(extracting.by)
    folder = book.path / FOLDER
    with faults(book.path), writing(folder):
        if chosen_or_none(folder) != extracting:
            write(folder / CHOICE, json.dumps(asdict(extracting)) + "\n")


def chosen_or_none(folder: Path) -> Extracting | None:
    """As `chosen`, but None for a damaged file, which is to be written anew."""
    try:
        return chosen(folder)
    except BookFault:
        return None


def folder_of(folder: Path, made: str) -> Path:
    """Where the replies of a model are kept."""
    return folder / (ASKED + hashlib.sha256(made.encode()).hexdigest()[:12])


def parts_of(folder: Path, made: str, documents: set[Key]) -> dict[Key, list[Part]]:
    """What a model has said of these documents, by stretch; a stretch that was asked twice counts once."""
    there, found = folder_of(folder, made), defaultdict[Key, dict[int, Part]](dict)
    listing = read_listing(there)
    if listing is None or (listing.by, listing.format) != (made, FORMAT):
        return {}
    for part in steadily(there, lambda there: list(_parts(there, documents))):
        found[part.key][part.number] = part
    return {key: [parts[number] for number in sorted(parts)] for key, parts in found.items()}


def _parts(folder: Path, documents: set[Key]) -> Iterator[Part]:
    for _, line in lines(folder, documents.__contains__):
        try:
            yield read_part(line)
        except (ValueError, TypeError, KeyError, LookupError) as error:
            raise damaged(folder / CHOICE) from error


def covered(book: Book, made: str) -> tuple[int, int]:
    """Of how many documents of the book's version a model was asked about every stretch, and how many there are."""
    wanted = contents(book)
    parts = parts_of(book.path / FOLDER, made, wanted)
    return sum(len(each) == each[0].of for each in parts.values()), len(wanted)


class _Stretch(NamedTuple):
    key: Key
    name: str
    number: int
    of: int
    rows: Span
    sentences: list[Span]
    text: str

    @property
    def shown(self) -> str:
        """What the model is shown."""
        return self.text[self.sentences[self.rows[0]][0] : self.sentences[self.rows[1] - 1][1]]


def _missing(book: Book, made: str) -> Iterator[_Stretch]:
    """The stretches of the book's version that a model was not asked about yet, by document."""
    wanted = contents(book)
    there = parts_of(book.path / FOLDER, made, wanted)
    able = {key for key in wanted if not (parts := there.get(key)) or len(parts) < parts[0].of}
    for row in documents_of(book, sorted(id for id, _ in able)):
        key = (row["id"], row["hash"])
        sentences = list(sentences_of(row["text"]))
        found, done = stretches(sentences), {part.number for part in there.get(key, ())}
        for number, rows in enumerate(found):
            if number not in done:
                yield _Stretch(key, row["name"], number, len(found), rows, sentences, row["text"])


def estimate(book: Book, modeller: Modeller) -> Asking:
    """What asking about everything that is left would take, at most; nothing is asked."""
    found, documents = Asking(), set[Key]()
    for stretch in _missing(book, modeller.made):
        read, written = modeller.cost(stretch.shown)
        documents.add(stretch.key)
        found.calls, found.read, found.written = found.calls + 1, found.read + read, found.written + written
    found.documents, found.left = len(documents), found.calls
    return found


def ask(book: Book, modeller: Modeller, budget: int | None = None, told: Told | None = None) -> Asking:
    """Ask about what is left, until done or until the next call could take more than `budget` tokens in all.

    Each reply is on the disk before the next call. Called again it goes on. Faults of the modeller come through; what
    was said before stays.
    """
    began, done, documents = time.monotonic(), Asking(), set[Key]()
    total = sum(1 for _ in _missing(book, modeller.made))
    for stretch in _missing(book, modeller.made):
        read, written = modeller.cost(stretch.shown)
        if budget is not None and done.read + done.written + read + written > budget:
            break
        if told is not None:
            told(done.calls, total, _progress(done.calls, total, time.monotonic() - began, stretch.name))
        reply = modeller(stretch.shown)
        part = grounded(
            stretch.key, stretch.number, stretch.of, stretch.text, stretch.sentences, stretch.rows, reply.text
        )
        dropped = (part.dropped[0] + reply.unsure, part.dropped[1])
        part = replace(part, tokens=(reply.read, reply.written), dropped=dropped)
        _store(book, modeller.made, part)
        documents.add(stretch.key)
        _count(done, part, reply)
    if told is not None:
        told(total, total, "")
    done.documents, done.left, done.seconds = len(documents), total - done.calls, time.monotonic() - began
    return done


def _progress(calls: int, total: int, seconds: float, name: str) -> str:
    """The rate and the time left, once there is something to go by."""
    if not calls:
        return name
    left = seconds / calls * (total - calls)
    clock = f"{left / 3600:.1f} h" if left >= 3600 else f"{left / 60:.0f} min" if left >= 60 else f"{left:.0f} s"
    return f"{calls / max(seconds, 1e-9):.2g} calls a second, {clock} left: {name}"


def _count(done: Asking, part: Part, reply: Reply) -> None:
    done.calls += 1
    done.read, done.written = done.read + reply.read, done.written + reply.written
    done.names, done.relations = done.names + len(part.normals), done.relations + len(part.ties)
    done.dropped_names += part.dropped[0]
    done.dropped_relations += part.dropped[1]


def _store(book: Book, made: str, part: Part) -> None:
    """Under the lock that forgetting takes last: what it has forgotten is not written again."""
    folder = book.path / FOLDER
    with faults(book.path), writing(folder):
        if versions.gone(book.path, book.version):
            raise BookFault(f"{book.path}: version {book.version} is gone, a document of it was forgotten; try again")
        there = folder_of(folder, made)
        there.mkdir(exist_ok=True)
        Store(there, made).append([part_line(part)])
