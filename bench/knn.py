"""kNN-LM in figures: what neighbours do for held-out text, and what looking for them costs.

Quality: each held-out text is foretold by the model, and by the neighbours of every book; λ is then swept over the same
numbers. Cost: one search among so many keys, beside one decoding step of the model. The keys are random, in few
directions, or a book's; queries are then keys moved by a third of the difference of two others.

    openbook add python-docs/ --book docs.book --neighbours
    .venv/bin/python bench/knn.py quality --book docs.book --book novels.book --text held-out/ [--tokens 2000]
    .venv/bin/python bench/knn.py cost [--rows 1000000] [--steps 200]
    .venv/bin/python bench/knn.py cost --book novels.book          # real keys instead
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from openbook.book.neighbours import Neighbours, open_neighbours
from openbook.book.segment_writer import SEGMENT, SegmentWriter
from openbook.book.store import open_book
from openbook.book.tending import tend
from openbook.lm.model import LanguageModel, load_model
from openbook.measure.lm import Subject, windows
from openbook.measure.machine import processor
from openbook.measure.ways.knn import Foretold, foretell
from openbook.mix.sources.neighbours import Knn

LAMBDAS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
DIRECTIONS = 48
"""Of made-up keys, fewer than their width: so few that k-means finds lists of like size."""


def joined(parts: list[Foretold]) -> Foretold:
    """The numbers of several windows as those of one."""
    return Foretold(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def foretold(model: LanguageModel, book: Path, texts: list[str], tokens: int, knn: Knn) -> Foretold:
    """All texts under the model and the neighbours of a book."""
    neighbours = open_neighbours(open_book(book, create=False), model.fingerprint)
    subject, parts = Subject(model), list[Foretold]()
    for text in texts:
        parts += foretell(subject, windows(model.tokenizer.encode(text)[: tokens + 1], 512, 128), neighbours, knn)
    print(f"  {book.name}: {len(neighbours):,} entries of {neighbours.documents} documents", flush=True)
    return joined(parts)


def quality(arguments: argparse.Namespace) -> None:
    """Perplexity of the texts under each book's neighbours, λ swept."""
    model = load_model(arguments.model)
    files = sorted(p for root in arguments.text for p in ([root] if root.is_file() else root.rglob("*")) if p.is_file())
    texts = [path.read_text("utf-8", "replace") for path in files]
    knn = Knn("auto", arguments.k, arguments.temperature)
    for book in arguments.book:
        said = foretold(model, book, texts, arguments.tokens, knn)
        if arguments.out is not None:
            np.savez(arguments.out / f"{book.name}-on-{arguments.text[0].name}.npz", **said._asdict())
        report(said)


def report(said: Foretold) -> None:
    """The table of one book."""
    alone = float(np.exp(-said.log_p_T.mean()))
    fixed = {share: float(np.exp(-said.mixed(share).mean())) for share in LAMBDAS}
    best = min(fixed, key=lambda share: fixed[share])
    auto = float(np.exp(-said.mixed(said.share_T).mean()))
    near = np.percentile(said.nearest_T, [10, 50, 90])
    print(f"  {len(said.log_p_T):,} tokens; nearest key at {near[0]:.2f}, {near[1]:.2f}, {near[2]:.2f} of the variance")
    for name, figure in {
        "model alone": alone, "fixed 0.25": fixed[0.25], f"best fixed ({best})": fixed[best], "adaptive": auto
    }.items():  # fmt: skip
        print(f"  {name:20} {figure:8.3f}  {100 * (figure / alone - 1):+6.2f} %", flush=True)


