"""Questions that one passage does not answer: passages reached through what others say.

A walk begins with the passages that fit the question best and goes on through what they name. From a path to passage
p it goes the better, the more of the question's words p has that the path has not, the more informative the entity
is that p shares with the path's last passage, and the closer p is to the question:

    s(p) = ½ cos(q, p) + ½ BM25(q, p) / max BM25                                            as `find` fuses them
    s(path → p) = λ [ s(path) + Σ_t v_t (c_t(p) − c_t(path))₊ + b · max_e i(e) + ½ cos(q, p) ]

t are the question's words, v_t their share of its information (idf), c_t(p) how much p says them (BM25's saturation;
of a path the most of its passages), e the entities that both passages have and the question has not. A passage's score
is the best of all ways to it. This is a beam search for the best paths; `pagerank` goes all ways at once.

Shapes: P passages, E entities, T words of the question, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from openbook.book.candidates import Vector, passages, vectors
from openbook.book.embedder import Embedder
from openbook.book.graph.derive import Float, Whole, stem
from openbook.book.graph.extract import extract, normal
from openbook.book.graph.graph import MOST_SHARED, WORDS, Graph
from openbook.book.graph.languages import language_of, stop_words
from openbook.book.retrieve import Hit, Step, fused, retriever
from openbook.book.store import Book

FIRST, KEPT, HOPS = 10, 20, 2
"""Passages that walks begin with, paths that are gone on with, and steps."""
ONWARD = 0.6
"""λ: between ½, where a step counts as much as what came before it, and 1."""
LINKED = 0.2
"""b."""
K1, B = 1.2, 0.75
"""BM25's (Robertson 1994)."""
TURNS, TURNS_ANSWERED, ANSWERED, EPSILON = "DWWDWDWD", "DDDWDWDW", 0.9, 1e-6
"""How ways and passages found directly take turns (`woven`); the share of a question's information from which on a
passage has nearly all of it; how far apart scores are where they were equal."""
SEARCHED = 50
"""Passages that are searched for first."""
ALPHA, ROUNDS, ENTITIES = 0.5, 15, 0.3
"""Of PageRank: how much is passed on, for how long (α^15 is nothing), and the question's entities' share of the seeds
beside the passages' 1."""


@dataclass(frozen=True)
class Way:
    """Passages (numbers) in the order they were reached, the entities that led from each to the next, the score."""

    passages: tuple[int, ...]
    through: tuple[int, ...]
    score: float


class Question:
    """What of a question passages are compared with."""

    def __init__(self, graph: Graph, text: str, query_M: Vector) -> None:
        self.graph, self.query_M = graph, query_M
        self.named = np.zeros(len(graph), dtype=bool)
        self.named[graph.mentioned(text)] = True
        stop = stop_words(language_of(text))
        words = [normal(word) for word in WORDS.findall(text)]
        words += [word for name in extract(text).names for word in name.normal.split()]
        stems = dict.fromkeys(stem(word) for word in words if word not in stop)
        self.terms = [graph.derived.words[word] for word in stems if word in graph.derived.words]
        self._cosines: dict[int, float] = {}

    @cached_property
    def _counts_PT(self) -> Any:
        return self.graph.derived.count_PW[:, self.terms].tocsr()

    @cached_property
    def shares_T(self) -> Float:
        """v: each word's share of the question's information."""
        P = len(self.graph.places.ids)
        passages_T = np.bincount(self._counts_PT.indices, minlength=len(self.terms))
        idf_T = np.log1p((P - passages_T + 0.5) / (passages_T + 0.5))
        shares: Float = idf_T / max(idf_T.sum(), 1e-9)
        return shares

    def covered(self, passages_C: Whole) -> Float:
        """c `[C, T]`, in [0, 1)."""
        count_CT: Float = self._counts_PT[passages_C].toarray()
        length_C = K1 * (1 - B + B * self.graph.lengths_P[passages_C])
        covered: Float = count_CT / (count_CT + length_C[:, None])
        return covered

    def told_by(self, passage: int) -> float:
        """The share of the question's information whose words a passage has."""
        return float((self.covered(np.array([passage]))[0] > 0) @ self.shares_T)

    def cosines(self, passages_C: Whole) -> Float:
        """The cosine of each passage with the question; a passage's vector is read once."""
        fresh = [p for p in passages_C.tolist() if p not in self._cosines]
        table = self.graph.book.passages_table
        if fresh and table is not None:
            found = vectors(table, self.graph.places.rows_P[fresh].tolist()) @ self.query_M
            self._cosines.update(zip(fresh, found.tolist(), strict=True))
        return np.array([self._cosines[p] for p in passages_C.tolist()])


