"""What documents mention, on the disk: in segments that appear whole or not at all.

    book/graph/
      store.json        which segments count, in which order, and what they were extracted by
      000004.jsonl      a line a document: its id, the hash of its content, and its `Extraction`
      partition.txt     which community each name was in last (`openbook.book.communities`)
      extraction.json   which extraction the graph is of, where one was chosen (`openbook.book.graph.asking`)
      llm-0123456789ab/ the same for a model that was asked: a line a stretch of a document
      reports/          what a model wrote of communities (`openbook.book.graph.written`)
      lock              held by the one process that writes

A line is a function of one document's text, and of nothing else: so it is of every version of the book that has that
content, and what all lines say together does not depend on the order in which they came. `store.json` is replaced in
one step, after all that it names is on the disk (fsync); what it does not name is rubbish, which the next writer
removes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from openbook.book.graph.extract import FORMAT, KINDS, Extraction
from openbook.book.indices import joined
from openbook.book.manifest import BookFault, faults, sync, write

FOLDER, LISTING, LOCK, PARTITION = "graph", "store.json", "lock", "partition.txt"
CHOICE, ASKED, REPORTS = "extraction.json", "llm-", "reports"
LONGEST = 1 << 28
"""Bytes of a line that is read at all: a document has 20 million characters at most."""
_NAME = re.compile(r"\d{6,12}\.jsonl")
Key = tuple[str, str]
"""A document's id and the hash of its content."""
Whole = npt.NDArray[np.int64]
Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Listing:
    """What counts: names of segments, how many documents each holds, and what extracted them."""

    by: str
    segments: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    next: int = 1
    format: int = FORMAT


class Tie(NamedTuple):
    """A relation of two names (normal forms) that a model told, and the sentences that say both, the last included."""

    a: str
    b: str
    first: int
    last: int
    what: str


@dataclass(frozen=True)
class Said:
    """What one document mentions: S sentences, N names, R mentions.

    `kinds_N` counts in `extract.KINDS`, `mentions_R4` is (sentence, name, start, end). `types` of names and `ties`
    between them are a model's (`openbook.book.graph.modelled`), where one was asked.
    """

    key: Key
    title: str
    language: str
    sentences_S2: Whole
    normals: list[str]
    shown: list[str]
    kinds_N: Whole
    mentions_R4: Whole
    aliases: list[tuple[str, str]]
    types: dict[str, str] = field(default_factory=dict)
    ties: list[Tie] = field(default_factory=list)


