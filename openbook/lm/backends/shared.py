"""One runner for many threads: what they want read at the same time is read in one forward (continuous batching).

Each thread has a seat, which is a `Runner`: code that reads, thinks and reads again runs on it unchanged. Behind the
seats one collector goes round:

1. It takes what is asked for: every text that is being written (a few tokens a row), and of long texts that are being
   read no more than a chunk's tokens, those that have waited longest first. So a long prompt delays who is writing by
   one chunk and no more, and who has just come reads along with who was there before: nobody waits for a batch to end.
2. It runs all of that as one forward (`Runner.together`): the weights are read once, and where `batch_invariant`, no
   number of one text depends on the others.
3. It hands the first its result; who comes back with its next request wakes the next: threads that think one after the
   other do not fight for Python's lock, and one waking a turn is all that it takes. Who thinks for longer than
   `patience` is not waited for; it joins the forward after.

A runner whose numbers depend on the batch, or which keeps something of its own (torch's), is asked for one thing after
the other, so an answer is the same in company as alone there too.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from openbook.lm.backends.runner import CHUNK, FEW, Hidden, Part, Runner
from openbook.lm.backends.threads import serving, threads
from openbook.lm.backends.wishes import Wish, choose
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import make_cache
from openbook.lm.cache.prefixes import Prefix

ROWS = 256
"""Rows that are written in one forward."""
PATIENCE = 0.003
"""Seconds that a thread may think before the others go on without it."""


class Left(Exception):
    """Raised in the thread whose seat was left, at its next forward."""


class Shared:
    """A runner that several threads use, each from a seat of its own. `before` is called where a forward begins."""

    def __init__(
        self,
        runner: Runner,
        *,
        rows: int = ROWS,
        chunk: int = CHUNK,
        patience: float = PATIENCE,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self.runner, self.rows, self.chunk, self.patience, self.before = runner, rows, chunk, patience, before
        self.joins = runner.batch_invariant
        self.steps = self.parts = self.crowd = 0
        self._cores = threads()
        self._lock = threading.Lock()
        self._seats = 0
        self._collector: threading.Thread | None = None
        self._arrivals: SimpleQueue[Wish | Seat | None] = SimpleQueue()
        self._done: deque[Wish] = deque()  # fulfilled, and not handed back yet

    def seat(self) -> Seat:
        """A seat for one thread, which must leave it in the end (`with`)."""
        with self._lock:
            self._seats += 1
            if self._collector is None:  # it ends when the last has left
                self._collector = threading.Thread(target=self._serve, name="openbook forwards", daemon=True)
                self._collector.start()
        return Seat(self)

    def stats(self) -> dict[str, Any]:
        """Forwards so far (`steps`), and what was asked for in them (`parts`)."""
        return {"steps": self.steps, "parts": self.parts}

    def ask(self, wish: Wish) -> Any:
        """Have a wish fulfilled; called by its seat's thread, which waits."""
        self._arrivals.put(wish)
        self._hand_back()  # it is the next one's turn to think
        wish.ready.acquire()  # until the collector gives it back
        made, error = wish.made, wish.error
        wish.made = wish.error = wish.part = wish.call = None  # nothing of it is kept here
        if error is not None:
            raise error
        return made

    def stand_up(self, seat: Seat) -> None:
        """Its thread asks for nothing more, and what it is asking for is not to be begun."""
        with self._lock:
            wish = seat.wish
            if wish is not None and not wish.taken:
                wish.taken = True
                wish.error = Left("this seat was left")
                wish.ready.release()
        self._arrivals.put(seat)

    def gone(self) -> None:
        """A seat's thread is over."""
        with self._lock:
            self._seats -= 1
        self._arrivals.put(None)  # the collector looks whether anybody is left

    def _serve(self) -> None:
        """The collector's life: until no seat is taken."""
        waiting: list[Wish] = []
        with serving(self._cores, own=1 if self.joins else self._cores):  # torch's numbers depend on that too
            while True:
                if not waiting and not self._more(waiting):
                    return
                self._run(self._chosen(waiting), waiting)

    def _more(self, waiting: list[Wish]) -> bool:
        """Wait for somebody to ask; False if nobody is left who could."""
        while not waiting:
            with self._lock:
                if not self._seats and self._arrivals.empty():
                    self._collector = None
                    return False
            self._heard(self._arrivals.get(), waiting)
        return True

    @staticmethod
    def _heard(arrival: Wish | Seat | None, waiting: list[Wish]) -> Seat | None:
        """Whose arrival it was."""
        if not isinstance(arrival, Wish):
            return arrival
        waiting.append(arrival)
        return arrival.seat

    def _chosen(self, waiting: list[Wish]) -> list[Wish]:
        """Take the next forward's wishes out of those that wait, which stand in the order in which they came."""
        while not self._arrivals.empty():
            self._heard(self._arrivals.get(), waiting)
        with self._lock:
            waiting[:] = [wish for wish in waiting if not wish.taken]  # others' seats were left
            chosen = choose(waiting, self.rows, self.chunk)
            for wish in chosen:
                wish.taken = True
        taken = set(map(id, chosen))
        waiting[:] = [wish for wish in waiting if id(wish) not in taken]
        return chosen

    def _run(self, wishes: list[Wish], waiting: list[Wish]) -> None:
        if not wishes:
            return
        self.steps += 1
        self.parts += len(wishes)
        self.crowd = sum(wish.rows for wish in wishes if wish.width < FEW)
        self.before()
        if wishes[0].call is not None:
            try:
                wishes[0].made = wishes[0].call()
            except Exception as error:
                wishes[0].error = error
        else:
            for wish, made in zip(wishes, self._together(wishes), strict=True):
                if isinstance(made, Exception):
                    wish.error = made
                else:
                    wish.made = made
        self._done.extend(wishes)
        self._await({wish.seat for wish in wishes}, waiting)

    def _together(self, wishes: Sequence[Wish]) -> Sequence[Tensor | Exception]:
        parts = [wish.part for wish in wishes if wish.part is not None]
        try:
            return self.runner.together(parts)
        except Exception as error:  # nobody is to wait for ever
            return [error] * len(parts)

    def _hand_back(self) -> bool:
        """Wake the next thread whose wish is done; False if there is none."""
        try:
            self._done.popleft().ready.release()
        except IndexError:
            return False
        return True

    def _await(self, seats: set[Seat], waiting: list[Wish]) -> None:
        """Let threads think, until each has asked again or left; no longer than `patience` after the one before."""
        self._hand_back()
        while seats or self._done:
            try:
                arrival = self._arrivals.get(timeout=self.patience)
            except Empty:
                if not self._hand_back():
                    return
                continue
            if arrival is not None and not isinstance(arrival, Wish):  # who leaves wakes nobody
                self._hand_back()
            seats.discard(self._heard(arrival, waiting))


