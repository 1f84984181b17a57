"""One request and its response, as they pass through the guard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from openbook.serve.errors import TOO_LARGE, Refused, refusal

LEAST_RATE = 4096
"""Bytes a second of a body, after the first moments: one that drips is given up as one that stops."""


class Exchange:
    """Gives up a body that does not go on, puts headers on every response, and makes every error JSON.

    `status` is the response's, 0 until it begins.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str], idle: float) -> None:
        self.status = 0
        self._scope, self._receive, self._send, self._headers, self._idle = scope, receive, send, headers, idle
        self._read = self._late = self._replaced = self._ended = False
        self._began, self._bytes = time.monotonic(), 0

    async def receive(self) -> Message:
        """The next part of the request's body; `TimeoutError` where none comes."""
        if self._read:
            return await self._receive()
        spare = self._began + self._idle + self._bytes / LEAST_RATE - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), min(self._idle, spare))
        except TimeoutError:
            self._late = True
            raise
        self._read = not message.get("more_body")
        self._bytes += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        """The next part of the response; nothing more of one that was replaced."""
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if (better := self._better(message)) is not None:
                await self.refuse(better)
                return
        await self._pass(message)

    def _better(self, message: Message) -> Refused | None:
        """What is said instead: where the body stopped, and of errors that the framework answers in plain text."""
        if self._late:
            return Refused(408, "the request's body did not go on; send it again")
        plain = not Headers(scope=message).get("content-type", "").startswith("application/json")
        if self.status < 400 or not plain:
            return None
        return Refused(self.status, {413: TOO_LARGE}.get(self.status, HTTPStatus(self.status).phrase))

    async def refuse(self, refused: Refused) -> None:
        """Answer with an error."""
        self.status, self._replaced = refused.status, True
        await refused.response()(self._scope, self._receive, self._pass)

    async def failed(self, error: Exception) -> None:
        """The app raised: answer that, if nothing was answered; raise where half an answer is out."""
        if not self.status:
            await self.refuse(refusal(error))
        elif not self._ended:
            raise error  # the connection is closed, which says that this was not all

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        self._ended = self._ended or (message["type"] == "http.response.body" and not message.get("more_body"))
        await self._send(message)
