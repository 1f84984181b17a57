"""The app: every route, one form of error, one guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from openbook import __version__
from openbook.serve import adding, asking, books, chat, documents, embeddings, models, page, past, responses
from openbook.serve.errors import ErrorBody, install
from openbook.serve.security import IDLE_SECONDS, Door, Guard
from openbook.serve.service import Service

# FastAPI can send spans, counts and what went wrong, messages and all, to wherever the environment says.
SILENT: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
THREADS = 32
"""For what is read from books and written to them; changes of a book take one each while they go on."""
STATUSES = {
    400: "The request is wrong: the message says how",
    401: "The API key is missing or wrong",
    403: "Another site's page, or another name of this server",
    404: "There is no such book, version, document, model or answer",
    409: "Its version of the book was forgotten meanwhile",
    408: "It took longer than this server allows",
    413: "The body is too large",
    429: "The queue is full; Retry-After says when to try again",
    503: "The server is closing",
    507: "The server's disk is full",
}


def _errors_are_json(schema: dict[str, Any]) -> None:
    """Say so in the API's description also where what is answered else is a picture or text."""
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    for methods in schema["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                if status.startswith(("4", "5")) and "application/json" not in response.get("content", {}):
                    response["content"] = body


def create_app(
    service: Service, *, key: str | None = None, names: Iterable[str] = (), idle: float = IDLE_SECONDS
) -> Guard:
    """The ASGI app that answers for a service, behind its guard.

    `key` is the API key, `names` are other names that it may be called by; a body that does not go on for `idle`
    seconds is given up.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "openbook"))
        yield
        await service.finish()
        for model in service.models:  # the requests at work had their time before (uvicorn's graceful shutdown)
            await model.engine.drain(0)

    app = FastAPI(
        title="openbook",
        version=__version__,
        description="Answers from your own documents, with the evidence for every word.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=SILENT,
        max_body_size=service.limits.body_bytes,
        responses={status: {"model": ErrorBody, "description": told} for status, told in STATUSES.items()},
    )
    app.state.service = service
    app.state.door = door = Door()
    app.state.room = adding.Room(adding.AT_ONCE * service.limits.upload_bytes)
    install(app)
    for group in (chat, responses, embeddings, models, books, documents, asking, past):
        app.include_router(group.router)
    app.include_router(adding.router, max_body_size=service.limits.upload_bytes)
    app.include_router(page.router(page.read_all()))
    _errors_are_json(app.openapi())
    return Guard(app, counts=service.counts, key=key, names=names, idle=idle, door=door)
