"""Communities after a change: all names in one each, as good as from scratch or nearly, and what is far stays."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from openbook.book.clustering import AGAIN, Member, Partition, divide, read_partition

LARGEST = 12


def planted(blocks: int, size: int, draw: np.random.Generator) -> dict[tuple[str, str], float]:
    """Relations of names in blocks that hold together, with few between neighbouring ones."""
    edges: dict[tuple[str, str], float] = {}
    for b in range(blocks):
        for i in range(size):
            for j in range(i):
                if draw.random() < 0.6:
                    edges[f"n{b:02}.{j}", f"n{b:02}.{i}"] = 1 + 2 * float(draw.random())
        if b:
            for _ in range(2):
                edges[f"n{b - 1:02}.{draw.integers(size)}", f"n{b:02}.{draw.integers(size)}"] = 0.5
    return edges


def graph(edges: dict[tuple[str, str], float]):
    """Names, weights and signatures, as a graph has them."""
    names = sorted({name for pair in edges for name in pair})
    at = {name: i for i, name in enumerate(names)}
    rows = np.array([(at[a], at[b]) for a, b in edges])
    half = sparse.coo_matrix((list(edges.values()), (rows[:, 0], rows[:, 1])), shape=(len(names), len(names)))
    near = defaultdict(list)
    for (a, b), weight in edges.items():
        near[a].append((b, weight))
        near[b].append((a, weight))
    return names, (half + half.T).tocsr(), [hash(tuple(sorted(near[name]))) & 0xFFFF_FFFF for name in names]


def quality(names: list[str], weights_NN, found: Partition) -> float:
    """Modularity of the first level."""
    homes = {member.name: member.cluster for member in found.members if member.level == 0}
    home_N = np.array([homes[name] for name in names])
    degree_N, total = np.asarray(weights_NN.sum(axis=1)).ravel(), weights_NN.sum()
    pairs = weights_NN.tocoo()
    inside = pairs.data[home_N[pairs.row] == home_N[pairs.col]].sum() / total
    return float(inside - (np.bincount(home_N, degree_N) ** 2).sum() / total**2)


def sets(found: Partition, level: int = 0) -> list[frozenset[str]]:
    held = defaultdict(set)
    for member in found.members:
        if member.level == level:
            held[member.cluster].add(member.name)
    return sorted(map(frozenset, held.values()), key=sorted)


def made(edges, before: Partition | None = None) -> Partition:
    return divide(*graph(edges), before or Partition(), "x", seed=0, largest=LARGEST)


EDIT = st.tuples(st.integers(0, 5), st.sampled_from(["more", "less", "new", "gone"]))


@given(st.integers(0, 2**32), st.lists(EDIT, min_size=1, max_size=6))
@settings(max_examples=30)
def test_after_edits_every_name_is_in_one_community_nearly_as_good_as_from_scratch(seed, edits) -> None:
    draw = np.random.default_rng(seed)
    edges = planted(6, 6, draw)
    found = made(edges)
    for block, what in edits:
        mine = [pair for pair in edges if pair[0].startswith(f"n{block:02}.")]
        if what == "more":
            edges[f"n{block:02}.0", f"n{(block + 1) % 6:02}.1"] = 3.0
        elif what == "new":
            edges |= {(f"n{block:02}.{i}", f"n{block:02}.x{len(edges)}"): 1.0 for i in range(3)}
        elif mine:
            edges.pop(mine[int(draw.integers(len(mine)))])
            if what == "gone":
                edges = {pair: w for pair, w in edges.items() if f"n{block:02}.3" not in pair}
        before, found = found, made(edges, found)
        names, weights_NN, signatures = graph(edges)
        assert sorted(name for held in sets(found) for name in held) == names
        tops = {member.cluster: member for member in found.members if member.level == 0}
        for member in found.members:
            assert member.signature == dict(zip(names, signatures, strict=True))[member.name]
            assert member.level == 0 or member.parent in {
                m.cluster for m in found.members if m.level == member.level - 1
            }
        assert len(tops) == len(sets(found))
        assert quality(names, weights_NN, found) >= 0.9 * quality(names, weights_NN, made(edges)) - 0.02
        told = dict(zip(names, signatures, strict=True))
        if found.moved > 0:  # else all were divided anew
            old = {m.name: m.signature for m in before.members if m.level == 0}
            same = [held for held in sets(before) if all(told.get(name) == old[name] for name in held)]
            assert all(sum(held <= now for held in same) <= 1 for now in sets(found))
            assert all(any(held <= now for now in sets(found)) for held in same)


def test_what_is_far_stays_as_it_is_on_every_level() -> None:
    edges = planted(12, 20, np.random.default_rng(3))
    before = made(edges)
    assert max(member.level for member in before.members) > 0
    edges["n00.0", "n00.new"] = 2.0
    after = made(edges, before)
    assert 0 < after.moved < AGAIN
    for level in range(2):
        far = [held for held in sets(before, level) if not any(name < "n02" for name in held)]
        assert far and set(far) <= set(sets(after, level))
    assert sum("n00.new" in held for held in sets(after)) == 1


def test_what_did_not_change_is_not_joined_and_a_new_name_goes_where_it_has_most_to_do() -> None:
    edges = planted(6, 8, np.random.default_rng(5))
    names, _, signatures = graph(edges)
    halves = {name: int(name[1:3]) if name[1:3] != "00" else 90 + int(name[-1]) % 2 for name in names}
    rows = [Member(0, halves[name], -1, sign, name) for name, sign in zip(names, signatures, strict=True)]
    before = Partition(tuple(sorted(rows)), "x", f"0/{LARGEST}")
    edges["n05.0", "n05.new"] = 1.0
    assert len([held for held in sets(made(edges)) if "n00.0" in held and "n00.1" in held]) == 1
    after = sets(made(edges, before))
    assert {held for held in sets(before) if "n00.0" in held or "n00.1" in held} <= set(after)
    assert any({"n05.0", "n05.new"} <= held for held in after)


def test_a_community_weighs_what_it_weighs_though_it_goes_in_as_one() -> None:
    """A large one draws a name less than its relations do (modularity), as where all are divided."""
    edges = {(f"a{j:02}", f"a{i:02}"): 3.0 for i in range(20) for j in range(i)}
    edges |= {(f"b{j}", f"b{i}"): 1.0 for i in range(5) for j in range(i)}
    edges |= {(f"c{j:02}", f"c{i:02}"): 3.0 for i in range(18) for j in range(i)}
    edges |= {("a00", "c00"): 0.1, ("b0", "c00"): 0.1}
    before = divide(*graph(edges), Partition(), "x", seed=0, largest=50)
    edges |= {("a01", "new"): 1.0, ("b1", "new"): 0.9}
    for found in (divide(*graph(edges), old, "x", seed=0, largest=50) for old in (before, Partition())):
        assert frozenset({"new", *(f"b{i}" for i in range(5))}) in sets(found)


def test_all_are_divided_anew_once_enough_was() -> None:
    edges = planted(8, 6, np.random.default_rng(1))
    found, times = made(edges), 0
    for turn in range(24):
        edges[f"n{turn % 8:02}.0", f"n{turn % 8:02}.y{turn}"] = 1.0
        found = made(edges, found)
        times += found.moved == 0
    assert 0 < times < 12


@pytest.mark.parametrize("damage", ["", "x", "a b c\n", "a b 0.1\n1\t2\t3\n", "a b 0.1\n1\t2\t3\tx\tname\n", "\udcff"])
def test_a_damaged_partition_is_none(tmp_path, damage: str) -> None:
    path = tmp_path / "partition.txt"
    path.write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert read_partition(path) == Partition()
    found = made(planted(4, 6, np.random.default_rng(0)))
    path.write_text(found.text)
    assert read_partition(path) == found
