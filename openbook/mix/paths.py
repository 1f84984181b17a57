"""Branches that hold several passages, and what each of them does there.

A path is the passages that stand before a question in one branch, the most believed nearest to it. One of them must be
the right one for the path to be, and no two are the same, so its prior is the sum of theirs; a path of one is that
passage's branch:

    π(z_1 … z_m) = Σ_i π(z_i),  then refined by p(question | path)^β as every branch is

No arithmetic of the mixture tells inside a branch which passage did what. Leaving each out does, exactly: the finished
answer is read again under the branch without it,

    left_out_i = log p(answer | path) − log p(answer | path without z_i)

Another kind of path is a function handed to the registry: `@paths("mine")`, of (book, hits, hops), best hits first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from openbook.book.candidates import FIELDS
from openbook.book.manifest import faults
from openbook.book.passages import MAX_CHARS, Passage
from openbook.book.retrieve import Hit
from openbook.book.store import Book
from openbook.book.tables import quoted
from openbook.errors import Fault
from openbook.mix.weights import Array, normalise

if TYPE_CHECKING:
    from openbook.mix.reading import Reader

Path = tuple[Hit, ...]
Joiner = Callable[[Book, Sequence[Hit], int], list[Path]]
MOST_HOPS = 4
MOST_PATHS = 64
"""Paths that a question is read under: each is a prompt of its own to compute keys for."""

_JOINERS: dict[str, Joiner] = {}


def paths(name: str) -> Callable[[Joiner], Joiner]:
    """Register a kind of path."""

    def register(function: Joiner) -> Joiner:
        _JOINERS[name] = function
        return function

    return register


def path_kinds() -> list[str]:
    """Names for `Settings(paths=…)`."""
    return sorted(_JOINERS)


def join(book: Book, hits: Sequence[Hit], kind: str, hops: int) -> list[Path]:
    """The paths to read a question under. Raises `Fault` where they would be too many."""
    made = _JOINERS[kind](book, hits, hops)
    if kind != "single" and len(made) > MOST_PATHS:
        raise Fault(f"{len(made)} paths are more than {MOST_PATHS}; ask with fewer passages or hops")
    return made


def log_prior_of(paths: Sequence[Path]) -> Array:
    """Log-prior `[S]` of paths: the sum of what their members were found with, normalised if any has several.

    Passages that stand in a path for another's sake bring none.
    """
    total_S = np.array([sum(hit.prior for hit in path) for path in paths])
    with np.errstate(divide="ignore"):
        prior_S = np.log(total_S)
    return normalise(prior_S) if any(len(path) > 1 for path in paths) else prior_S


@paths("single")
def single(book: Book, hits: Sequence[Hit], hops: int) -> list[Path]:
    """Every passage alone."""
    return [(hit,) for hit in hits]


@paths("sets")
def sets(book: Book, hits: Sequence[Hit], hops: int) -> list[Path]:
    """Every passage alone, and all sets of up to `hops` of them: for questions that need two facts or more."""
    order = sorted(hits, key=lambda hit: (hit.prior, hit.passage.id))
    return [path for count in range(1, hops + 1) for path in combinations(order, count)]


@paths("neighbours")
def neighbours(book: Book, hits: Sequence[Hit], hops: int) -> list[Path]:
    """Every passage with the one before it and the one after it in its document, in the document's order."""
    around: dict[str, list[Passage]] = {}
    for passage in _near(book, [hit.passage for hit in hits]):
        around.setdefault(passage.document, []).append(passage)
    made: dict[tuple[str, ...], Path] = {}
    for hit in hits:
        nearby = sorted(around[hit.passage.document], key=lambda passage: passage.start)
        at = next(i for i, passage in enumerate(nearby) if passage.id == hit.passage.id)
        path = tuple(_beside(hit, passage) for passage in nearby[max(at - 1, 0) : at + 2])
        made.setdefault(tuple(member.passage.id for member in path), path)
    return list(made.values())


