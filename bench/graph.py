"""Multi-hop retrieval: BM25, dense, fused, PageRank and walks on questions whose supporting passages are known.

    python bench/graph.py musique ../shared/data/musique-300 --book /tmp/musique.book
    python bench/graph.py corpus ../shared/data/graphrag-kevin-scott --book /tmp/kevin.book

`musique` wants corpus.jsonl.gz (id, title, text) and questions.jsonl (question, hops, split, supporting_passages); it
tells recall at 2, 5 and 10, how often all supporting passages are among the first 10, and milliseconds a question.
`corpus` wants transcripts.jsonl.gz (episode, parts): seconds to index all but one episode, to add that one, to find
communities, and for a question; the most memory the process took.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

from openbook.book import Book, find, open_book
from openbook.book.communities import communities
from openbook.lm.encoder import load_encoder

WAYS = ("bm25", "dense", "fused", "pagerank", "graph")


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()]


def musique(data: Path, folder: Path, some: int | None) -> None:
    encoder, notes = load_encoder(), folder.with_suffix(".docs")
    notes.mkdir(parents=True, exist_ok=True)
    for row in lines(data / "corpus.jsonl.gz"):
        file = notes / f"{row['id']}.md"
        if not file.exists():
            file.write_text(f"# {row['title']}\n\n{row['text']}\n", encoding="utf-8")
    book = open_book(folder)
    if not book.count:  # one that is there is measured as it is
        print(book.add(notes, encoder=encoder))
    began = time.perf_counter()
    book.graph()
    print(f"graph {time.perf_counter() - began:.1f} s, {book.count} passages")
    questions = lines(data / "questions.jsonl")[:some]
    print(f"{'':10}{'R@2':>7}{'R@5':>7}{'R@10':>7}{'all@10':>7}{'train':>7}{'dev':>7}{'ms':>7}   R@5 by hops")
    for way in WAYS:
        table(way, questions, [ranked(book, q["question"], way, encoder) for q in questions])


def ranked(book: Book, question: str, way: str, encoder: Any) -> tuple[list[str], float]:
    """The documents of the passages found, best first, each once; and the milliseconds it took."""
    began = time.perf_counter()
    hits = find(book, question, 20, encoder, by=way)
    took = 1000 * (time.perf_counter() - began)
    return list(dict.fromkeys(Path(hit.passage.document).stem for hit in hits)), took


def table(way: str, questions: list[dict[str, Any]], found: list[tuple[list[str], float]]) -> None:
    def recall(k: int, **only: str) -> float:
        some = [
            len(gold & set(names[:k])) / len(gold)
            for q, (names, _) in zip(questions, found, strict=True)
            if all(q[key] == value for key, value in only.items())
            for gold in [set(q["supporting_passages"])]
        ]
        return 100 * statistics.mean(some) if some else float("nan")

    whole = [set(q["supporting_passages"]) <= set(n[:10]) for q, (n, _) in zip(questions, found, strict=True)]
    cells = [recall(2), recall(5), recall(10), 100 * statistics.mean(whole)]
    cells += [recall(5, split="train"), recall(5, split="dev")]
    cells.append(statistics.median(ms for _, ms in found))
    hops = sorted({q["hops"] for q in questions})
    by_hops = "  ".join(f"{each} {recall(5, hops=each):.1f}" for each in hops)
    print(f"{way:10}" + "".join(f"{cell:7.1f}" for cell in cells), by_hops, sep="   ")


def corpus(data: Path, folder: Path) -> None:
    encoder, notes = load_encoder(), folder.with_suffix(".docs")
    notes.mkdir(parents=True, exist_ok=True)
    rows = lines(data / "transcripts.jsonl.gz")
    files = [notes / f"{row['episode'].replace('/', '-')}.txt" for row in rows]
    for file, row in zip(files[:-1], rows[:-1], strict=True):
        file.write_text("".join(row["parts"]), encoding="utf-8")
    files[-1].unlink(missing_ok=True)
    book = open_book(folder)

    def timed(what: str) -> None:
        began = time.perf_counter()
        added = book.add(notes, encoder=encoder)
        middle = time.perf_counter()
        graph = book.graph()
        after = time.perf_counter()
        print(f"{what}: {added.passages} passages {middle - began:.1f} s, graph of {len(graph)} {after - middle:.1f} s")

    timed("all but one")
    began = time.perf_counter()
    before = communities(book.graph())
    print(f"communities: {len(before)} on {before.levels} levels {time.perf_counter() - began:.1f} s")
    files[-1].write_text("".join(rows[-1]["parts"]), encoding="utf-8")
    timed("one more")
    began = time.perf_counter()
    after = communities(book.graph())
    print(f"communities: {len(after)} on {after.levels} levels {time.perf_counter() - began:.1f} s")
    questions = [row["question"] for row in lines(data / "questions.jsonl")]
    for way in WAYS:
        took = [ranked(book, question, way, encoder)[1] for question in questions]
        print(f"{way}: {statistics.median(took):.1f} ms a question, {max(took):.1f} at most")
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB of memory at most")


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["musique", "corpus"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--some", type=int, help="only so many questions")
    given = parser.parse_args()
    musique(given.data, given.book, given.some) if given.what == "musique" else corpus(given.data, given.book)


if __name__ == "__main__":
    run()
