"""Questions that one passage answers: what walking the graph costs there, beside what it starts from.

    python bench/graph_single.py ../shared/data --books FOLDER [--sets squad,nq] [--some 300] [--json FILE]

Sets: `squad` (paragraphs of 24 articles), `nq` (paragraphs of qed-dev that answer its questions), `scifact`,
`cranfield` (claims and queries with judgements, several abstracts right), `cmrc` (Chinese paragraphs), `first`
(MuSiQue's paragraphs; the first step of each question, by itself). Recall at 2, 5 and 10, how often all that is right
is among the first ten, milliseconds; and the chance that so large a difference in R@5 to `fused` comes of the draw of
questions alone (sign test).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openbook.book import Book, find, open_book
from openbook.lm.encoder import load_encoder

WAYS = ("bm25", "dense", "fused", "pagerank", "graph")
Asked = tuple[str, set[str]]
Texts = dict[str, str]


def lines(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()]


def squad(data: Path) -> tuple[Texts, list[Asked]]:
    return _squad(json.loads(gzip.decompress((data / "squad-dev-half/squad-dev-1.1-open.json.gz").read_bytes())))


def cmrc(data: Path) -> tuple[Texts, list[Asked]]:
    return _squad(json.loads(gzip.decompress((data / "cmrc2018-dev/cmrc2018_dev.json.gz").read_bytes())))


def _squad(made: dict[str, Any]) -> tuple[Texts, list[Asked]]:
    texts, asked = Texts(), list[Asked]()
    for a, article in enumerate(made["data"]):
        for p, paragraph in enumerate(article["paragraphs"]):
            texts[f"{a}-{p}"] = f"# {article.get('title', '').replace('_', ' ')}\n\n{paragraph['context']}\n"
            asked += [(q["question"], {f"{a}-{p}"}) for q in paragraph["qas"]]
    return texts, asked


def nq(data: Path) -> tuple[Texts, list[Asked]]:
    texts, asked = Texts(), list[Asked]()
    names: dict[str, str] = {}
    for row in lines(data / "qed-dev/qed-dev.jsonl.gz"):
        name = names.setdefault(row["paragraph_text"], str(len(names)))
        texts[name] = f"# {row['title_text']}\n\n{row['paragraph_text']}\n"
        asked.append((row["question_text"], {name}))
    return texts, asked


def scifact(data: Path) -> tuple[Texts, list[Asked]]:
    return _judged(data / "scifact-beir", "corpus.jsonl.gz", "queries-test.jsonl", "qrels-test.tsv", "claim")


def cranfield(data: Path) -> tuple[Texts, list[Asked]]:
    return _judged(data / "cranfield", "corpus.jsonl", "queries.jsonl", "qrels.tsv", "query")


def _judged(folder: Path, corpus: str, queries: str, qrels: str, field: str) -> tuple[Texts, list[Asked]]:
    right = defaultdict[str, set[str]](set)
    for line in (folder / qrels).read_text().splitlines()[1:]:
        query, document, score = line.split("\t")
        if int(score) > 0:
            right[query].add(document)
    texts = {row["id"]: f"# {row['title']}\n\n{row['text']}\n" for row in lines(folder / corpus)}
    return texts, [(row[field], right[row["id"]]) for row in lines(folder / queries) if right[row["id"]]]


def first(data: Path) -> tuple[Texts, list[Asked]]:
    folder = data / "musique-300"
    texts = {row["id"]: f"# {row['title']}\n\n{row['text']}\n" for row in lines(folder / "corpus.jsonl.gz")}
    steps = {
        (step["question"], row["context_passages"][step["paragraph_support_idx"]])
        for row in lines(folder / "questions.jsonl")
        for step in row["question_decomposition"]
        if "#" not in step["question"] and step.get("paragraph_support_idx") is not None
    }
    return texts, [(question.replace(" >> ", ": "), {passage}) for question, passage in sorted(steps)]


SETS: dict[str, Callable[[Path], tuple[Texts, list[Asked]]]] = {
    each.__name__: each for each in (squad, nq, first, scifact, cranfield, cmrc)
}


def book_of(texts: Texts, folder: Path, encoder: Any) -> Book:
    book, notes = open_book(folder), folder.with_suffix(".docs")
    if not book.count:  # one that is there is measured as it is
        notes.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (notes / f"{name}.md").write_text(text, encoding="utf-8")
        book.add(notes, encoder=encoder)
    return book


def ranked(book: Book, question: str, way: str, encoder: Any) -> tuple[list[str], float]:
    """The documents of the passages found, best first, each once; and the milliseconds it took."""
    began = time.perf_counter()
    hits = find(book, question, 20, encoder, by=way)
    took = 1000 * (time.perf_counter() - began)
    return list(dict.fromkeys(Path(hit.passage.document).stem for hit in hits)), took


def chance_of(better: int, worse: int) -> float:
    """Two-sided sign test: so uneven a division of better and worse, or more, if both were as likely."""
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--some", type=int, default=300, help="questions of each, drawn with a seed")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--json", type=Path, help="what every way found for every question")
    given = parser.parse_args()
    given.books.mkdir(parents=True, exist_ok=True)
    encoder, kept = load_encoder(), list[dict[str, Any]]()
    for name in given.sets.split(","):
        texts, asked = SETS[name](given.data)
        random.Random(0).shuffle(asked)
        asked = asked[: given.some]
        book = book_of(texts, given.books / f"{name}.book", encoder)
        book.graph()
        print(f"\n{name}: {len(asked)} questions, {book.count} passages", flush=True)
        print(
            "| | R@2 | R@5 | R@10 | all in 10 | better, worse at 5 | chance | ms |\n|---|--:|--:|--:|--:|--:|--:|--:|"
        )
        plain: list[float] = []
        for way in given.ways.split(","):
            found = [ranked(book, question, way, encoder) for question, _ in asked]
            at = {
                k: [
                    len(right & set(names[:k])) / len(right)
                    for (_, right), (names, _) in zip(asked, found, strict=True)
                ]
                for k in (2, 5, 10)
            }
            cells = [f"{100 * statistics.mean(at[k]):.1f}" for k in (2, 5, 10)]
            cells.append(f"{100 * statistics.mean(share == 1 for share in at[10]):.1f}")
            if way == "fused":
                plain = at[5]
            if plain and way != "fused":
                better = sum(a > b for a, b in zip(at[5], plain, strict=True))
                worse = sum(a < b for a, b in zip(at[5], plain, strict=True))
                cells += [f"{better}, {worse}", f"{chance_of(better, worse):.3f}"]
            else:
                cells += ["", ""]
            cells.append(f"{statistics.median(ms for _, ms in found):.0f}")
            print(f"| {way} | " + " | ".join(cells) + " |", flush=True)
            kept += [
                {"set": name, "way": way, "question": question, "right": sorted(right), "found": names}
                for (question, right), (names, _) in zip(asked, found, strict=True)
            ]
    if given.json:
        given.json.write_text(json.dumps(kept), encoding="utf-8")


if __name__ == "__main__":
    main()
