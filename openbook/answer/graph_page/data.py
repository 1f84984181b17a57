"""What the picture of a graph shows: entities in communities, relations, and the sentences that make them, bounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from openbook.answer.graph_page.layout import Array, Whole, layout
from openbook.answer.page.values import clean
from openbook.answer.summarize.gather import Candidate, by_id

if TYPE_CHECKING:
    from openbook.book.communities import Communities, Community
    from openbook.book.graph import Graph

ENTITIES, RELATIONS, SENTENCES = 4_000, 12_000, 4
"""Entities and relations that are drawn at most, the weightiest; sentences of an entity that can be read."""
COMMUNITIES = 300
"""Communities that are drawn: placing them takes time with their square."""
REPORTED, KEY = 4, 12
"""Sentences and names that stand for a community."""
LONGEST = 600
"""Characters of a sentence that are shown."""


@dataclass(frozen=True)
class Picture:
    """All that the page shows, as JSON values: short names, because there are thousands of them.

    communities: title, size, key, said, x, y, r; entities: [name, kind, community, x, y, strength, said, forms];
    relations: [a, b, weight, sentence]; sentences: [document, place, text].
    """

    title: str
    book: str
    total: dict[str, int]
    communities: list[dict[str, Any]]
    entities: list[list[Any]]
    relations: list[list[Any]]
    sentences: list[list[Any]]
    documents: list[str]

    def to_dict(self) -> dict[str, Any]:
        """What the page's script reads."""
        names = ("communities", "entities", "relations", "sentences", "documents")
        return {name: getattr(self, name) for name in names}


