"""Many requests over one model: a thread each for the thinking between forwards, and forwards that they share.

Writing an answer is a blocking generator (`openbook.answer.ask.tokens_of`, `openbook.lm.decoding.generate`): it reads,
mixes, chooses, yields a token. Here each runs unchanged on a thread of its own, with a model whose runner is a seat at
a table (`openbook.lm.backends.shared`): what several of them want read at once is read in one forward. Their tokens go
over to the event loop that asked.

    engine = Engine(model, rows=192, queue=32)
    run = engine.start(lambda model: tokens_of(reader_of(model), question), rows=6)
    async for token in run:
        ...
    answer = await run.answer()

A request is let in when the rows that write it fit beside those that are running, first come, first served.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import Any

from openbook.errors import Fault
from openbook.lm.backends.shared import Left, Seat, Shared
from openbook.lm.backends.threads import serving, threads
from openbook.lm.model import LanguageModel
from openbook.serve.meter import Meter

Work = Callable[[LanguageModel], Generator[Any, None, Any]]
"""What a request does with the model it is handed: a generator that yields tokens and returns the answer."""


class Aside:
    """What a request yields beside its tokens: handed over as they are, and not counted."""


LAST = 10.0
"""Seconds that cancelled requests are waited for where the engine closes."""


class Busy(Fault):
    """As many requests wait as may wait. Over HTTP: 429."""


class Cancelled(Exception):
    """What `Run.answer` raises after `Run.cancel`, and `Engine.start` after `Engine.drain`. Over HTTP: 503."""


class Run:
    """One request on its way: an asynchronous iterator over its tokens. Made by `Engine.start`, on its event loop."""

    def __init__(self, engine: Engine, work: Work, rows: int) -> None:
        self.rows = rows
        self._engine, self._work = engine, work
        self.loop = asyncio.get_running_loop()
        self._tokens: deque[Any] = deque()
        self._wake = asyncio.Event()
        self._over = self._cancelled = False
        self._answer: Any = None
        self._error: BaseException | None = None
        self._began = time.perf_counter()
        self._first: float | None = None
        self.seat: Seat | None = None

    @property
    def place(self) -> int:
        """How many requests are let in before this one; 0 once it runs."""
        return self._engine.place_of(self)

    def __aiter__(self) -> Run:
        return self

    async def __anext__(self) -> Any:
        """The next token. Ends where the work ended, however it did: `answer` says."""
        while True:
            over = self._over  # looked at first: what was written before the end is among the tokens by then
            if self._tokens:
                return self._tokens.popleft()
            if over:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()

    async def answer(self) -> Any:
        """What the work returned, once it is done; raises what it raised, `Cancelled` if it was cancelled."""
        while not self._over:
            self._wake.clear()
            await self._wake.wait()
        if self._error is not None:
            raise self._error
        return self._answer

    def cancel(self) -> None:
        """Nobody wants it any more: it leaves the queue at once, or its rows leave the next forward."""
        self._cancelled = True
        if self._engine.forgets(self):
            self.finish(Cancelled("the request was cancelled while it waited"))
        elif self.seat is not None:
            self.seat.leave()

    def live(self, model: LanguageModel) -> BaseException | None:
        """The request's work, on its thread; returns what went wrong."""
        error: BaseException | None = None
        try:
            if not self._cancelled:
                self._write(self._work(model))
        except BaseException as raised:
            error = raised
        if self._cancelled and (error is None or isinstance(error, Left)):
            error = Cancelled("the request was cancelled")
        return error

    def finish(self, error: BaseException | None) -> None:
        """Nothing comes any more."""
        self._error, self._over = error, True
        self._engine.tells(self)
        self._engine.tell()  # there may be no forward any more

    def _write(self, tokens: Generator[Any, None, Any]) -> None:
        try:
            while not self._cancelled:
                try:
                    token = next(tokens)
                except StopIteration as end:
                    self._answer = end.value
                    return
                if not isinstance(token, Aside):
                    self._count()
                self._tokens.append(token)
                self._engine.tells(self)
        finally:
            tokens.close()

    def _count(self) -> None:
        if self._first is None:
            self._first = time.perf_counter() - self._began
            self._engine.meter.first(self._first)
        self._engine.meter.tokens += 1

    def hear(self) -> None:
        """Something was written: wake who awaits it. On its event loop."""
        self._wake.set()

    def unheard(self) -> None:
        """Nobody listens any more: what is written next is the last."""
        self._cancelled = True