@dataclass(frozen=True)
class _Front:
    way: Way
    covered_T: Float


def walk(graph: Graph, question: Question, first: Sequence[tuple[int, float]], hops: int = HOPS) -> list[Way]:
    """The best way to each passage that is reached from the `first` (passage, score), best ways first."""
    found = {p: Way((p,), (), score) for p, score in first}
    begin = np.array([p for p, _ in first[:FIRST]], dtype=np.int64)
    front = [_Front(found[p], c) for p, c in zip(begin.tolist(), question.covered(begin), strict=True)]
    for _ in range(hops):
        reached = _step(graph, question, front)
        for p, at in reached.items():
            if p not in found or at.way.score > found[p].score:
                found[p] = at.way
        front = sorted(reached.values(), key=lambda at: (-at.way.score, at.way.passages))[:KEPT]
    return sorted(found.values(), key=lambda way: (-way.score, way.passages))


def _step(graph: Graph, question: Question, front: Sequence[_Front]) -> dict[int, _Front]:
    """The best way from the front to each passage it leads to."""
    steps = [_links(graph, question, at.way.passages) for at in front]
    everywhere = np.unique(np.concatenate([np.zeros(0, np.int64), *(to for to, _, _ in steps)]))
    covered_CT, cosine_C = question.covered(everywhere), question.cosines(everywhere)
    best_C = np.full(len(everywhere), -np.inf)
    from_C, through_C = np.zeros(len(everywhere), np.int64), np.zeros(len(everywhere), np.int64)
    for number, (at, (to, links, entities)) in enumerate(zip(front, steps, strict=True)):
        at_C = np.searchsorted(everywhere, to)
        fresh = np.maximum(covered_CT[at_C] - at.covered_T, 0) @ question.shares_T
        score = ONWARD * (at.way.score + fresh + LINKED * links + 0.5 * cosine_C[at_C])
        better = score > best_C[at_C]
        best_C[at_C[better]] = score[better]
        from_C[at_C[better]], through_C[at_C[better]] = number, entities[better]
    reached = {}
    for c, p in enumerate(everywhere.tolist()):
        before = front[from_C[c]]
        way = Way((*before.way.passages, p), (*before.way.through, int(through_C[c])), float(best_C[c]))
        reached[p] = _Front(way, np.maximum(before.covered_T, covered_CT[c]))
    return reached


def _links(graph: Graph, question: Question, path: tuple[int, ...]) -> tuple[Whole, Float, Whole]:
    """Where one comes from a path's last passage: passages, the most informative entity's worth, and that entity."""
    row, columns, worth_E = graph.derived.count_PE, graph.passages_of_E, graph.derived.informative_E
    entities = row.indices[row.indptr[path[-1]] : row.indptr[path[-1] + 1]]
    leads = graph.leads_E[entities] & ~question.named[entities] & (graph.passages_E[entities] <= MOST_SHARED)
    entities = entities[leads]
    entities = entities[np.argsort(worth_E[entities], kind="stable")]  # the last one written is the most informative
    to = [columns.indices[columns.indptr[e] : columns.indptr[e + 1]] for e in entities]
    by_P: dict[int, int] = {}
    for e, reached in zip(entities.tolist(), to, strict=True):
        by_P.update(dict.fromkeys(reached.tolist(), e))
    for p in path:
        by_P.pop(p, None)
    passages_C = np.array(sorted(by_P), dtype=np.int64)
    through_C = np.array([by_P[p] for p in passages_C.tolist()], dtype=np.int64)
    return passages_C, worth_E[through_C], through_C


