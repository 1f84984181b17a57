"""Names and relations by a language model beside those seen in print: what of its replies the texts say, what finding
passages gains, and what it takes.

    python bench/graph_asked.py ../shared/data/musique-300 --models smollm2 gemma3 --books FOLDER [--questions 60]
        [--paragraphs 300] [--budget TOKENS] [--json FILE]

The paragraphs that support the first questions, and others of those that MuSiQue gives with them, drawn at random up to
`--paragraphs`, are one small book; each model is asked about all of it (what is in FOLDER already is not asked again).
Recall as in bench/graph.py.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from pathlib import Path
from typing import Any

from graph import lines, ranked

from openbook.answer.extracting import Local
from openbook.book import Book, open_book
from openbook.book.graph.asking import Extracting, ask, choose, parts_of
from openbook.book.graph.build import contents
from openbook.book.graph.extract import KINDS, NAME
from openbook.book.graph.modelled import BOTH, LLM, Part
from openbook.book.graph.stored import FOLDER, read
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model

WAYS = ("fused", "pagerank", "graph")


def made(data: Path, folder: Path, count: int, paragraphs: int) -> tuple[Book, list[dict[str, Any]]]:
    """The small book, and its questions."""
    questions = lines(data / "questions.jsonl")[:count]
    rows = {row["id"]: row for row in lines(data / "corpus.jsonl.gz")}
    wanted = {id for question in questions for id in question["supporting_passages"]}
    others = sorted({id for question in questions for id in question["context_passages"]} - wanted)
    random.Random(0).shuffle(others)
    chosen = sorted(wanted) + others[: max(0, paragraphs - len(wanted))]
    notes = folder / "docs"
    notes.mkdir(parents=True, exist_ok=True)
    for id in chosen:
        (notes / f"{id}.md").write_text(f"# {rows[id]['title']}\n\n{rows[id]['text']}\n", encoding="utf-8")
    book = open_book(folder / "book")
    book.add(notes, encoder=load_encoder())
    return book, questions


def recalls(path: Path, questions: list[dict[str, Any]], encoder: Any) -> dict[str, dict[str, float]]:
    """R@2, R@5 and all supports in 10, by way of finding."""
    book, found = open_book(path), {}
    for way in WAYS:
        names = [(set(q["supporting_passages"]), ranked(book, q["question"], way, encoder)[0]) for q in questions]
        row = {f"R@{k}": 100 * statistics.mean(len(g & set(n[:k])) / len(g) for g, n in names) for k in (2, 5)}
        found[way] = {**row, "all@10": 100 * statistics.mean(g <= set(n[:10]) for g, n in names)}
    return found


def told(book: Book, model: str, budget: int | None) -> tuple[str, dict[str, float]]:
    """Ask a model about what is left; what all of its replies come to."""
    local = Local(load_model(model))
    asking = ask(book, local, budget, lambda done, total, what: print(f"\r{done}/{total} {what[:60]:60}", end=""))
    print()
    wanted = contents(book)
    parts = [part for of in parts_of(book.path / FOLDER, local.made, wanted).values() for part in of]
    printed = {said.key: set(_names(said.normals, said.kinds_N.tolist())) for said in read(book.path / FOLDER, wanted)}
    names = [(part.key, name) for part in parts for name in part.normals]
    seen = [name in printed[key] for key, name in names]
    asked = {
        key: {name for part in parts if part.key == key for name in part.normals}
        for key in {part.key for part in parts}
    }
    of_print = [len(told & printed[key]) / len(printed[key]) for key, told in asked.items() if printed[key]]
    dropped = [sum(part.dropped[i] for part in parts) for i in (0, 1)]
    ties = sum(len(part.ties) for part in parts)
    return local.made, {
        "calls": len(parts),
        "read": sum(part.tokens[0] for part in parts),
        "written": sum(part.tokens[1] for part in parts),
        "seconds a call": asking.seconds / asking.calls if asking.calls else float("nan"),
        "names": len(names) / len(parts),
        "names kept %": 100 * len(names) / max(1, len(names) + dropped[0]),
        "relations": ties / len(parts),
        "relations kept %": 100 * ties / max(1, ties + dropped[1]),
        "seen in print too %": 100 * sum(seen) / max(1, len(seen)),
        "of names in print %": 100 * statistics.mean(of_print),
        "cut off %": 100 * statistics.mean(_cut(part) for part in parts),
    }


def _cut(part: Part) -> bool:
    from openbook.answer.extracting import WRITTEN

    return part.tokens[1] >= WRITTEN


def _names(normals: list[str], kinds: list[int]) -> list[str]:
    return [name for name, kind in zip(normals, kinds, strict=True) if KINDS[kind] == NAME]


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", default=["smollm2"])
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--paragraphs", type=int, default=300)
    parser.add_argument("--budget", type=int, help="tokens that each model may read and write; the next run goes on")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    book, questions = made(given.data, given.books, given.questions, given.paragraphs)
    encoder, facts = load_encoder(), dict[str, Any]()
    choose(book, Extracting())
    book.graph()
    facts["built-in"] = {"recall": recalls(book.path, questions, encoder)}
    print("built-in", facts["built-in"])
    for model in given.models:
        named, replies = told(book, model, given.budget)
        facts[model] = {"replies": replies}
        print(model, {what: round(value, 2) for what, value in replies.items()})
        for how in (LLM, BOTH):
            choose(book, Extracting(how=how, made=named))
            facts[model][how] = recalls(book.path, questions, encoder)
            print(model, how, facts[model][how])
    if given.json:
        given.json.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    run()
