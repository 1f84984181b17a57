"""Threads that share a runner: each gets what it would get alone, everybody's turn comes, and who leaves is gone."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_specs import needs_kernels

from openbook.errors import Fault
from openbook.lm.backends.native import NativeRunner
from openbook.lm.backends.runner import FEW, Part, Runner
from openbook.lm.backends.shared import Left, Seat, Shared
from openbook.lm.backends.wishes import Wish, choose
from openbook.lm.model import LanguageModel


@pytest.fixture(scope="module")
def native(tiny_model: LanguageModel) -> NativeRunner:
    weights = tiny_model.runner.decoder.state_dict().items()  # type: ignore[attr-defined]
    return NativeRunner(tiny_model.spec, weights, precision="fp32", threads=1)


WISHES = st.lists(st.tuples(st.integers(0, 12), st.sampled_from([1, 2, FEW - 1, FEW, 40, 512])), max_size=12)


@given(WISHES, st.integers(1, 20), st.sampled_from([16, 512]))
@settings(max_examples=200)
def test_who_is_in_the_next_forward(wishes: list[tuple[int, int]], rows: int, chunk: int) -> None:
    """Rows 0: a call. The first is always in; what is read never delays who writes by more than a chunk."""
    waiting = [
        Wish(None, call=list) if not count else Wish(None, Part(torch.zeros(count, width)))  # type: ignore[arg-type]
        for count, width in wishes
    ]
    chosen = choose(waiting, rows, chunk)
    assert bool(chosen) == bool(waiting) and (not waiting or chosen[0] is waiting[0])
    assert [wish for wish in waiting if wish in chosen] == chosen  # in the order in which they came
    if waiting and waiting[0].part is None:
        assert chosen == waiting[:1]
        return
    writers, readers = ([w for w in chosen if few == (w.width < FEW)] for few in (True, False))
    assert len(writers) <= 1 or sum(w.rows for w in writers) <= rows
    assert len(readers) <= 1 or sum(w.rows * w.width for w in readers) <= chunk
    asked = [wish for wish in waiting if wish.part is not None and wish.width < FEW]
    if sum(wish.rows for wish in asked) <= rows:
        assert writers == asked


def texts(draw: Any) -> list[tuple[list[int], list[int]]]:
    """Of each thread: a text to begin with, and how many tokens it reads at each of its next steps."""
    steps = st.lists(st.sampled_from([1, 1, 1, 2, FEW - 1, FEW, 30]), min_size=1, max_size=6)
    begun = st.lists(st.integers(0, 255), min_size=1, max_size=60)
    return draw(st.lists(st.tuples(begun, steps), min_size=1, max_size=6))


def goes_on(runner: Runner, text: list[int], steps: list[int]) -> list[torch.Tensor]:
    """Everything that a text's forwards give, each reading what the one before makes likeliest."""
    cache = runner.cache([runner.prefill(text)], sum(steps) + 1)
    made, token = [], text[-1]
    for count in steps:
        scores_1tV = runner.forward(torch.full((1, count), token), cache)
        made.append(scores_1tV)
        token = int(scores_1tV[0, -1].argmax())
    made.append(runner.read(torch.tensor([[token]]), cache))
    return made


def side_by_side(work: list[Callable[[], Any]]) -> list[Any]:
    """What each gives, on a thread of its own; an exception as itself."""
    found: list[Any] = [None] * len(work)

    def one(i: int) -> None:
        try:
            found[i] = work[i]()
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def seated(shared: Shared, work: Callable[[Seat], Any]) -> Callable[[], Any]:
    def at_a_seat() -> Any:
        with shared.seat() as seat:
            return work(seat)

    return at_a_seat


@needs_kernels
@given(st.data(), st.sampled_from([0.0, 0.003]), st.sampled_from([1, 4, 256]))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_company_as_alone(native: NativeRunner, data: st.DataObject, patience: float, rows: int) -> None:
    drawn = texts(data.draw)
    shared = Shared(native, rows=rows, chunk=64, patience=patience)
    works = [seated(shared, lambda seat, t=text, s=steps: goes_on(seat, t, s)) for text, steps in drawn]
    for (text, steps), found in zip(drawn, side_by_side(works), strict=True):
        assert all(map(torch.equal, found, goes_on(native, text, steps)))