def pagerank(graph: Graph, question: Question, first: Sequence[tuple[int, float]]) -> Float:
    """Personalised PageRank `[P]` (Haveliwala 2002; over passages and entities: HippoRAG, Gutiérrez 2024).

        r = (1 − α) s + α Wᵀ r

    W goes from a passage to its entities by i(e) and how often it says them, and from an entity to its passages by how
    often they do. s are the first passages by (score above the last of them)², and the question's entities by i(e)²
    over their passages.
    """
    from_E, from_P = graph.steps
    score_N = np.array([score for _, score in first])
    seed_P, seed_E = np.zeros(len(graph.places.ids)), np.zeros(len(graph))
    above_N = (score_N - score_N.min(initial=np.inf)) ** 2
    seed_P[[p for p, _ in first]] = above_N if above_N.any() else 1.0  # all alike: as much for each
    seed_E[question.named] = graph.derived.informative_E[question.named] ** 2 / np.maximum(
        graph.passages_E[question.named], 1
    )
    seed_P, seed_E = seed_P / max(seed_P.sum(), 1e-12), ENTITIES * seed_E / max(seed_E.sum(), 1e-12)
    rank_P, rank_E = seed_P, seed_E
    for _ in range(ROUNDS):
        rank_P, rank_E = (
            (1 - ALPHA) * seed_P + ALPHA * (from_E @ rank_E),
            (1 - ALPHA) * seed_E + ALPHA * (from_P @ rank_P),
        )
    ranks: Float = rank_P / max(float(rank_P.max(initial=0.0)), 1e-12)
    return ranks


def woven(ways: Sequence[Way], first: Sequence[tuple[int, float]], answered: bool, k: int) -> list[Way]:
    """The first `k` of both lists, best first, each passage once: the walk's, and what was found directly between them.

    Passages found directly (D) and ways (W) come in turn as `TURNS` says, then ways: a question that one passage
    answers finds it where it would without a graph. Where the best passage has nearly all that the question asks for
    (`answered`), nothing is to be walked to: three come first. Scores are raised where needed to fall with the order.
    """
    best = {way.passages[-1]: way for way in reversed(ways)}  # the best way to it is how it is shown
    direct = iter([best.get(p, Way((p,), (), score)) for p, score in first])
    reached, order, seen = iter(ways), list[Way](), set[int]()
    turns = iter(TURNS_ANSWERED if answered else TURNS)
    while len(order) < k:
        turn = next(turns, "W")
        one, other = (direct, reached) if turn == "D" else (reached, direct)
        fresh = (way for each in (one, other) for way in each if way.passages[-1] not in seen)
        if (way := next(fresh, None)) is None:
            break
        seen.add(way.passages[-1])
        order.append(way)
    least = -np.inf
    for at in range(len(order) - 1, -1, -1):
        least = max(least + EPSILON, order[at].score)
        order[at] = replace(order[at], score=least)
    return order


@retriever("graph")
def by_walk(book: Book, query: str, k: int, encoder: Embedder) -> list[Hit]:
    """The best ways from the passages that fit to those that their names lead to, and between them those that fit."""
    graph, question, first = _begin(book, query, k, encoder)
    found = [(graph.number_of[hit.passage.id], hit.score) for hit in first]
    ways = walk(graph, question, found)
    return _hits(
        graph, question, first, woven(ways, found, bool(found) and question.told_by(found[0][0]) >= ANSWERED, k)
    )


@retriever("pagerank")
def by_pagerank(book: Book, query: str, k: int, encoder: Embedder) -> list[Hit]:
    """By personalised PageRank over passages and entities."""
    graph, question, first = _begin(book, query, k, encoder)
    rank_P = pagerank(graph, question, [(graph.number_of[hit.passage.id], hit.score) for hit in first])
    best = np.argsort(-rank_P, kind="stable")[:k].tolist()
    return _hits(graph, question, first, [Way((p,), (), float(rank_P[p])) for p in best if rank_P[p] > 0])


def _begin(book: Book, query: str, k: int, encoder: Embedder) -> tuple[Graph, Question, list[Hit]]:
    graph = book.graph()
    found = fused(book, query, max(k, SEARCHED), encoder)
    first = sorted(found, key=lambda hit: (-hit.score, hit.passage.id))
    query_M: Vector = np.asarray(encoder.embed([query])[0], dtype=np.float32)
    return graph, Question(graph, query, query_M), first


def _hits(graph: Graph, question: Question, first: Sequence[Hit], ways: Sequence[Way]) -> list[Hit]:
    table = graph.book.passages_table
    if table is None or not ways:
        return []
    numbers = np.array([way.passages[-1] for way in ways], dtype=np.int64)
    lexical = {hit.passage.id: hit.lexical for hit in first}
    read, cosines = passages(table, graph.places.rows_P[numbers].tolist()), question.cosines(numbers).tolist()
    return [
        Hit(passage, way.score, cosine, lexical.get(passage.id, 0.0), through=_through(graph, way))
        for passage, way, cosine in zip(read, ways, cosines, strict=True)
    ]


def _through(graph: Graph, way: Way) -> tuple[Step, ...]:
    names = graph.derived.shown
    return tuple(Step(graph.places.ids[p], names[e]) for p, e in zip(way.passages, way.through, strict=False))