def line_of(key: Key, title: str, found: Extraction) -> str:
    """A document's line."""
    value = {
        "id": key[0],
        "hash": key[1],
        "title": title,
        "language": found.language,
        "sentences": [at for span in found.sentences for at in span],
        "normals": [name.normal for name in found.names],
        "shown": [name.shown for name in found.names],
        "kinds": [KINDS.index(name.kind) for name in found.names],
        "mentions": [at for mention in found.mentions for at in mention],
        "aliases": found.aliases,
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def read_line(line: bytes) -> Said:
    """A line, its numbers checked against each other; ValueError where it is damaged."""
    value = json.loads(line)
    sentences_S2, mentions_R4 = table(value["sentences"], 2), table(value["mentions"], 4)
    normals, shown, kinds_N = texts_of(value["normals"]), texts_of(value["shown"]), table(value["kinds"], 1)[:, 0]
    said = Said(
        key=(str(value["id"]), str(value["hash"])),
        title=str(value["title"]),
        language=str(value["language"]),
        sentences_S2=sentences_S2,
        normals=normals,
        shown=shown,
        kinds_N=kinds_N,
        mentions_R4=mentions_R4,
        aliases=[(str(a), str(b)) for a, b in value["aliases"]],
    )
    limits = np.array([len(sentences_S2), len(normals)])
    inside = ((mentions_R4[:, :2] >= 0) & (mentions_R4[:, :2] < limits)).all()
    whole = len(shown) == len(normals) == len(kinds_N) and ((kinds_N >= 0) & (kinds_N < len(KINDS))).all()
    if not (inside and whole and (sentences_S2 >= 0).all() and (mentions_R4 >= 0).all()):
        raise ValueError
    return said


def table(numbers: Any, width: int) -> Whole:
    """Whole numbers of a line, so many a row; ValueError for anything else."""
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise ValueError
    return np.array(numbers, dtype=np.int64).reshape(-1, width)


def texts_of(values: Any) -> list[str]:
    """Texts of a line; ValueError for anything else."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError
    return values


def read_listing(folder: Path) -> Listing | None:
    """What counts, checked; None where nothing was extracted yet."""
    path = folder / LISTING
    try:
        facts = json.loads(path.read_text("utf-8"))
        listing = Listing(**{**facts, "segments": tuple(facts["segments"]), "sizes": tuple(facts["sizes"])})
        names = all(_NAME.fullmatch(name) for name in listing.segments)
        counts = all(type(n) is int and n >= 0 for n in (*listing.sizes, listing.next))
        if not (names and counts and isinstance(listing.by, str) and len(listing.sizes) == len(listing.segments)):
            raise ValueError
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged(path) from error
    return listing


def damaged(path: Path) -> BookFault:
    """What to say of a file of the graph that cannot be read."""
    return BookFault(f"{path} is damaged; delete {path.parent} and run: openbook graph")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the writer's lock; another process that has it is waited for: it is done within a batch of documents."""
    folder.mkdir(parents=True, exist_ok=True)
    with faults(folder), (folder / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def lines(folder: Path, wanted: Callable[[Key], bool]) -> Iterator[tuple[Key, bytes]]:
    """The lines of documents, of each the newest that counts."""
    listing = read_listing(folder)
    for name in listing.segments if listing else ():
        yield from _lines(folder / name, wanted)


def _lines(path: Path, wanted: Callable[[Key], bool]) -> Iterator[tuple[Key, bytes]]:
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST):
                key = key_of(line)
                if wanted(key):
                    yield key, line
    except (OSError, ValueError) as error:
        raise damaged(path) from error


_HEAD = re.compile(rb'\{"id":"([0-9a-f]+)","hash":"([0-9a-f]*)"')


def key_of(line: bytes) -> Key:
    """Whose line it is, without reading the rest of it."""
    head = _HEAD.match(line)
    if head is None or not line.endswith(b"\n"):
        raise ValueError
    return head[1].decode(), head[2].decode()


def steadily(folder: Path, look: Callable[[Path], Seen]) -> Seen:
    """What `look` sees of a folder that another process may be writing: looked at again where it changed meanwhile."""
    while True:
        listing = read_listing(folder)
        try:
            return look(folder)
        except BookFault:
            if read_listing(folder) == listing:
                raise


def read(folder: Path, documents: set[Key]) -> list[Said]:
    """What these documents mention, by document; those of which nothing is stored are left out."""
    return steadily(folder, lambda folder: _read(folder, documents))


def keys(folder: Path) -> set[Key]:
    """The documents of which something is stored."""
    return steadily(folder, lambda folder: {key for key, _ in lines(folder, lambda key: True)})


def _read(folder: Path, documents: set[Key]) -> list[Said]:
    found: dict[Key, Said] = {}
    for key, line in lines(folder, documents.__contains__):
        try:
            found[key] = read_line(line)
        except (ValueError, TypeError, KeyError) as error:
            raise damaged(folder / LISTING) from error
    return [found[key] for key in sorted(found)]


class Store:
    """Changes what is stored in `folder`, whose lock (`writing`) the caller holds. `by` names the extraction: what was
    stored by another counts no more."""

    def __init__(self, folder: Path, by: str | None = None) -> None:
        self.folder = folder
        found = read_listing(folder)
        if found is None or (by is not None and (found.by, found.format) != (by, FORMAT)):
            found = Listing(by or "", next=found.next if found else 1)
        self.listing = found
        self._sweep()

    def keys(self) -> set[Key]:
        """Whose lines are stored."""
        return keys(self.folder) if self._listed else set()

    @property
    def _listed(self) -> bool:
        return read_listing(self.folder) == self.listing

    def append(self, fresh: list[str]) -> None:
        """Bring these lines to the disk, joined with segments that are no longer than they."""
        count = joined(self.listing.sizes, len(fresh))
        keep = len(self.listing.segments) - count

        def all_lines() -> Iterator[bytes]:
            for name in self.listing.segments[keep:]:
                yield from (line for _, line in _lines(self.folder / name, lambda key: True))
            yield from (line.encode() for line in fresh)

        self._replace(keep, [all_lines()])

    def drop(self, gone: Callable[[Key], bool]) -> int:
        """Remove the lines of these documents from every file; how many."""
        count = sum(1 for _ in lines(self.folder, gone)) if self._listed else 0
        if count:
            paths = [self.folder / name for name in self.listing.segments]
            self._replace(0, [(line for _, line in _lines(path, lambda key: not gone(key))) for path in paths])
        return count

    def _replace(self, keep: int, made: list[Iterator[bytes]]) -> None:
        """The first `keep` segments, then new ones of these lines; those without any are left out."""
        names, sizes = list(self.listing.segments[:keep]), list(self.listing.sizes[:keep])
        number = self.listing.next
        for each in made:
            name = f"{number:06d}.jsonl"
            number += 1
            if count := _write(self.folder / name, each):
                names.append(name)
                sizes.append(count)
        self.listing = replace(self.listing, segments=tuple(names), sizes=tuple(sizes), next=number)
        sync(self.folder)
        write(self.folder / LISTING, json.dumps(asdict(self.listing)) + "\n")
        self._sweep()

    def _sweep(self) -> None:
        """Remove what the listing does not name."""
        named = {*self.listing.segments, LISTING, LOCK, PARTITION, CHOICE} if self._listed else {LISTING, LOCK, CHOICE}
        for path in self.folder.iterdir():
            if path.name not in named and not path.is_dir():
                path.unlink()
        sync(self.folder)


def _write(path: Path, lines: Iterable[bytes]) -> int:
    count = 0
    with path.open("wb") as file:
        for line in lines:
            file.write(line)
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def asked_folders(folder: Path) -> list[Path]:
    """Where the lines of each model are that was asked."""
    return sorted(path for path in folder.glob(f"{ASKED}*") if path.is_dir())