def cost(arguments: argparse.Namespace) -> None:
    """One search beside one decoding step: medians, taken by turns."""
    import torch

    model = load_model(arguments.model)
    width = model.spec.width
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.book is None:
            store, queries = _random(Path(folder), arguments.rows, width), _drawn(arguments.steps, width, 1)
        else:
            store = open_neighbours(open_book(arguments.book, create=False), model.fingerprint)
            queries = _moved(store, arguments.steps)
        prompt = torch.randint(0, model.spec.vocabulary, (1, 300))
        cache = model.runner.cache([None], room=300 + arguments.steps)
        for query in queries:
            store.search(query[None], Knn.k)  # the pages of a file are read once
        steps, searches = [], []
        with model.runner.alone():
            model.runner.read(prompt, cache)
            for query in queries:
                began = time.perf_counter()
                model.runner.forward(prompt[:, :1], cache)
                middle = time.perf_counter()
                store.search(query[None], Knn.k)
                searches.append(time.perf_counter() - middle)
                steps.append(middle - began)
    step, search = 1e3 * statistics.median(steps), 1e3 * statistics.median(searches)
    print(f"{processor()}: {len(store):,} keys of {width}; step {step:.2f} ms, search {search:.2f} ms")
    print(f"a search takes {100 * search / step:.1f} % of a step (quartiles of searches, ms: {_quartiles(searches)})")


def _moved(store: Neighbours, count: int) -> np.ndarray:
    """Queries near real keys, and equal to none."""
    at_3C = np.random.default_rng(0).integers(0, len(store.segments[0]), (3, count))
    key_CM, from_CM, to_CM = (store.segments[0].keys_NM[at_C].astype(np.float32) for at_C in at_3C)
    queries: np.ndarray = key_CM + 0.35 * (from_CM - to_CM)
    return queries


def _quartiles(seconds: list[float]) -> str:
    return " ".join(f"{1e3 * value:.2f}" for value in statistics.quantiles(seconds, n=4))


def _drawn(count: int, width: int, seed: int) -> np.ndarray:
    """Random keys that fill few of their dimensions, as a model's do: in all of them every key is as far as any other,
    and an index would put most into one list."""
    directions = np.random.default_rng(0).standard_normal((DIRECTIONS, width), dtype=np.float32)
    scales = 1 / np.sqrt(1 + np.arange(DIRECTIONS, dtype=np.float32))
    draw = np.random.default_rng(seed)
    keys: np.ndarray = (scales * draw.standard_normal((count, DIRECTIONS), dtype=np.float32)) @ directions
    return keys + 0.1 * draw.standard_normal(keys.shape, dtype=np.float32)


def _random(folder: Path, rows: int, width: int) -> Neighbours:
    """A datastore of random keys."""
    began = time.perf_counter()
    writer = SegmentWriter(folder, width)
    for at in range(0, rows, SEGMENT):
        count = min(SEGMENT, rows - at)
        values = np.random.default_rng(at).integers(0, 49_152, count)
        writer.append(("random", "h"), at, rows, _drawn(count, width, 2 + at), values, np.arange(at, at + count))
    tend(writer)
    print(f"{rows:,} keys stored and indexed in {time.perf_counter() - began:.0f} s", flush=True)
    return Neighbours(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    quality_of, cost_of = kinds.add_parser("quality"), kinds.add_parser("cost")
    for each in (quality_of, cost_of):
        each.add_argument("--model", default="smollm2")
    quality_of.add_argument("--book", type=Path, action="append", required=True)
    quality_of.add_argument("--text", type=Path, action="append", required=True)
    quality_of.add_argument("--tokens", type=int, default=2000, help="of each text")
    quality_of.add_argument("--k", type=int, default=Knn.k)
    quality_of.add_argument("--temperature", type=float, default=Knn.temperature)
    quality_of.add_argument("--out", type=Path, help="keep the numbers in this folder")
    quality_of.set_defaults(run=quality)
    cost_of.add_argument("--rows", type=int, default=1_000_000)
    cost_of.add_argument("--book", type=Path, help="its neighbours, instead of made-up keys")
    cost_of.add_argument("--steps", type=int, default=200)
    cost_of.add_argument("--folder", type=Path, help="where the keys are written for as long as it runs")
    cost_of.set_defaults(run=cost)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