def _hear(runs: Iterable[Run]) -> None:
    for run in runs:
        run.hear()


class Engine:
    """One model, its table of seats, and the requests at it. To be used from one event loop.

    `rows` bounds the rows (branches) that are running together, `queue` the requests that wait for their turn.
    """

    def __init__(self, model: LanguageModel, rows: int = 192, queue: int = 32) -> None:
        self.model, self.rows, self.queue = model, rows, queue
        self.shared = Shared(model.runner, before=self.tell)
        self.meter = Meter()
        self._cores = threads()
        self._lock = threading.Lock()
        self._waiting: deque[Run] = deque()
        self._running: set[Run] = set()
        self._draining = False
        self._news: deque[Run] = deque()

    def start(self, work: Work, rows: int = 6) -> Run:
        """Let a request in, now or when its turn comes.

        `rows`: the branches that write it; while a question is read under all that was found, there are more of them.
        Raises `Busy` where the queue is full, `Cancelled` after `drain`.
        """
        with self._lock:
            if self._draining:
                raise Cancelled("the engine is closing")
            if len(self._waiting) >= self.queue and not self._fits(rows):
                self.meter.refused += 1
                raise Busy(f"{len(self._waiting)} requests wait already; ask again in a moment")
            run = Run(self, work, rows)
            self._waiting.append(run)
            self.meter.requests += 1
        self._let_in()
        return run

    def stats(self) -> dict[str, Any]:
        """Counts of now (waiting, running, rows) and since the beginning (steps, tokens, requests, refused, seconds to
        the first token as a histogram)."""
        with self._lock:
            now = {"waiting": len(self._waiting), "running": len(self._running), "rows": self._rows()}
        return {**now, **self.meter.summary(), **self.shared.stats()}

    async def drain(self, seconds: float) -> int:
        """Let nobody in any more; wait for those at work and those waiting, then cancel the rest: returns how many.

        Those have `LAST` seconds to hear of it: whoever is deep in something that asks for no forward is left to it."""
        with self._lock:
            self._draining = True
        until = time.monotonic() + seconds
        while (left := self._all()) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for run in left:
            run.cancel()
        until = time.monotonic() + LAST
        while self._all() and time.monotonic() < until:
            await asyncio.sleep(0.02)
        return len(left)

    def tells(self, run: Run) -> None:
        """A run has written something; who awaits it hears of that with the next forward."""
        self._news.append(run)

    def tell(self) -> None:
        """Wake who awaits the runs that have written something.

        Called where a forward begins: the event loop then needs Python's lock while nobody else does, and not while
        threads think, whom all others wait for."""
        heard = set()
        while self._news:
            with suppress(IndexError):  # another thread was quicker
                heard.add(self._news.popleft())
        if not heard:
            return
        try:
            next(iter(heard)).loop.call_soon_threadsafe(_hear, heard)
        except RuntimeError:  # the loop is closed: nobody listens
            for run in heard:
                run.unheard()

    def place_of(self, run: Run) -> int:
        """See `Run.place`."""
        with self._lock:
            return self._waiting.index(run) + 1 if run in self._waiting else 0

    def forgets(self, run: Run) -> bool:
        """Take a run out of the queue; False if it is not there."""
        with self._lock:
            if run not in self._waiting:
                return False
            self._waiting.remove(run)
        self._let_in()
        return True

    def _all(self) -> list[Run]:
        with self._lock:
            return [*self._waiting, *self._running]

    def _rows(self) -> int:
        return sum(run.rows for run in self._running)

    def _fits(self, rows: int) -> bool:
        return not self._waiting and (not self._running or self._rows() + rows <= self.rows)

    def _let_in(self) -> None:
        """Start those whose turn it is."""
        while True:
            with self._lock:
                if not self._waiting:
                    return
                run = self._waiting[0]
                if self._running and self._rows() + run.rows > self.rows:
                    return
                self._waiting.popleft()
                self._running.add(run)
                run.seat = seat = self.shared.seat()
            threading.Thread(target=self._serve, args=(run, seat), name="openbook request", daemon=True).start()

    def _serve(self, run: Run, seat: Seat) -> None:
        with serving(self._cores), seat:
            error = run.live(self.model.at(seat))
        with self._lock:  # who hears that it is over finds its rows free
            self._running.discard(run)
        self._let_in()
        run.finish(error)
