"""What versions cost on a book: going back, forgetting a document, proving it. The book is copied and left alone.

    python bench/versions.py BOOK            # of bench/million.py, or any other

Prints milliseconds of `use` (median and worst of 20), seconds of forgetting the first document and of the proof.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from openbook.book.store import open_book


def main(source: Path) -> None:
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        book = open_book(shutil.copytree(source, Path(folder) / "book"), create=False)
        before, first = book.version, min(v.number for v in book.versions() if v.passages)
        print(f"{book.count:,} passages, versions {first} to {before}")
        times = []
        for turn in range(20):
            began = time.perf_counter()
            book.use((first, before)[turn % 2])
            times.append(1e3 * (time.perf_counter() - began))
        print(f"use: median {statistics.median(times):.1f} ms, worst {max(times):.1f} ms")
        book.use(before)
        name = book.documents()[0].name
        began = time.perf_counter()
        done = book.forget(name, tags=True)
        print(f"forget {name} ({len(done.traces.passages)} passages): {time.perf_counter() - began:.1f} s, ", end="")
        print(f"{len(done.versions)} versions removed, {done.bytes / 1e6:.1f} MB given back")
        began = time.perf_counter()
        report = book.prove(done.traces)
        print(
            f"prove: {time.perf_counter() - began:.1f} s, {report.files} files, {report.bytes / 1e6:.1f} MB, ", end=""
        )
        print(
            f"{report.cells:,} values, {report.vocabulary:,} words, {report.words} rarer words: {len(report.left)} left"
        )
        for leftover in report.left[:10]:
            print(f"  {leftover.where}: {leftover.what}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
