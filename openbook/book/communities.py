"""Communities of a book's graph: hierarchical Leiden (Traag 2019), and the sentences that carry each.

The first level divides all related entities; a community of more than `largest` entities is divided again, into the
next level. The same graph and seed give the same communities. Of a changed book they begin with what they were before
(the last partition is kept beside the graph), so that what did not change stays where it was.

Shapes: E entities, S sentences, C entities of a community.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openbook.book import versions
from openbook.book.graph.derive import Float, Whole
from openbook.book.graph.graph import Graph, Sentence
from openbook.book.graph.stored import FOLDER, PARTITION, writing
from openbook.book.manifest import BookFault, write

LARGEST = 200
"""Entities of a community that is not divided again."""
ROUNDS = 2
"""Leiden's iterations."""
SHORTEST = 30
"""Characters of a sentence that can carry something."""
LONGEST = 1 << 28


class Member(NamedTuple):
    """A line of a partition: an entity (its normal form) in a cluster of a level, which is part of `parent`, or −1."""

    level: int
    cluster: int
    parent: int
    name: str


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
        for level, cluster, parent, name in members:
            if (number := graph.derived.names.get(name)) is not None:
                grouped[level, cluster].append(number)
                above[level, cluster] = parent
        strength = {key: _strength(graph, np.array(sorted(found))) for key, found in grouped.items()}
        total = {key: float(each.sum()) for key, (_, each) in strength.items()}
        order = sorted(grouped, key=lambda key: (key[0], -total[key], -len(grouped[key]), min(grouped[key])))
        at = {key: i for i, key in enumerate(order)}
        parents = [at.get((level - 1, above[level, cluster])) for level, cluster in order]
        children: dict[int, list[int]] = defaultdict(list)
        for i, above_it in enumerate(parents):
            if above_it is not None:
                children[above_it].append(i)
        self.all = [
            Community(i, key[0], parents[i], tuple(children[i]), tuple(strength[key][0].tolist()), total[key] / 2)
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


def _strength(graph: Graph, members: Whole) -> tuple[Whole, Float]:
    """The members, most central first, and how central: the weight of relations inside, by how informative it is.

    A word alone that is no name says little of what a community is about: half."""
    inside = graph.weights_EE[members][:, members]
    alone = ~graph.leads_E[members] & np.array([" " not in graph.derived.normals[e] for e in members.tolist()], bool)
    strength = np.asarray(inside.sum(axis=1)).ravel() * graph.derived.informative_E[members] * np.where(alone, 0.5, 1)
    order = np.lexsort((members, -strength))
    return members[order], strength[order]


def communities(graph: Graph, *, seed: int = 0, largest: int = LARGEST, keep: bool = True) -> Communities:
    """The communities of a graph; those of before are kept to where the documents are the same, and else begun with.

    `keep` False: from scratch, and nothing is written, as for a book that was opened at a version.
    """
    digest = _digest(graph, seed, largest)
    keep = keep and not graph.book.pinned
    before, made = read_partition(graph.book.path / FOLDER / PARTITION) if keep else ([], "")
    if made == digest:
        return Communities(graph, before)
    start = {member.name: member.cluster for member in before if member.level == 0}
    members = _leiden(graph, seed, largest, start)
    if keep:
        _keep(graph, members, digest)
    return Communities(graph, members)


def _digest(graph: Graph, seed: int, largest: int) -> str:
    return hashlib.sha256(repr((graph.made, seed, largest)).encode()).hexdigest()


def _leiden(graph: Graph, seed: int, largest: int, start: dict[str, int]) -> list[Member]:
    from graspologic_native import hierarchical_leiden
    from scipy import sparse

    names = graph.derived.normals
    pairs = sparse.triu(graph.weights_EE, k=1).tocoo()
    if not pairs.nnz:
        return []
    edges = [(names[a], names[b], w) for a, b, w in zip(pairs.row, pairs.col, pairs.data.tolist(), strict=True)]
    there = sorted({name for a, b, _ in edges for name in (a, b)})
    found = hierarchical_leiden(
        edges=edges,
        starting_communities=_begun(start, there) if start else None,
        resolution=1.0,
        randomness=0.001,
        iterations=ROUNDS,
        use_modularity=True,
        max_cluster_size=largest,
        seed=seed,
    )
    parents = [-1 if each.parent_cluster is None else each.parent_cluster for each in found]
    return sorted(Member(c.level, c.cluster, p, c.node) for c, p in zip(found, parents, strict=True))


def _begun(start: dict[str, int], names: Iterable[str]) -> dict[str, int]:
    """The clusters of before, numbered from 0; a name that is new begins alone."""
    numbers: dict[object, int] = {}
    return {name: numbers.setdefault(start.get(name, name), len(numbers)) for name in names}


def read_partition(path: Path) -> tuple[list[Member], str]:
    """What was kept, and of what; nothing where nothing was, or it is damaged: it can be made again."""
    try:
        with path.open("rb") as file:
            head, *lines = file.read(LONGEST).decode().splitlines()
        rows = [line.split("\t") for line in lines]
        return [Member(int(a), int(b), int(c), name) for a, b, c, name in rows], head
    except (OSError, ValueError):
        return [], ""


def partition_text(members: Iterable[Member], made: str) -> str:
    """The file of a partition: what it is of, and a line a member."""
    return "\n".join([made, *("\t".join(map(str, member)) for member in members)]) + "\n"


def _keep(graph: Graph, members: Sequence[Member], digest: str) -> None:
    book = graph.book
    with writing(book.path / FOLDER):  # which forgetting takes last
        if versions.gone(book.path, book.version):
            raise BookFault(f"{book.path}: version {book.version} is gone, a document of it was forgotten; try again")
        write(book.path / FOLDER / PARTITION, partition_text(members, digest))
