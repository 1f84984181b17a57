"""What it costs to read documents in a process apart (openbook.book.apart), beside reading them in this one.

    .venv/bin/python bench/apart.py docs/ [FOLDER...] --runs 5

Every document is read both ways and must come out the same; seconds are of all of them, the median of the runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from openbook.book.apart import parse_apart
from openbook.book.documents import Document, Unreadable, load, parse
from openbook.book.walk import walk

Read = Callable[[bytes, Path], Document]


def outcome(read: Read, data: bytes, path: Path) -> Document | str:
    """The document, or why there is none."""
    try:
        return read(data, path)
    except Unreadable as error:
        return str(error)


def timed(read: Read, files: list[tuple[bytes, Path]]) -> tuple[float, list[Document | str]]:
    """Seconds, and what came of each."""
    began = time.perf_counter()
    made = [outcome(read, data, path) for data, path in files]
    return time.perf_counter() - began, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--most", type=int, default=60, help="documents of each folder")
    given = parser.parse_args()
    paths = [path for folder in given.folders for path in walk(folder).files[: given.most]]
    files = [(load(path).data, path) for path in paths]
    here, there = [], []
    for _ in range(given.runs):  # in turn: what else the machine does meets both
        (a, ours), (b, theirs) = timed(parse, files), timed(parse_apart, files)
        if ours != theirs:
            raise SystemExit(f"{paths[[x == y for x, y in zip(ours, theirs, strict=True)].index(False)]} differs")
        here.append(a)
        there.append(b)
    for name, seconds in (("in this process", here), ("in a process apart", there)):
        each = 1e3 * statistics.median(seconds) / len(files)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(
            f"{name:20} {statistics.median(seconds):6.2f} s ({spread}) for {len(files)} documents, {each:.1f} ms each"
        )


if __name__ == "__main__":
    main()
