"""Ways and passages found directly, in one list: a question that one passage answers does not lose it to a walk."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from openbook.book.graph.walk import TURNS, TURNS_ANSWERED, Way, woven

SCORES = st.floats(0, 2)


def listed(low, high, least):
    pair = st.tuples(st.integers(low, high), SCORES)
    return st.lists(pair, min_size=least, max_size=12, unique_by=lambda each: each[0])


@st.composite
def lists(draw):
    """Ways as a walk gives them, best first, each to a passage of its own; the passages it began with among them."""
    first = draw(listed(0, 20, 1))
    first.sort(key=lambda each: (-each[1], each[0]))
    more = draw(listed(21, 40, 0))
    ways = [Way((p,), (), s) for p, s in first] + [Way((first[0][0], p), (7,), s) for p, s in more]
    return sorted(ways, key=lambda way: (-way.score, way.passages)), first


@given(lists(), st.booleans(), st.integers(1, 30))
def test_each_passage_once_and_scores_that_fall(drawn, answered, k):
    ways, first = drawn
    order = woven(ways, first, answered, k)
    reached = [way.passages[-1] for way in order]
    assert len(order) == min(k, len(ways)) and len(set(reached)) == len(reached)
    assert set(reached) <= {way.passages[-1] for way in ways}
    scores = np.array([way.score for way in order])
    assert (np.diff(scores) < 0).all()
    own = {way.passages[-1]: way.score for way in ways}
    assert all(way.score >= own[way.passages[-1]] for way in order)


@given(lists(), st.booleans())
def test_the_best_direct_passages_keep_their_places(drawn, answered):
    ways, first = drawn
    order = [way.passages[-1] for way in woven(ways, first, answered, len(ways))]
    for n, (passage, _) in enumerate(first[:3]):
        turns = TURNS_ANSWERED if answered else TURNS
        place = [at for at, turn in enumerate(turns) if turn == "D"][n]
        assert order.index(passage) <= place
    best = [way.passages[-1] for way in ways if way.passages[-1] != first[0][0]]
    if not answered and best:
        assert order[1] == best[0]


def test_without_ways_the_list_is_the_direct_one():
    first = [(3, 0.9), (1, 0.9), (2, 0.1)]
    assert [way.passages for way in woven([], first, False, 10)] == [(3,), (1,), (2,)]
