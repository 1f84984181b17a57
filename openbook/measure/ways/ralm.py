"""In-Context RALM (Ram 2023): every s tokens the passage before the window is looked up anew.

`ralm-bm25-s4` takes the first passage that BM25 finds every 4 tokens; `ralm-bm25-of16-s4` the one of its first 16 under
which the model finds the last 16 tokens likeliest. Strides are independent of each other once the text is given, so
they are rows of a batch; strides in a row that have one passage are one row.

Shapes: T predicted tokens of a window, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from openbook.book.retrieve import Hit
from openbook.measure.lm import ROWS, Row, Subject, Window, lm_way, score
from openbook.mix.sources.retrieved import Lookup, Retrieval
from openbook.mix.weights import Array

STRIDES, CANDIDATES = (4, 8, 16, 32), (1, 4, 16)


@dataclass(frozen=True)
class Stretch:
    """Tokens `[start, stop)` of a text, foretold under one passage: one of these, or none where nothing was found."""

    start: int
    stop: int
    hits: tuple[Hit, ...]


def stretches(lookup: Lookup, window: Window) -> list[Stretch]:
    """The window's strides with what was found before each; neighbours with the same single passage are joined."""
    made: list[Stretch] = []
    for start in range(window.first, window.stop, lookup.retrieval.stride):
        stop = min(start + lookup.retrieval.stride, window.stop)
        hits = tuple(lookup.candidates(window.text[:start]))
        if made and len(hits) <= 1 and [h.passage.id for h in hits] == [h.passage.id for h in made[-1].hits]:
            made[-1] = Stretch(made[-1].start, stop, made[-1].hits)
        else:
            made.append(Stretch(start, stop, hits))
    return made


def retrieved(subject: Subject, windows: Sequence[Window], *, retrieval: Retrieval) -> Iterator[Array]:
    """A way: each stretch of a window after its passage and the window's tokens before it."""
    lookup = Lookup(subject.model, subject.book, subject.encoder, retrieval, subject.kept)
    for at in range(0, len(windows), ROWS):
        group = windows[at : at + ROWS]
        cut = [stretches(lookup, window) for window in group]
        jobs = [(window, stretch) for window, parts in zip(group, cut, strict=True) for stretch in parts]
        scored = iter(_score(lookup, jobs))
        yield from (np.concatenate([next(scored) for _ in parts]) for parts in cut)


def _score(lookup: Lookup, jobs: Sequence[tuple[Window, Stretch]]) -> Iterator[Array]:
    """Log p of each stretch. Its rows stand in one forward, with those of other stretches as far as they fit."""
    rows: list[Row] = []
    sizes: list[int] = []
    counts: list[int] = []
    for window, stretch in jobs:
        tokens = list(window.text[window.start : stretch.stop])
        count = stretch.stop - stretch.start
        if not stretch.hits:
            made = [Row([*lookup.opening, *tokens], count)]
        else:
            ranking = min(lookup.retrieval.rerank_tokens, len(tokens) - count - 1) if len(stretch.hits) > 1 else 0
            made = [Row(tokens, ranking + count, prefix) for prefix in lookup.prefixes(stretch.hits)]
        if rows and len(rows) + len(made) > ROWS:
            yield from _best(score(lookup.model.runner, rows), sizes, counts)
            rows, sizes, counts = [], [], []
        rows += made
        sizes.append(len(made))
        counts.append(count)
    if rows:
        yield from _best(score(lookup.model.runner, rows), sizes, counts)


def _best(scored: Sequence[Array], sizes: Sequence[int], counts: Sequence[int]) -> Iterator[Array]:
    """Of each stretch's K rows the one that made its last tokens likeliest: what it gives the stretch itself."""
    begin = 0
    for size, count in zip(sizes, counts, strict=True):
        of_stretch = scored[begin : begin + size]
        begin += size
        log_p_K = [float(log_p[: len(log_p) - count].sum()) for log_p in of_stretch]
        chosen = of_stretch[int(np.argmax(log_p_K))]
        yield chosen[len(chosen) - count :]


for by in ("bm25", "dense", "fused"):
    for candidates in CANDIDATES:
        for stride in STRIDES:
            name = f"ralm-{by}-s{stride}" if candidates == 1 else f"ralm-{by}-of{candidates}-s{stride}"
            way = partial(retrieved, retrieval=Retrieval(stride=stride, by=by, rerank=candidates))
            lm_way(name, needs_book=True, usual=name == "ralm-bm25-s4")(way)
