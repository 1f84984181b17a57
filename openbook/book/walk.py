"""Which files of a folder are documents."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from openbook.book.documents import reader_for

JUNK = frozenset({"node_modules", "__pycache__", "venv", "site-packages", "bower_components"})


@dataclass(frozen=True)
class Skipped:
    """A file that was not taken into the book, and why."""

    name: str
    reason: str


@dataclass
class Found:
    """Files that have a reader, in order; how many had none; folders that could not be entered."""

    files: list[Path] = field(default_factory=list)
    ignored: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def walk(root: Path) -> Found:
    """All files below `root` that have a reader, sorted; hidden files, junk and books left out.

    Links to folders are reported, not followed: they may lead in circles or out of the tree. So are links to files
    outside of it: who adds a folder, perhaps someone else's, means what is in it.
    """
    found = Found()
    inside = Path(os.path.realpath(root))

    def refused(error: OSError) -> None:
        found.skipped.append(Skipped(str(error.filename), f"could not be entered: {error.strerror}"))

    for folder, folders, files in os.walk(root, onerror=refused):
        here = Path(folder)
        folders[:] = sorted(_enter(here, folders, found))
        for name in sorted(files):
            if name.startswith("."):
                continue
            if not reader_for(here / name):
                found.ignored += 1
            elif (here / name).is_symlink() and inside not in Path(os.path.realpath(here / name)).parents:
                found.skipped.append(Skipped(str(here / name), "is a link to a file elsewhere; add that file itself"))
            else:
                found.files.append(here / name)
    return found


def _enter(here: Path, folders: list[str], found: Found) -> Iterator[str]:
    for name in folders:
        path = here / name
        if name.startswith(".") or name in JUNK or is_book(path):
            continue
        if path.is_symlink():
            found.skipped.append(Skipped(str(path), "is a link to a folder; add that folder itself"))
        else:
            yield name


def is_book(path: Path) -> bool:
    """Whether a folder is a book of openbook: those are never read as documents."""
    return (path / "HEAD").is_file() and (path / "versions").is_dir()
