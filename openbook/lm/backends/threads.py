"""Whose the processor's cores are, while a backend with threads of its own computes.

After each of its parallel loops torch's threads (OpenMP's) look out for the next one for some milliseconds. A step of a
native model that begins meanwhile finds a core taken: it was half as fast. So while a native model serves, torch
computes on the one thread that called it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeVar, cast

import torch

T = TypeVar("T")
R = TypeVar("R")

_meant: ContextVar[int | None] = ContextVar("threads that computations were meant to have", default=None)


def threads() -> int:
    """How many threads computations are to use: torch's number, and within `torch_rests` what it was before."""
    return _meant.get() or torch.get_num_threads()


@contextmanager
def torch_rests() -> Iterator[None]:
    """Within, torch computes on the calling thread alone. It costs less than a microsecond; it may be nested."""
    if _meant.get() is not None:
        yield
        return
    count = torch.get_num_threads()
    token = _meant.set(count)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(count)
        _meant.reset(token)


@contextmanager
def serving(cores: int, own: int = 1) -> Iterator[None]:
    """For a thread that serves all its life, beside others: within, torch computes on it alone, or on `own` threads,
    and what goes to the backend's threads has `cores`. A new thread cannot ask torch: it would hear what another has
    just set."""
    token = _meant.set(cores)
    torch.set_num_threads(own)
    try:
        yield
    finally:
        _meant.reset(token)


def each_within(
    context: Callable[[], AbstractContextManager[None]], steps: Generator[T, None, R]
) -> Generator[T, None, R]:
    """The same generator, with each of its steps within a context and nothing of its caller's."""
    try:
        while True:
            with context():
                try:
                    item = next(steps)
                except StopIteration as end:
                    return cast("R", end.value)
            yield item
    finally:
        with context():
            steps.close()