def picture(graph: Graph, communities: Communities, seed: int = 0) -> Picture:
    """The picture of a graph's first level of communities."""
    every = [c for c in communities.level(0) if c.entities]
    first = every[:COMMUNITIES]
    home_E = np.full(len(graph), -1, dtype=np.int64)
    for i, community in enumerate(first):
        home_E[list(community.entities)] = i
    strength_E = np.asarray(graph.weights_EE.sum(axis=1)).ravel()
    shown = np.flatnonzero(home_E >= 0)
    shown = np.sort(shown[np.argsort(-strength_E[shown], kind="stable")[:ENTITIES]])
    # In a disc the strongest stand in the middle, so entities are numbered by community and strength.
    shown = shown[np.lexsort((shown, -strength_E[shown], home_E[shown]))]
    used, discs_N = np.unique(home_E[shown], return_inverse=True)
    pairs_D2, weights_D = _relations(graph, shown)
    places_N2, centres_C2, radii_C = layout(discs_N, pairs_D2, weights_D, seed)
    sentences = _Sentences(graph)
    said = [sentences.of(int(e)) for e in shown]
    made = [sentences.between(int(shown[a]), int(shown[b])) for a, b in pairs_D2.tolist()]
    chosen = [_report(communities, first[c], sentences) for c in used.tolist()]
    listed, documents = sentences.read()
    d = graph.derived
    kinds = [graph.entity(int(e)).kind for e in shown]
    return Picture(
        title=clean(graph.book.path.name),
        book=clean(f"{graph.book.path}, version {graph.book.version}"),
        total={"entities": len(graph), "relations": graph.weights_EE.nnz // 2, "communities": len(every)},
        communities=[
            {**facts, "size": len(first[c].entities), "x": round(x, 1), "y": round(y, 1), "r": round(r, 1)}
            for c, facts, (x, y), r in zip(used.tolist(), chosen, centres_C2.tolist(), radii_C.tolist(), strict=True)
        ],
        entities=[
            [_short(d.shown[e]), kind, c, round(x, 1), round(y, 1), round(float(strength_E[e]), 1), of, _forms(d, e)]
            for e, kind, c, (x, y), of in zip(
                shown.tolist(), kinds, discs_N.tolist(), places_N2.tolist(), said, strict=True
            )
        ],
        relations=[
            [a, b, round(w, 2), s] for (a, b), w, s in zip(pairs_D2.tolist(), weights_D.tolist(), made, strict=True)
        ],
        sentences=listed,
        documents=documents,
    )


def _relations(graph: Graph, shown: Whole) -> tuple[Whole, Array]:
    """The weightiest relations among the entities that are shown, as places in `shown`."""
    from scipy import sparse

    found = sparse.triu(graph.weights_EE[shown][:, shown], k=1).tocoo()
    order = np.lexsort((found.col, found.row, -found.data))[:RELATIONS]
    pairs = np.stack([found.row[order], found.col[order]], axis=1).astype(np.int64)
    return pairs, np.asarray(found.data[order], dtype=np.float64)


def _report(communities: Communities, community: Community, sentences: _Sentences) -> dict[str, Any]:
    report = communities.report(community, REPORTED, KEY)
    said = [sentences.place(s.document, s.start, s.end, s.text, s.passage) for s in report.sentences]
    return {"title": _short(report.title), "key": [_short(name) for name in report.entities], "said": said}


def _short(name: str) -> str:
    return clean(" ".join(name.split()))[:120]


def _forms(derived: Any, e: int) -> str:
    """Its other names, to be searched."""
    shown = derived.shown[e].casefold()
    return ", ".join(_short(form) for form in sorted(derived.forms[e])[:8] if form.casefold() != shown)


class _Sentences:
    """The sentences that are shown, each once, numbered in the order in which they were wanted."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._at: dict[int, int] = {}
        self._told: dict[int, tuple[str, int, int, str, str]] = {}
        self._by_place: dict[tuple[str, int], int] = {}
        self.worth_S = np.asarray(graph.derived.said_SE @ graph.derived.informative_E).ravel()

    def of(self, e: int) -> list[int]:
        """The sentences of an entity that say most."""
        found = np.array(self.graph.sentences_of(e), dtype=np.int64)
        best = found[np.argsort(-self.worth_S[found], kind="stable")[:SENTENCES]]
        return [self._number(n) for n in best.tolist()]

    def between(self, a: int, b: int) -> int:
        """A sentence that says both; −1 where there is none."""
        found = np.array(self.graph.sentences_of(a, b), dtype=np.int64)
        return self._number(int(found[self.worth_S[found].argmax()])) if len(found) else -1

    def place(self, document: str, start: int, end: int, text: str, passage: str) -> int:
        """A sentence that is given with its place."""
        key = (document, start)
        if key not in self._by_place:
            self._by_place[key] = len(self._at) + len(self._told)
            self._told[self._by_place[key]] = (document, start, end, text, passage)
        return self._by_place[key]

    def _number(self, n: int) -> int:
        if n not in self._at:
            self._at[n] = len(self._at) + len(self._told)
        return self._at[n]

    def read(self) -> tuple[list[list[Any]], list[str]]:
        """[document, place, text] of each, and the documents' names."""
        told = dict(self._told)
        numbers = list(self._at)
        for s, n in zip(self.graph.sentences(numbers) if numbers else [], numbers, strict=True):
            told[self._at[n]] = (s.document, s.start, s.end, s.text, s.passage)
        passages = by_id(self.graph.book, (passage for *_, passage in told.values()))
        documents: dict[str, int] = {}
        rows = []
        for _, (document, start, end, text, passage) in sorted(told.items()):
            p = passages.get(passage)
            place = f"characters {start}–{end}"
            if p is not None:
                place = f"page {p.page}" if p.page is not None else f"line {Candidate(p, start, end, text).line}"
            rows.append([documents.setdefault(clean(document), len(documents)), place, _cut(text)])
        return rows, list(documents)


def _cut(text: str) -> str:
    said = clean(" ".join(text.split()))
    return said if len(said) <= LONGEST else said[:LONGEST] + "…"


def named(
    sentences: Sequence[list[Any]], documents: Sequence[str], numbers: Sequence[int]
) -> list[tuple[str, str, str]]:
    """(document, place, text) of some sentences."""
    return [(documents[sentences[n][0]], sentences[n][1], sentences[n][2]) for n in numbers]
