"""Runs of the engine as one stream of events, under a time limit, and no longer than anybody listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from openbook.serve.engine import Cancelled, Run
from openbook.serve.errors import Refused, refusal

T = TypeVar("T")
QUIET_SECONDS = 1.0
"""After so long without a token the one who waits is told what for."""


@dataclass(frozen=True)
class Ended:
    """A run's end: its answer, or what went wrong."""

    answer: Any
    error: BaseException | None = None


@dataclass(frozen=True)
class Quiet:
    """Nothing came for a while."""


async def events(runs: Sequence[Run], seconds: float) -> AsyncIterator[tuple[int, Any]]:
    """What each run writes, as it is written: its place and a token, in the end `Ended`; `Quiet` (place −1) meanwhile.

    Whoever stops listening ends the runs. After so many seconds they end with a `TimeoutError`.
    """
    arrived: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
    pumps = [asyncio.create_task(_pump(place, run, arrived)) for place, run in enumerate(runs)]
    until, left = time.monotonic() + seconds, set(range(len(runs)))
    try:
        while left:
            if (spare := until - time.monotonic()) <= 0:
                for place in sorted(left):
                    yield place, Ended(None, TimeoutError())
                return
            try:
                async with asyncio.timeout(min(spare, QUIET_SECONDS)):  # `wait_for` would make a task each time
                    place, event = await arrived.get()
            except TimeoutError:
                yield -1, Quiet()
                continue
            if isinstance(event, Ended):
                left.discard(place)
            yield place, event
    finally:
        for run in runs:
            run.cancel()
        for pump in pumps:
            pump.cancel()


async def _pump(place: int, run: Run, arrived: asyncio.Queue[tuple[int, Any]]) -> None:
    try:
        async for event in run:
            arrived.put_nowait((place, event))
        arrived.put_nowait((place, Ended(await run.answer())))
    except Exception as error:
        arrived.put_nowait((place, Ended(None, error)))


async def answers(request: Request, runs: Sequence[Run], seconds: float) -> list[Any]:
    """The runs' answers, once all are there; ends them where the client goes away (`Refused`, 499) or time is up."""
    try:
        async with asyncio.timeout(seconds):
            return await unless_gone(request, asyncio.gather(*(run.answer() for run in runs)))
    finally:
        for run in runs:
            run.cancel()


async def unless_gone(request: Request, wanted: Awaitable[T]) -> T:
    """What is awaited, unless its client goes away first."""
    work = asyncio.ensure_future(wanted)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise Refused(499, "the client went away")
    except Cancelled as error:
        raise refusal(error) from error
    finally:
        for task in (work, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
