"""Which names belong together: hierarchical Leiden (Traag 2019), after a change only where something changed.

A partition is kept with each name's signature (`Graph.signature_E`: what stands with it, how often). After a change the
communities of names that are new, gone or of another signature are divided anew. Each of the others goes in as one node
with its weight (its inner weight hangs on it as a leaf, which leaves the modularity of the whole as it is), so names
may join it, but it neither loses one nor is joined with another. Once the share of names that were divided anew comes
to `AGAIN`, all are, beginning with what was.

Shapes: N names that have relations, G groups.
"""

from __future__ import annotations

from collections import defaultdict
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
AGAIN = 0.5
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
    homes = {member.name: member.cluster for member in before.members if member.level == 0}
    old = {member.name: member.signature for member in before.members if member.level == 0}
    touched = {home for name, home in homes.items() if told.get(name) != old[name]}
    free_N = np.array([homes.get(name, -1) in touched or name not in homes for name in names])
    moved = before.moved + free_N.mean()
    if not homes or moved > AGAIN or before.how not in ("", how):
        rows, moved = _all(names, weights_NN, homes, seed, largest), 0.0
    elif not free_N.any():
        rows = [(*member[:3], member.name) for member in before.members if member.name in told]
    else:
        rows = _some(names, weights_NN, before, free_N, seed, largest)
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


def _some(
    names: Sequence[str],
    weights_NN: sparse.csr_matrix,
    before: Partition,
    free_N: npt.NDArray[np.bool_],
    seed: int,
    largest: int,
) -> list[Row]:
    """The names that are free are divided anew, among themselves and the communities that stay."""
    homes = {member.name: member.cluster for member in before.members if member.level == 0}
    groups: dict[tuple[bool, object], int] = {}
    group_N = np.array(
        [
            groups.setdefault((free, name if free else homes[name]), len(groups))
            for name, free in zip(names, free_N.tolist(), strict=True)
        ],
        dtype=np.int64,
    )
    free_G = np.array([free for free, _ in groups])
    start_G = [(free, homes.get(str(name), name) if free else name) for free, name in groups]
    joined_G = _joined(group_N, free_G, weights_NN, start_G, seed)
    clusters: dict[int, list[int]] = defaultdict(list)
    for n, cluster in enumerate(joined_G[group_N].tolist()):
        clusters[cluster].append(n)
    below: dict[int, list[Member]] = defaultdict(list)
    top = _tops(before)
    for member in before.members:
        if member.level > 0:
            below[top[member.level, member.cluster]].append(member)
    rows, numbers = list[Row](), _Numbers()
    for _, held in sorted(clusters.items()):
        number = numbers.fresh()
        rows += [(0, number, -1, names[n]) for n in held]
        kept = {group_N[n] for n in held}
        if len(kept) == 1 and not free_G[kept.pop()]:  # as it was, at every level
            rows += numbers.moved(below[homes[names[held[0]]]], number)
        elif len(held) > largest:
            rows += numbers.under(_all([names[n] for n in held], weights_NN[held][:, held], {}, seed, largest), number)
    return rows


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
    return _apart(np.array([found[node] for node in nodes], dtype=np.int64), free_G, weights_GG)


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
            apart_G[free] = apart_G[staying][near.argmax(axis=1)]
        following += len(staying)
    return apart_G


def _tops(before: Partition) -> dict[tuple[int, int], int]:
    """The first level's cluster in which each cluster is."""
    top: dict[tuple[int, int], int] = {}
    for member in sorted(before.members):
        key = (member.level, member.cluster)
        top[key] = member.cluster if member.level == 0 else top.get((member.level - 1, member.parent), -1)
    return top


class _Numbers:
    """Clusters' numbers, each given once."""

    def __init__(self) -> None:
        self.next = 0

    def fresh(self) -> int:
        """A number that no other cluster has."""
        self.next += 1
        return self.next - 1

    def moved(self, members: Iterable[Member], parent: int) -> Iterator[Row]:
        """Rows of the levels below a cluster that is called `parent` now."""
        return self._renamed(((m.level, m.cluster, m.parent, m.name) for m in members), parent, 1)

    def under(self, rows: Iterable[Row], parent: int) -> list[Row]:
        """Rows of a division of one cluster alone, a level lower; none where it was not divided."""
        found = sorted(rows)
        if len({cluster for level, cluster, _, _ in found if level == 0}) < 2:
            return []
        return list(self._renamed(((level + 1, *rest) for level, *rest in found), parent, 1))  # type: ignore[misc]

    def _renamed(self, rows: Iterable[Row], parent: int, first: int) -> Iterator[Row]:
        given: dict[tuple[int, int], int] = {}
        for level, cluster, above, name in sorted(rows):
            if (level, cluster) not in given:
                given[level, cluster] = self.fresh()
            yield level, given[level, cluster], parent if level == first else given[level - 1, above], name
