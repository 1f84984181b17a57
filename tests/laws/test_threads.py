"""Torch's threads rest while a native model serves, and nobody outside notices."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
import torch

from openbook.lm.backends.threads import each_within, threads, torch_rests


@pytest.fixture(autouse=True)
def three() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_torch_has_one_thread_within_and_its_own_after() -> None:
    assert threads() == 3
    with torch_rests():
        assert (torch.get_num_threads(), threads()) == (1, 3)
        with torch_rests():
            assert (torch.get_num_threads(), threads()) == (1, 3)
        assert (torch.get_num_threads(), threads()) == (1, 3)
    assert (torch.get_num_threads(), threads()) == (3, 3)
    with pytest.raises(KeyError), torch_rests():
        raise KeyError
    assert (torch.get_num_threads(), threads()) == (3, 3)


def counting(seen: list[int]) -> Generator[int, None, str]:
    try:
        for i in range(3):
            seen.append(torch.get_num_threads())
            yield i
        return "all"
    finally:
        seen.append(-torch.get_num_threads())


def test_the_steps_of_a_generator_are_within_and_its_caller_is_not() -> None:
    seen: list[int] = []
    steps = each_within(torch_rests, counting(seen))
    for i in range(3):
        assert next(steps) == i
        assert torch.get_num_threads() == 3
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == "all" and seen == [1, 1, 1, -1]


def test_a_generator_that_nobody_wants_to_the_end_is_closed_within() -> None:
    seen: list[int] = []
    steps = each_within(torch_rests, counting(seen))
    next(steps)
    steps.close()
    assert seen == [1, -1] and torch.get_num_threads() == 3


def test_a_fault_within_comes_out_and_leaves_the_context() -> None:
    entered: list[str] = []

    @contextmanager
    def noted() -> Iterator[None]:
        entered.append("in")
        try:
            yield
        finally:
            entered.append("out")

    def failing() -> Generator[int, None, None]:
        yield 1
        raise KeyError("no")

    steps = each_within(noted, failing())
    next(steps)
    with pytest.raises(KeyError):
        next(steps)
    assert entered.count("in") == entered.count("out") >= 2
