"""Removing what is stored of documents: their lines, what models said of them, and what was made of both.

First what was made of lines goes, then the lines: so a kill at any moment leaves what tells the next call what to do.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from openbook.book.graph.stored import FOLDER, PARTITION, REPORTS, Key, Store, asked_folders, lines, texts_of, writing
from openbook.book.manifest import BookFault, sync, write

Gone = Callable[[Key], bool]


def forget(book: Path, documents: Iterable[str]) -> int:
    """Remove all that is stored of documents (ids), in every version; how many lines went.

    To be called when no version that stays names them any more: whoever extracts looks, under the same lock, whether
    the version that it sees is still there. `BookFault` where a file is damaged.
    """
    gone = set(documents)
    return _drop(book, lambda key: key[0] in gone)


def retain(book: Path, documents: set[Key]) -> int:
    """Remove what is stored of all documents but these: those of versions that stay."""
    return _drop(book, lambda key: key not in documents)


def _drop(book: Path, gone: Gone) -> int:
    folder = book / FOLDER
    if not folder.is_dir():
        return 0
    with writing(folder):
        if (folder / PARTITION).exists():
            _drop_names(folder, gone)
        # What a writer that was killed has left goes too.
        count = sum(Store(each).drop(gone) for each in [folder, *asked_folders(folder)])
        if (folder / REPORTS).is_dir():
            from openbook.book.graph.written import drop

            drop(folder, gone, lambda: _said(folder, lambda key: False)[1])
    return count


def _every(folder: Path) -> Iterator[tuple[Key, dict[str, Any]]]:
    for each in [folder, *asked_folders(folder)]:
        for key, line in lines(each, lambda key: True):
            yield key, json.loads(line)


def _said(folder: Path, gone: Gone) -> tuple[set[str], set[str]]:
    """The names that lines say which go, those that stay; none where a line is damaged."""
    said = set[str](), set[str]()
    try:
        for key, line in _every(folder):
            said[0 if gone(key) else 1].update(texts_of(line["normals"]))
    except (BookFault, ValueError, TypeError, KeyError):
        return set(), set()
    return said


def _drop_names(folder: Path, gone: Gone) -> None:
    """Of the last partition only names stay that documents which stay say; it is of no version any more.

    A signature is a sum of hashes of what stands with a name: of those that rest on what goes none is left.
    """
    path = folder / PARTITION
    going, staying = _said(folder, gone)
    touched = _touched(folder, gone, going)
    try:
        _, *rows = path.read_text("utf-8").splitlines()
        made = [row.split("\t") for row in rows]
        if touched.isdisjoint(name for *_, name in made) and staying.issuperset(name for *_, name in made):
            return
        kept = [[*row[:3], "0" if row[4] in touched else row[3], row[4]] for row in made if row[4] in staying]
        write(path, "\n".join(["", *map("\t".join, kept)]) + "\n")
    except (ValueError, IndexError):
        path.unlink()  # it can be made again
        sync(folder)


def _touched(folder: Path, gone: Gone, going: set[str]) -> set[str]:
    """Names whose signature may rest on what goes: those said there and what is taken for the same, and where what
    goes says that names are the same, all that is said beside these."""
    alike, told = defaultdict[str, set[str]](set), set[str]()
    try:
        for key, line in _every(folder):
            for a, b in line.get("aliases", ()):
                alike[a].add(b)
                alike[b].add(a)
                told.update((a, b) if gone(key) else ())
        told, touched = _reached(told, alike), _reached(going, alike)
        for _, line in _every(folder) if told else ():
            if not told.isdisjoint(line["normals"]):
                touched.update(line["normals"])
    except (BookFault, ValueError, TypeError, KeyError):
        return set()  # then no name stays either
    return touched


def _reached(names: set[str], alike: dict[str, set[str]]) -> set[str]:
    found, left = set(names), list(names)
    while left:
        fresh = alike.get(left.pop(), set()) - found
        found |= fresh
        left += fresh
    return found
