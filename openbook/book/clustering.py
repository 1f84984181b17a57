"""Which names belong together: hierarchical Leiden (Traag 2019), after a change only where something changed.

A partition is kept with each name's signature (`Graph.signature_E`: what stands with it, how often). After a change the
names that are new or of another signature are free; so are all of a community of which more than `MANY` are. The rest
of a community goes in as one node with its weight (its inner weight hangs on it as a leaf, which leaves the modularity
of the whole as it is): free names may join it, but its names stay together and are not joined with another's. The same
is done within each community that is divided again. Once the share of names that were free comes to `AGAIN`, all are
divided anew, beginning with what was.

Shapes: N names that have relations, G groups.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy import sparse

ROUNDS = 2
"""Leiden's iterations."""
MANY, AGAIN = 0.25, 0.5
LONGEST = 1 << 28
"""Bytes of a partition that are read."""
Whole = npt.NDArray[np.int64]


class Member(NamedTuple):
    """A line of a partition: an entity (its normal form) in a cluster of a level, which is part of `parent`, or −1."""

    level: int
    cluster: int
    parent: int
    signature: int
    name: str


@dataclass(frozen=True)
class Partition:
    """All levels; `made` names what it is of, `how` the settings, `moved` is the share of names that were divided anew
    since all were."""

    members: tuple[Member, ...] = ()
    made: str = ""
    how: str = ""
    moved: float = 0.0

    @property
    def text(self) -> str:
        """The file of it: what it is of, and a line a member."""
        rows = ["\t".join(map(str, member)) for member in self.members]
        return "\n".join([f"{self.made} {self.how} {self.moved:.6f}", *rows]) + "\n"


def read_partition(path: Path) -> Partition:
    """What was kept; nothing where nothing was, or it is damaged: it can be made again."""
    try:
        with path.open("rb") as file:
            head, *lines = file.read(LONGEST).decode().splitlines()
        made, how, moved = head.split(" ") if head else ("", "", "0")
        rows = [line.split("\t") for line in lines]
        members = [Member(int(a), int(b), int(c), int(d), name) for a, b, c, d, name in rows]
        return Partition(tuple(members), made, how, float(moved))
    except (OSError, ValueError):
        return Partition()


def divide(
    names: Sequence[str],
    weights_NN: sparse.csr_matrix,
    signatures: Sequence[int],
    before: Partition,
    made: str,
    *,
    seed: int,
    largest: int,
) -> Partition:
    """The names with their relations' weights in communities of all levels, near what they were `before`."""
    how = f"{seed}/{largest}"
    if not weights_NN.nnz:
        return Partition((), made, how)
    told = dict(zip(names, signatures, strict=True))
    old = {member.name: member.signature for member in before.members if member.level == 0}
    changed_N = np.array([old.get(name) != sign for name, sign in told.items()])
    work = _Dividing(names, weights_NN, changed_N, before, seed, largest)
    moved = before.moved + work.free(np.arange(len(names)), 0).mean()
    if not old or moved > AGAIN or before.how not in ("", how):
        homes = {name: homes[0] for name, homes in work.homes.items()}
        rows, moved = _all(names, weights_NN, homes, seed, largest), 0.0
    else:
        rows = list(work.rows(np.arange(len(names)), 0, -1))
    members = (Member(level, cluster, parent, told[name], name) for level, cluster, parent, name in rows)
    return Partition(tuple(sorted(members)), made, how, float(moved))


Row = tuple[int, int, int, str]


def _all(
    names: Sequence[str], weights_NN: sparse.csr_matrix, start: Mapping[str, int], seed: int, largest: int
) -> list[Row]:
    """All levels of a graph, beginning with clusters of names where there are such."""
    from graspologic_native import hierarchical_leiden

    edges = list(_edges(names, weights_NN))
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
    return [(c.level, c.cluster, -1 if c.parent_cluster is None else c.parent_cluster, c.node) for c in found]


def _edges(names: Sequence[str], weights_NN: sparse.csr_matrix) -> Iterator[tuple[str, str, float]]:
    from scipy import sparse

    pairs = sparse.triu(weights_NN, k=1).tocoo()
    return ((names[a], names[b], w) for a, b, w in zip(pairs.row, pairs.col, pairs.data.tolist(), strict=True))


def _begun(start: Mapping[str, int], names: Iterable[str]) -> dict[str, int]:
    """The clusters of before, numbered from 0; a name that is new begins alone."""
    numbers: dict[object, int] = {}
    return {name: numbers.setdefault(start.get(name, name), len(numbers)) for name in names}


