"""Requests on an engine: let in by their rows, first come first served, cancelled at once, drained."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest
import torch

from openbook.errors import Fault
from openbook.lm.model import LanguageModel
from openbook.serve.engine import Busy, Cancelled, Engine, Run, Work


def writing(text: Sequence[int], count: int) -> Work:
    """Greedy tokens after a text; the answer is their list."""

    def work(model: LanguageModel) -> Generator[int, None, list[int]]:
        runner, written = model.runner, []
        cache = runner.cache([runner.prefill(text[:-1])], count)
        token = text[-1]
        for _ in range(count):
            token = int(runner.forward(torch.tensor([[token]]), cache)[0, -1].argmax())
            written.append(token)
            yield token
        return written

    return work


async def all_of(run: Run) -> tuple[list[Any], Any]:
    return [token async for token in run], await run.answer()


TEXTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3, 2]]


def alone(model: LanguageModel, work: Work) -> list[Any]:
    return list(work(model))


def test_requests_beside_each_other_write_what_each_writes_alone(tiny_model: LanguageModel) -> None:
    works = [writing(text, 12) for text in TEXTS]

    async def together() -> list[tuple[list[Any], Any]]:
        engine = Engine(tiny_model, rows=2)
        found = await asyncio.gather(*(all_of(engine.start(work, rows=1)) for work in works))
        stats = engine.stats()
        assert stats["tokens"] == 36 and stats["running"] == stats["waiting"] == stats["rows"] == 0
        assert sum(stats["first_token"]["counts"]) == stats["requests"] == 3
        return found

    for work, (tokens, answer) in zip(works, asyncio.run(together()), strict=True):
        assert tokens == answer == alone(tiny_model, work)


def test_a_last_token_that_comes_as_one_looks_is_not_lost(tiny_model: LanguageModel) -> None:
    class Racing(deque[int]):
        """Empty when it is looked at; just then the work's thread writes its last token and ends."""

        def __bool__(self) -> bool:
            if run is not None and not run._over:
                self.append(7)
                run.finish(None)
                return False
            return len(self) > 0

    async def ends() -> list[int]:
        nonlocal run
        engine = Engine(tiny_model, rows=1)
        waiting = engine.start(endless([]), rows=1), engine.start(endless([]), rows=1)
        run = waiting[1]
        run._tokens = Racing()
        found = [token async for token in run]
        for each in waiting:
            each.cancel()
        return found

    run: Run | None = None
    assert asyncio.run(ends()) == [7]


def test_what_the_work_raises_is_raised_to_who_asked(tiny_model: LanguageModel) -> None:
    def faulty(model: LanguageModel) -> Generator[int, None, None]:
        yield 1
        raise Fault("no such thing")

    async def asked() -> None:
        run = Engine(tiny_model).start(faulty)
        assert [token async for token in run] == [1]
        with pytest.raises(Fault, match="no such thing"):
            await run.answer()

    asyncio.run(asked())


def endless(closed: list[str], stuck: Callable[[LanguageModel], object] | None = None) -> Work:
    """Writes until it is stopped, or reads a text again and again without a token."""

    def work(model: LanguageModel) -> Generator[int, None, None]:
        try:
            while True:
                if stuck is None:
                    model.runner.forward(torch.tensor([[1]]))
                    yield 1
                else:
                    stuck(model)
        finally:
            closed.append("closed")

    return work


@pytest.mark.parametrize("stuck", [None, lambda model: model.runner.prefill([1, 2, 3])])
def test_a_cancelled_request_stops_and_lets_the_next_in(tiny_model: LanguageModel, stuck: Any) -> None:
    async def cancelled() -> None:
        engine, closed = Engine(tiny_model, rows=2), []
        first = engine.start(endless(closed, stuck), rows=2)
        second = engine.start(writing(TEXTS[0], 3), rows=1)
        assert (first.place, second.place) == (0, 1)
        first.cancel()
        with pytest.raises(Cancelled):
            await first.answer()
        assert (await second.answer()) == alone(tiny_model, writing(TEXTS[0], 3))
        assert closed == ["closed"]

    asyncio.run(cancelled())


def test_a_full_queue_refuses_and_waiting_requests_can_leave_it(tiny_model: LanguageModel) -> None:
    async def full() -> None:
        engine, closed = Engine(tiny_model, rows=1, queue=2), []
        running = engine.start(endless(closed), rows=1)
        waiting = [engine.start(endless(closed), rows=1) for _ in range(2)]
        with pytest.raises(Busy):
            engine.start(endless(closed), rows=1)
        assert [run.place for run in waiting] == [1, 2] and engine.stats()["refused"] == 1
        waiting[0].cancel()
        with pytest.raises(Cancelled):
            await waiting[0].answer()
        assert waiting[1].place == 1
        running.cancel()
        assert await anext(waiting[1]) == 1
        waiting[1].cancel()
        with pytest.raises(Cancelled):
            await waiting[1].answer()

    asyncio.run(full())


def test_a_wide_request_waits_for_room_and_one_wider_than_all_runs_alone(tiny_model: LanguageModel) -> None:
    async def wide() -> None:
        engine, closed = Engine(tiny_model, rows=3), []
        narrow = engine.start(endless(closed), rows=1)
        wider = engine.start(endless(closed), rows=9)
        after = engine.start(endless(closed), rows=1)  # would fit, but came later
        assert [run.place for run in (narrow, wider, after)] == [0, 1, 2]
        narrow.cancel()
        assert await anext(wider) == 1 and after.place == 1
        wider.cancel()
        assert await anext(after) == 1
        after.cancel()
        with pytest.raises(Cancelled):
            await after.answer()

    asyncio.run(wide())


def test_draining_finishes_what_runs_and_lets_nobody_in(tiny_model: LanguageModel) -> None:
    async def drained() -> None:
        engine, closed = Engine(tiny_model, rows=1), []
        short, stuck = engine.start(writing(TEXTS[0], 3), rows=1), engine.start(endless(closed), rows=1)
        assert await engine.drain(0.5) == 1
        assert await short.answer() == alone(tiny_model, writing(TEXTS[0], 3))
        with pytest.raises(Cancelled):
            await stuck.answer()
        with pytest.raises(Cancelled):
            engine.start(endless(closed))

    asyncio.run(drained())
