"""Communities of a book's graph: hierarchical Leiden (Traag 2019), and the sentences that carry each.

The first level divides all related entities; a community of more than `largest` entities is divided again, into the
next level. The same graph and seed give the same communities. Of a changed book only those are divided anew of which a
name stands with others than before, or more or less often (`openbook.book.clustering`): the rest stay as they were.

Shapes: E entities, S sentences, C entities of a community.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from openbook.book import versions
from openbook.book.clustering import Member, Partition, divide, read_partition
from openbook.book.graph.derive import Float, Whole
from openbook.book.graph.graph import Graph, Sentence
from openbook.book.graph.stored import FOLDER, PARTITION, writing
from openbook.book.manifest import BookFault, write

LARGEST = 200
"""Entities of a community that is not divided again."""
SHORTEST = 30
"""Characters of a sentence that can carry something."""


@dataclass(frozen=True)
class Community:
    """Entities (numbers, the most central first) that belong together. `number` is its place in the list, `parent` and
    `children` are numbers; `weight` says how much its entities have to do with each
    other."""

    number: int
    level: int
    parent: int | None
    children: tuple[int, ...]
    entities: tuple[int, ...]
    weight: float


@dataclass(frozen=True)
class Report:
    """What a community is about, in the documents' own words: nothing here was written by a model.

    `covered` is the share of the community's weight that the sentences' entities have.
    """

    community: Community
    title: str
    entities: tuple[str, ...]
    sentences: tuple[Sentence, ...]
    covered: float


class Communities:
    """The communities of a graph, of all levels; made by `communities`."""

    def __init__(self, graph: Graph, members: Sequence[Member], modularity: float = 0.0) -> None:
        self.graph, self.modularity = graph, modularity
        grouped: dict[tuple[int, int], list[int]] = defaultdict(list)
        above: dict[tuple[int, int], int] = {}
        for level, cluster, parent, _, name in members:
            if (number := graph.derived.names.get(name)) is not None:
                grouped[level, cluster].append(number)
                above[level, cluster] = parent
        strong = _strengths(graph, grouped)
        total = {key: float(strong[key[0]][held].sum()) for key, held in grouped.items()}
        order = sorted(grouped, key=lambda key: (key[0], -total[key], -len(grouped[key]), min(grouped[key])))
        at = {key: i for i, key in enumerate(order)}
        parents = [at.get((level - 1, above[level, cluster])) for level, cluster in order]
        children: dict[int, list[int]] = defaultdict(list)
        for i, above_it in enumerate(parents):
            if above_it is not None:
                children[above_it].append(i)
        self.all = [
            Community(i, key[0], parents[i], tuple(children[i]), _central(grouped[key], strong[key[0]]), total[key] / 2)
            for i, key in enumerate(order)
        ]

    def __len__(self) -> int:
        return len(self.all)

    def level(self, level: int) -> list[Community]:
        """The communities of a level, and those of levels above that were not divided: together, all entities."""
        return [c for c in self.all if c.level == level or (c.level < level and not c.children)]

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return 1 + max((c.level for c in self.all), default=-1)

    @cached_property
    def of_E(self) -> Whole:
        """The number of the first level's community each entity is in; −1 for one without relations."""
        of_E = np.full(len(self.graph), -1, dtype=np.int64)
        for community in self.all:
            if community.level == 0:
                of_E[list(community.entities)] = community.number
        return of_E

    def scores(self, community: Community) -> Float:
        """How much each of the book's sentences carries of a community `[S]`: the strength of its entities in it."""
        members, strength_C = _strength(self.graph, np.array(sorted(community.entities)))
        scores: Float = self.graph.derived.said_SE[:, members] @ np.log1p(strength_C)
        return scores

    def report(self, community: Community, sentences: int = 8, entities: int = 12) -> Report:
        """Title, key entities, and the sentences that carry a community: each adds most to those before."""
        chosen, covered = self._carrying(community, sentences)
        names = tuple(self.graph.derived.shown[e] for e in community.entities[:entities])
        return Report(community, ", ".join(names[:3]), names, tuple(self.graph.sentences(chosen)), covered)

    def _carrying(self, community: Community, most: int) -> tuple[list[int], float]:
        """Greedily: an entity that was said counts half as much in the next sentence, and so on."""
        graph = self.graph
        members, strength_C = _strength(graph, np.array(sorted(community.entities)))
        worth_C = np.log1p(strength_C)
        said_SC = graph.derived.said_SE[:, members]
        lengths_S = graph.derived.spans_S2[:, 1] - graph.derived.spans_S2[:, 0]
        able = np.flatnonzero(np.diff(said_SC.indptr) > 0)
        long = lengths_S[able] >= SHORTEST
        able = able[long] if long.any() else able
        said_SC = said_SC[able]
        left_C, chosen, seen_C = worth_C.copy(), list[int](), np.zeros(len(members), dtype=bool)
        while len(chosen) < min(most, len(able)):
            gain_S = said_SC @ left_C / np.log2(SHORTEST + lengths_S[able])
            gain_S[[np.searchsorted(able, n) for n in chosen]] = -1
            best = int(gain_S.argmax())
            if gain_S[best] <= 0:
                break
            inside = said_SC.indices[said_SC.indptr[best] : said_SC.indptr[best + 1]]
            left_C[inside] /= 2
            seen_C[inside] = True
            chosen.append(int(able[best]))
        return chosen, float(worth_C[seen_C].sum() / max(worth_C.sum(), 1e-9))


