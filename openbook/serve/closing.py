"""How the server ends: it says so and lets nobody in any more, those at work finish, and only then it leaves its port.

uvicorn closes its port first: who comes then is told nothing, and a load balancer's look at /health finds nobody.
"""

from __future__ import annotations

import time
from types import FrameType

import uvicorn

from openbook.serve.security import Door

LAST = 1
"""Seconds in which connections close once nobody is at work."""


class Server(uvicorn.Server):
    """uvicorn's server; on the first signal it closes its door, and ends when nobody is at work, or after `drain`
    seconds. A second signal ends it at once."""

    def __init__(self, config: uvicorn.Config, door: Door, drain: float) -> None:
        super().__init__(config)
        self._door, self._drain = door, drain
        self._signal: int | None = None
        self._until: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by a signal, at any place in the code: it only notes it."""
        if self._signal is None:
            self._signal, self._door.closing = sig, True
        else:
            self.should_exit, self.config.timeout_graceful_shutdown = True, 0
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; True ends it."""
        if self._signal is not None and not self.should_exit:
            now = time.monotonic()
            self._until = now + self._drain if self._until is None else self._until
            over = now >= self._until
            if over or not self.server_state.tasks:
                self.config.timeout_graceful_shutdown = 0 if over else LAST
                super().handle_exit(self._signal, None)
        return await super().on_tick(counter)
