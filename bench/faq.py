"""How long a stored answer takes among many pairs: reading the question, finding, and the parts of both.

The pairs are drawn: words by Zipf's law over a made-up vocabulary, questions of 6 to 14 words, answers of three
sentences. Their vectors are drawn too (near a hundred centres, as texts of one trade are); the question is read by the
real encoder. Then the same from the index that the book keeps: what a new process waits for.

    .venv/bin/python bench/faq.py [--pairs 10000] [--questions 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from openbook.answer.faq import reply
from openbook.book.faq import kept
from openbook.book.faq.entries import Entry, fold
from openbook.book.faq.fit import PRIOR, UNTOLD, Fitted
from openbook.book.faq.index import Asked, Index, texts_of
from openbook.book.faq.knowledge import Knowledge
from openbook.book.faq.pairs import Pair
from openbook.book.store import open_book
from openbook.lm.encoder import load_encoder
from openbook.measure.machine import processor

VOCABULARY, CENTRES = 20_000, 100


def drawn(count: int, chance: np.random.Generator) -> list[Entry]:
    """Entries of made-up text."""
    letters = np.array(list("abcdefghijklmnoprstuvw"))
    vocabulary = ["".join(chance.choice(letters, chance.integers(3, 10))) for _ in range(VOCABULARY)]
    share = 1 / np.arange(1, VOCABULARY + 1)

    def words(least: int, most: int) -> str:
        return " ".join(
            vocabulary[i] for i in chance.choice(VOCABULARY, chance.integers(least, most), p=share / share.sum())
        )

    pairs = []
    for number in range(count):
        answer = " ".join(f"{words(10, 25).capitalize()}." for _ in range(3))
        pairs.append(Pair("drawn.csv", "drawn", (words(6, 14) + "?",), answer, 0, 1, 0, 1, number + 1))
    return fold(pairs)


def vectors(texts: list[str], width: int, chance: np.random.Generator) -> dict[str, np.ndarray]:
    """A unit vector for each text, near one of some centres."""
    centres = chance.normal(size=(CENTRES, width))
    rows = centres[chance.integers(CENTRES, size=len(texts))] + chance.normal(size=(len(texts), width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return dict(zip(texts, rows.astype(np.float32), strict=True))


def timed(what: Callable[[str], object], questions: list[str]) -> dict[str, float]:
    """Milliseconds of each, the first ones uncounted: median, the slowest of twenty, and the processor's own time."""
    took, worked = [], []
    for question in questions:
        began, at_work = time.perf_counter(), time.process_time()
        what(question)
        took.append(1e3 * (time.perf_counter() - began))
        worked.append(1e3 * (time.process_time() - at_work))
    skipped = min(10, len(took) // 2)
    took = sorted(took[skipped:])
    p95 = took[int(0.95 * (len(took) - 1))]
    return {"median_ms": statistics.median(took), "p95_ms": p95, "cpu_ms": statistics.median(worked[skipped:])}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=10_000)
    options.add_argument("--questions", type=int, default=200)
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    chance, encoder = np.random.default_rng(0), load_encoder()
    entries = drawn(given.pairs, chance)
    found = vectors(texts_of(entries), encoder.width, chance)
    began = time.perf_counter()
    index = Index.of(entries, found, encoder.width)
    made = {"machine": processor(), "pairs": given.pairs, "indexing_s": time.perf_counter() - began}
    knowledge = Knowledge(tuple(entries), index, Fitted(PRIOR, UNTOLD), encoder)
    chosen = chance.integers(given.pairs, size=given.questions).tolist()
    questions = [" ".join(entries[i].questions[0].split()[1:]) for i in chosen]
    asked = {text: Asked.of(text, encoder.embed([text])[0]) for text in questions}
    made["whole answer"] = timed(lambda text: reply(text, knowledge), questions)
    made["of which: vector of the question"] = timed(lambda text: encoder.embed([text]), questions)
    made["of which: finding"] = timed(lambda text: knowledge.find_asked(asked[text]), questions)
    made["right"] = statistics.mean(
        knowledge.find_asked(asked[text]).best.number == at for text, at in zip(questions, chosen, strict=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        book = open_book(Path(folder) / "book")
        kept.write(book, "0" * 24 + ".npz", entries, index, knowledge.fitted)
        began = time.perf_counter()
        assert kept.read(book.path, "0" * 24 + ".npz", entries, encoder.width) is not None
        made["reading what is kept, s"] = time.perf_counter() - began
        made["on disk, MB"] = (book.path / "faq" / ("0" * 24 + ".npz")).stat().st_size / 1e6
    if given.json:
        given.json.write_text(json.dumps(made, indent=1) + "\n")
    for name, value in made.items():
        shown = "  ".join(f"{k} {v:.2f}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{name}: {shown}")


if __name__ == "__main__":
    main()
