"""Global answers: what a summary covers, over reports, over passages and over retrieval's hits, at equal context.

    openbook add transcripts/ --book kevin.book
    python bench/summarize.py questions.jsonl --book kevin.book --questions 10 [--model M] [--write]

The questions have no reference answers, and judgements by a model are biased (2506.06331), so what is counted can be
counted: points; entities of the graph that the points name, and how many of them per 100 words; documents that hold
them; diversity, 1 minus the mean cosine between two points; the bits that a point adds to the question; and the share
of points that are held: of the words of a point that say something, at least `HELD` stand in the places it cites.
Extracted points are held by construction.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from openbook.answer.citations import says_something, words
from openbook.answer.summarize import Plan, summarize_with
from openbook.book.store import open_book
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.mix.reading import Reader

HELD = 0.8


def content(text):
    return {word.folded for word in words(text) if says_something(word)}


def held(point):
    """Whether the words of a point stand in the places that it cites."""
    said = content(point.text)
    places = set().union(*(content(holding.cited_text) for holding in point.evidence))
    return len(said & places) >= HELD * len(said)


def measured(summary, graph, encoder):
    texts = [point.text for point in summary.points]
    named = {e for text in texts for e in graph.mentioned(text)}
    documents = {document for point in summary.points for document in point.documents}
    count = sum(len(text.split()) for text in texts)
    vectors_NM = np.asarray(encoder.embed(texts)) if texts else np.zeros((0, 1))
    apart = 1 - (vectors_NM @ vectors_NM.T)[np.triu_indices(len(texts), 1)]
    return {
        "points": len(texts),
        "words": count,
        "entities": len(named),
        "entities/100 words": 100 * len(named) / max(1, count),
        "documents": len(documents),
        "diversity": float(apart.mean()) if len(apart) else 0.0,
        "bits": float(np.mean([point.bits for point in summary.points])) if texts else 0.0,
        "held": float(np.mean([held(point) for point in summary.points])) if texts else 0.0,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--budget", type=int, default=4_000)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--over", default="reports,passages,retrieval")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    lines = given.file.read_text("utf-8").splitlines()[given.skip : given.skip + given.questions]
    book, encoder = open_book(given.book, create=False), load_encoder()
    reader, graph = Reader(book, load_model(given.model), encoder), book.graph()
    for over in given.over.split(","):
        found, began = [], time.process_time()
        for line in lines:
            plan = Plan(over, given.points, given.budget, given.write)
            found.append(measured(summarize_with(reader, json.loads(line)["question"], plan), graph, encoder))
        row = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        row["CPU seconds"] = (time.process_time() - began) / len(found)
        if over == given.over.split(",")[0]:
            print("| over | " + " | ".join(row) + " |\n|---|" + "--:|" * len(row))
        print(f"| {over} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