def _strengths(graph: Graph, grouped: Mapping[tuple[int, int], list[int]]) -> dict[int, Float]:
    """Of each level, how central each entity is in its community (`_worth`), 0 for one that is in none."""
    pairs, found = graph.weights_EE.tocoo(), dict[int, Float]()
    for level in sorted({level for level, _ in grouped}):
        home_E = np.full(len(graph), -1, dtype=np.int64)
        for number, (_, held) in enumerate(item for item in grouped.items() if item[0][0] == level):
            home_E[held] = number
        inside = home_E[pairs.row] == home_E[pairs.col]
        inside_E = np.bincount(pairs.row[inside], pairs.data[inside], minlength=len(graph))
        found[level] = np.where(home_E >= 0, inside_E * _worth(graph, np.arange(len(graph))), 0.0)
    return found


def _central(held: Sequence[int], strength_E: Float) -> tuple[int, ...]:
    """The members, most central first."""
    members = np.array(sorted(held), dtype=np.int64)
    return tuple(members[np.argsort(-strength_E[members], kind="stable")].tolist())


def _worth(graph: Graph, members: Whole) -> Float:
    """What relations of these entities count for: how informative they are; a word alone that is no name says little of
    what a community is about: half."""
    alone = ~graph.leads_E[members] & np.array([" " not in graph.derived.normals[e] for e in members.tolist()], bool)
    worth: Float = graph.derived.informative_E[members] * np.where(alone, 0.5, 1)
    return worth


def _strength(graph: Graph, members: Whole) -> tuple[Whole, Float]:
    """The members of one community, most central first, and how central: relations inside, by what they are worth."""
    inside = graph.weights_EE[members][:, members]
    strength = np.asarray(inside.sum(axis=1)).ravel() * _worth(graph, members)
    order = np.lexsort((members, -strength))
    return members[order], strength[order]


def communities(graph: Graph, *, seed: int = 0, largest: int = LARGEST, keep: bool = True) -> Communities:
    """The communities of a graph; those of before are kept to where the documents are the same, and else begun with.

    `keep` False: from scratch, and nothing is written, as for a book that was opened at a version.
    """
    digest = _digest(graph, seed, largest)
    keep = keep and not graph.book.pinned
    before = read_partition(graph.book.path / FOLDER / PARTITION) if keep else Partition()
    if before.made == digest:
        return Communities(graph, before.members)
    there = np.flatnonzero(np.diff(graph.weights_EE.indptr))
    found = divide(
        [graph.derived.normals[e] for e in there.tolist()],
        graph.weights_EE[there][:, there],
        graph.signature_E[there].tolist(),
        before,
        digest,
        seed=seed,
        largest=largest,
    )
    if keep:
        _keep(graph, found)
    return Communities(graph, found.members)


def _digest(graph: Graph, seed: int, largest: int) -> str:
    return hashlib.sha256(repr((graph.made, seed, largest)).encode()).hexdigest()


def _keep(graph: Graph, found: Partition) -> None:
    book = graph.book
    with writing(book.path / FOLDER):  # which forgetting takes last
        if versions.gone(book.path, book.version):
            raise BookFault(f"{book.path}: version {book.version} is gone, a document of it was forgotten; try again")
        write(book.path / FOLDER / PARTITION, found.text)