@paths("graph")
def graph(book: Book, hits: Sequence[Hit], hops: int) -> list[Path]:
    """Every passage behind those that a walk reached it from (`openbook.book.graph.walk`), up to `hops` in all."""
    found = {hit.passage.id: hit for hit in hits}
    made: dict[tuple[str, ...], Path] = {}
    for hit in hits:
        before = [step.passage for step in hit.through][-(hops - 1) :]
        members = [found.get(id) or replace(hit, passage=book.passage(id), prior=0.0, through=()) for id in before]
        path = (*members, hit)
        made.setdefault(tuple(member.passage.id for member in path), path)
    return list(made.values())


@paths("behind")
def behind(book: Book, hits: Sequence[Hit], hops: int) -> list[Path]:
    """The best passage alone, and once more with the next best before it: two readings of one passage, which err in
    different places. Which of them is right no prior knows and no question tells, so they are weighed alike."""
    best, *others = hits
    return [(best,), *((replace(other, prior=0.0), best) for other in others[:1])]


def views(paths: Sequence[Path], asked_S: Array) -> Array:
    """log p(question | path) `[S]`, where paths that are there for the sake of the same passage share one: their
    log-mean. The question speaks for a passage, not for what stands around it."""
    shared_S = asked_S.copy()
    mains = [found[0] if len(found := [hit.passage.id for hit in path if hit.prior]) == 1 else None for path in paths]
    for main in {main for main in mains if main is not None}:
        rows = [row for row, other in enumerate(mains) if other == main]
        shared_S[rows] = np.logaddexp.reduce(asked_S[rows]) - np.log(len(rows))
    return shared_S


def _beside(hit: Hit, passage: Passage) -> Hit:
    """A neighbour was not found for itself: it stands there for the hit's sake, and brings no prior."""
    return hit if passage.id == hit.passage.id else replace(hit, passage=passage, prior=0.0)


def _near(book: Book, passages: Sequence[Passage]) -> list[Passage]:
    """All passages that lie within two passages' length of one of these."""
    table = book.passages_table
    if table is None:
        return list(passages)
    reach = 2 * MAX_CHARS
    ranges = [
        f"(document IN ({quoted([p.document])}) AND `end` >= {p.start - reach} AND start <= {p.end + reach})"
        for p in passages
    ]
    with faults(book.path):
        rows = table.scanner(columns=FIELDS, filter=" OR ".join(ranges)).to_table().to_pylist()
    return [Passage(**row) for row in rows]


@dataclass(frozen=True)
class LeftOut:
    """`drops[s][i]`, natural: what branch s's log p of the answer loses without its i-th passage.

    Empty for a branch of one passage. It took `rows` of `forwards` batched forwards (the question, and the answer), and
    the keys of `prefilled` texts that were not kept.
    """

    drops: tuple[tuple[float, ...], ...]
    rows: int = 0
    forwards: int = 0
    prefilled: int = 0


def leave_out(reader: Reader, question: str, paths: Sequence[Path], tokens: Sequence[int], log_p_S: Array) -> LeftOut:
    """Every passage of every path of several left out of it, all as rows of one batch over the finished answer.

    `log_p_S` is what each path as a whole gave the answer.
    """
    from openbook.mix.reading import branch_of
    from openbook.mix.source import Label

    places = [(s, i) for s, path in enumerate(paths) if len(path) > 1 for i in range(len(path))]
    if not places or not tokens:
        return LeftOut(tuple(() for _ in paths))
    rest = [path[:i] + path[i + 1 :] for path, i in ((paths[s], i) for s, i in places)]
    # Paths that share their passages leave the same behind: that is read once.
    rows = {tuple(hit.passage.id for hit in path): path for path in rest}
    source = reader.branches(question, [branch_of(Label(f"p{n}", "passage"), p) for n, p in enumerate(rows.values())])
    without = dict(zip(rows, source.read_given(tokens).sum(axis=1).tolist(), strict=True))
    drops: list[list[float]] = [[] for _ in paths]
    for (s, _), path in zip(places, rest, strict=True):
        drops[s].append(float(log_p_S[s]) - without[tuple(hit.passage.id for hit in path)])
    return LeftOut(tuple(map(tuple, drops)), len(rows), 1 + source.tally.steps, source.tally.prefilled)
