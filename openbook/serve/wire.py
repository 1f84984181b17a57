"""Connections that keep the server waiting are closed: those that send no whole request, and those that read nothing
of their answer. uvicorn waits for ever."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 30.0
"""From a connection's beginning, or a request's first byte, to the end of the request's head."""
UNREAD_SECONDS = 120.0
"""After so long without a byte taken an answer is given up: it is held in memory until then."""


def bound_unread(listening: socket.socket) -> None:
    """Have the system (Linux) close connections of this listener whose clients take nothing of what was sent."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1_000 * UNREAD_SECONDS))


def settings(app: ASGIApp) -> uvicorn.Config:
    """uvicorn's for an app of ours, whatever it speaks: no lines of its own, no word of a proxy believed."""
    return uvicorn.Config(
        app, http=Prompt, log_config=None, access_log=False, server_header=False, proxy_headers=False, ws="none",
        h11_max_incomplete_event_size=1 << 16,
    )  # fmt: skip


class Prompt(H11Protocol):
    """uvicorn's protocol with a bound on the time that a request's head may take."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Wait for a head that has not come; not while a request is answered."""
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self._end)

    def _forget(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _end(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.abort()