def test_torch_is_asked_for_one_thing_after_the_other(tiny_model: LanguageModel) -> None:
    shared, steps = Shared(tiny_model.runner), [1, 3, 20, 1]
    drawn = [[1, 2, 3], [7] * 30, [250, 4]]
    works = [seated(shared, lambda seat, t=text: goes_on(seat, t, steps)) for text in drawn]
    for text, found in zip(drawn, side_by_side(works), strict=True):
        assert all(map(torch.equal, found, goes_on(tiny_model.runner, text, steps)))
    assert shared.stats()["steps"] == shared.stats()["parts"]


@needs_kernels
def test_what_one_does_wrong_is_told_to_it_alone(native: NativeRunner) -> None:
    shared, barrier = Shared(native), threading.Barrier(3)

    def right(seat: Seat) -> list[torch.Tensor]:
        barrier.wait()
        return goes_on(seat, [1, 2, 3], [1, 1, 1, 1])

    def wrong(seat: Seat) -> None:
        barrier.wait()
        seat.forward(torch.tensor([[10_000]]))

    one, other, error = side_by_side([seated(shared, work) for work in (right, right, wrong)])
    assert isinstance(error, Fault) and "vocabulary" in str(error)
    assert all(map(torch.equal, one, other)) and all(map(torch.equal, one, goes_on(native, [1, 2, 3], [1] * 4)))
    with shared.seat() as seat, pytest.raises(Fault, match="vocabulary"):
        seat.hidden(torch.tensor([[10_000]]))


class Held:
    """A runner whose forwards wait until they are let go."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.begun, self.go = runner, threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def together(self, parts: Any) -> Any:
        self.begun.set()
        self.go.wait()
        return self.runner.together(parts)


@needs_kernels
def test_who_leaves_while_it_waits_is_gone_at_once_and_its_cache_is_as_it_was(native: NativeRunner) -> None:
    held = Held(native)
    shared = Shared(held)  # type: ignore[arg-type]
    cache = native.cache([native.prefill([5, 6, 7])], 4)
    seats = [shared.seat(), shared.seat()]
    token = torch.tensor([[9]])
    first = threading.Thread(target=lambda: seats[0].forward(token))
    first.start()
    held.begun.wait()
    raised: list[BaseException] = []

    def second() -> None:
        try:
            seats[1].forward(token, cache)
        except Left as error:
            raised.append(error)

    waits = threading.Thread(target=second)
    waits.start()
    while seats[1].wish is None:
        pass
    seats[1].leave()
    waits.join()  # though the forward of the first still goes on
    assert raised and not held.go.is_set() and cache.next_positions_B.tolist() == [3]
    held.go.set()
    first.join()
    with pytest.raises(Left):
        seats[1].forward(token, cache)
    for seat in seats:
        seat.__exit__()
    with shared.seat() as seat:  # and the next finds a collector, though the last had gone
        assert torch.equal(
            seat.forward(token, cache), native.forward(token, native.cache([native.prefill([5, 6, 7])], 4))
        )


@needs_kernels
def test_what_is_no_batch_is_refused_to_who_asks_and_the_others_go_on(native: NativeRunner) -> None:
    shared = Shared(native)
    with shared.seat() as seat, pytest.raises(ValueError, match="values"):
        seat.forward(torch.tensor([1, 2]))
    with shared.seat() as seat:
        assert torch.equal(seat.forward(torch.tensor([[1, 2]])), native.forward(torch.tensor([[1, 2]])))


@pytest.mark.parametrize("fails", [False, True])
def test_a_seat_that_was_left_holds_nothing(tiny_model: LanguageModel, fails: bool) -> None:
    shared = Shared(tiny_model.runner)
    with shared.seat() as seat:
        cache, collector = seat.cache([None], 1), shared._collector
        assert collector is not None
        there = weakref.ref(cache)
        with pytest.raises(RuntimeError) if fails else nullcontext():
            seat.forward(torch.zeros(2 if fails else 1, 1, dtype=torch.long), cache)
        del cache
    collector.join(60)
    seat.leave()  # as who asked does when all is over
    gc.collect()
    assert there() is None and shared._arrivals.empty()