class Seat:
    """A `Runner`, for one thread at a table (`Shared`). `beside`: rows of others in the forward before this."""

    def __init__(self, shared: Shared) -> None:
        self._shared, runner = shared, shared.runner
        self.spec, self.dtype, self.device, self.caching = runner.spec, runner.dtype, runner.device, runner.caching
        self.batch_invariant = runner.batch_invariant
        self.wish: Wish | None = None
        self._left = False
        self._rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared.runner, name)  # what a backend says besides: its arithmetic

    def __enter__(self) -> Seat:
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        self._shared.stand_up(self)
        self._shared.gone()

    @property
    def beside(self) -> int:
        """Rows that others write in the same forwards, as of the last one."""
        return max(0, self._shared.crowd - self._rows)

    def leave(self) -> None:
        """From any thread: what this seat asks for raises `Left`, now or, in a forward that has begun, after it."""
        if not self._left:  # else nobody may be there any more who would hear of it
            self._left = True
            self._shared.stand_up(self)

    def stay(self) -> None:
        """Raise `Left` if this seat was left: for its thread, where it waits for something else than a forward."""
        if self._left:
            raise Left("this seat was left")

    def alone(self) -> AbstractContextManager[None]:
        return self._shared.runner.alone()

    def cache(self, prefixes: Sequence[Prefix | None], room: int) -> Cache:
        return self._shared.runner.cache(prefixes, room)

    def forward(
        self,
        tokens_BT: Tensor,
        cache: Cache | None = None,
        *,
        positions_BT: Tensor | None = None,
        keep: slice | Sequence[int] = slice(None),
        tap_BTM: Tensor | None = None,
    ) -> Tensor:
        made: Tensor
        if self._shared.joins:
            made = self._ask(Wish(self, Part(tokens_BT, cache, positions_BT, keep, tap_BTM)))
        else:
            at = {"positions_BT": positions_BT, "keep": keep, "tap_BTM": tap_BTM}
            made = self._alone(lambda: self._shared.runner.forward(tokens_BT, cache, **at))  # type: ignore[arg-type]
        return made

    def together(self, parts: Sequence[Part]) -> list[Tensor | Exception]:
        made: list[Tensor | Exception] = self._alone(lambda: self._shared.runner.together(parts))
        return made

    def hidden(self, tokens_BT: Tensor, cache: Cache | None = None, *, positions_BT: Tensor | None = None) -> Hidden:
        made: Hidden = self._alone(lambda: self._shared.runner.hidden(tokens_BT, cache, positions_BT=positions_BT))
        return made

    def read(self, tokens_BT: Tensor, cache: Cache, *, positions_BT: Tensor | None = None) -> Tensor:
        if not self._shared.joins:
            made: Tensor = self._alone(lambda: self._shared.runner.read(tokens_BT, cache, positions_BT=positions_BT))
            return made
        if positions_BT is None:
            positions_BT = cache.next_positions_B[:, None] + torch.arange(tokens_BT.shape[1])
        last = (tokens_BT.shape[1] - 1) // CHUNK * CHUNK
        for start in range(0, last, CHUNK):
            chunk = slice(start, start + CHUNK)
            self.forward(tokens_BT[:, chunk], cache, positions_BT=positions_BT[:, chunk], keep=[])
        return self.forward(tokens_BT[:, last:], cache, positions_BT=positions_BT[:, last:], keep=slice(-1, None))[:, 0]

    def prefill(self, text: Sequence[int]) -> Prefix:
        if not self._shared.joins:
            made: Prefix = self._alone(lambda: self._shared.runner.prefill(text))
            return made
        cache = make_cache(self.spec, replace(self.caching, layout="auto"), 1, len(text), self.dtype, self.device)
        tokens_1T = torch.tensor([list(text)])
        for start in range(0, len(text), CHUNK):
            self.forward(tokens_1T[:, start : start + CHUNK], cache, keep=[])
        return cache.prefix(0)

    def _alone(self, call: Callable[[], Any]) -> Any:
        return self._ask(Wish(self, call=call))

    def _ask(self, wish: Wish) -> Any:
        self.stay()
        self.wish, self._rows = wish, wish.rows
        return self._shared.ask(wish)