class _Dividing:
    """Names on their way into communities; `homes` are the clusters that each was in, from the first level on."""

    def __init__(
        self,
        names: Sequence[str],
        weights_NN: sparse.csr_matrix,
        changed_N: npt.NDArray[np.bool_],
        before: Partition,
        seed: int,
        largest: int,
    ) -> None:
        self.names, self.weights_NN, self.changed_N = names, weights_NN, changed_N
        self.seed, self.largest = seed, largest
        self.homes: dict[str, list[int]] = defaultdict(list)
        for member in before.members:  # in the order of their levels
            self.homes[member.name].append(member.cluster)
        self.sizes = Counter((member.level, member.cluster) for member in before.members)
        self.numbers = 0

    def home(self, n: int, level: int) -> int | None:
        """The cluster that a name was in on a level."""
        homes = self.homes.get(self.names[n], ())
        return homes[level] if level < len(homes) else None

    def free(self, held: Whole, level: int) -> npt.NDArray[np.bool_]:
        """Which of these names find a community anew."""
        homes = [self.home(n, level) for n in held.tolist()]
        free_N = self.changed_N[held] | np.array([home is None for home in homes])
        staying = Counter(home for home, changed in zip(homes, free_N.tolist(), strict=True) if not changed)
        free: npt.NDArray[np.bool_] = free_N | np.array(
            [home is None or staying[home] < (1 - MANY) * self.sizes[level, home] for home in homes]
        )
        return free

    def rows(self, held: Whole, level: int, parent: int) -> Iterator[Row]:
        """The rows of names of one community (at first: of all), from a level on."""
        free_N = self.free(held, level)
        if level > 0 and free_N.mean() > AGAIN:
            yield from self._anew(held, level, parent)
            return
        homes = [self.home(n, level) for n in held.tolist()]
        groups: dict[tuple[bool, object], int] = {}
        keys = [
            (free, n if free else home) for n, free, home in zip(held.tolist(), free_N.tolist(), homes, strict=True)
        ]
        group_N = np.array([groups.setdefault(key, len(groups)) for key in keys], dtype=np.int64)
        free_G = np.array([free for free, _ in groups])
        start_G: list[object] = [(False, n) for n in range(len(groups))]
        for group, home, free in zip(group_N.tolist(), homes, free_N.tolist(), strict=True):
            start_G[group] = (False, home) if home is not None or not free else (True, group)
        joined_G = (
            _joined(group_N, free_G, self.weights_NN[held][:, held], start_G, self.seed) if free_G.any() else None
        )
        cluster_N = group_N if joined_G is None else joined_G[group_N]
        if level > 0 and len(np.unique(cluster_N)) < 2:
            return
        for cluster in np.unique(cluster_N).tolist():
            yield from self._cluster(held[cluster_N == cluster], level, parent)

    def _cluster(self, held: Whole, level: int, parent: int) -> Iterator[Row]:
        number = self._fresh()
        yield from ((level, number, parent, self.names[n]) for n in held.tolist())
        if any(self.home(n, level + 1) is not None for n in held.tolist()):
            yield from self.rows(held, level + 1, number)
        elif len(held) > self.largest:
            yield from self._anew(held, level + 1, number)

    def _anew(self, held: Whole, level: int, parent: int) -> Iterator[Row]:
        """One community divided by itself; nothing where it is not."""
        if len(held) <= self.largest:
            return
        names, given = [self.names[n] for n in held.tolist()], dict[tuple[int, int], int]()
        found = sorted(_all(names, self.weights_NN[held][:, held], {}, self.seed, self.largest))
        if len({cluster for below, cluster, _, _ in found if below == 0}) < 2:
            return
        for below, cluster, above, name in found:
            if (below, cluster) not in given:
                given[below, cluster] = self._fresh()
            yield level + below, given[below, cluster], given[below - 1, above] if below else parent, name

    def _fresh(self) -> int:
        self.numbers += 1
        return self.numbers - 1


def _joined(
    group_N: Whole,
    free_G: npt.NDArray[np.bool_],
    weights_NN: sparse.csr_matrix,
    start_G: Sequence[object],
    seed: int,
) -> Whole:
    """The cluster of each group, beginning with these; those that stay are in clusters of their own."""
    from graspologic_native import leiden
    from scipy import sparse

    N, G = len(group_N), len(free_G)
    member_NG = sparse.coo_matrix((np.ones(N), (np.arange(N), group_N)), shape=(N, G)).tocsr()
    weights_GG = (member_NG.T @ weights_NN @ member_NG).tocsr()
    nodes, leaves = [f"g{g}" for g in range(G)], [f"leaf{g}" for g in range(G)]
    edges = list(_edges(nodes, weights_GG))
    edges += [(nodes[g], leaves[g], w / 2) for g, w in enumerate(weights_GG.diagonal().tolist()) if w > 0]
    starts = dict(zip(nodes, start_G, strict=True)) | dict(zip(leaves, start_G, strict=True))
    there = sorted({node for a, b, _ in edges for node in (a, b)})
    numbers: dict[object, int] = {}
    _, found = leiden(
        edges=edges,
        starting_communities={node: numbers.setdefault(starts[node], len(numbers)) for node in there},
        resolution=1.0,
        randomness=0.001,
        iterations=ROUNDS,
        use_modularity=True,
        seed=seed,
        trials=1,
    )
    # What has to do with nothing here is by itself.
    cluster_G = np.array([found.get(node, len(there) + g) for g, node in enumerate(nodes)], dtype=np.int64)
    return _apart(cluster_G, free_G, weights_GG)


def _apart(cluster_G: Whole, free_G: npt.NDArray[np.bool_], weights_GG: sparse.csr_matrix) -> Whole:
    """Where several that stay came together, each keeps apart, with the free names that have most to do with it."""
    apart_G = cluster_G.copy()
    following = int(cluster_G.max()) + 1
    for cluster in np.unique(cluster_G[~free_G]).tolist():
        held = np.flatnonzero(cluster_G == cluster)
        staying = held[~free_G[held]]
        if len(staying) < 2:
            continue
        apart_G[staying] = np.arange(following, following + len(staying))
        free = held[free_G[held]]
        if len(free):
            near = weights_GG[free][:, staying].toarray()
            apart_G[free] = np.where(near.any(axis=1), apart_G[staying][near.argmax(axis=1)], cluster)
        following += len(staying)
    return apart_G
