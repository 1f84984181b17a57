"""What goes wrong, as OpenAI's clients read it: `{"error": {"message", "type", "param", "code"}}`, always JSON."""

from __future__ import annotations

import errno
import logging
import re
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from openbook.errors import Fault
from openbook.serve.engine import Busy, Cancelled
from openbook.serve.shelf import Absent

log = logging.getLogger("openbook.serve")
LATER = {"Retry-After": "2"}
CLOSING = "the server is closing; ask again later"
TOO_LARGE = "the body is larger than this server takes; send it in parts"
NO_RETRY = {"X-Should-Retry": "false"}
"""OpenAI's clients ask twice more after a 408, 409, 429 or 5xx, unless they are told that it would end the same."""


class Problem(BaseModel):
    """What went wrong, for a person; `type` and `code` for a program, where OpenAI's API has such an error as there;
    `param` is the field that is meant."""

    message: str
    type: Literal["invalid_request_error", "requests", "server_error"]
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """Every answer that is an error."""

    error: Problem


class Refused(Exception):
    """A request that is answered with an error of this status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON of it."""
        problem = Problem(message=str(self), type=self.type, param=self.param, code=self.code)
        return ErrorBody(error=problem).model_dump()

    @property
    def type(self) -> Literal["invalid_request_error", "requests", "server_error"]:
        """As OpenAI's API has it: of a 429 what there are too many of, and one type for all else below 500."""
        if self.status == 429:
            return "requests"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def response(self) -> JSONResponse:
        """The whole response."""
        return JSONResponse(self.body(), self.status, self.headers)


def refusal(error: BaseException) -> Refused:
    """What an exception comes to over HTTP. What nobody foresaw is logged by its place in the code alone: its message
    could quote a question or a document."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Busy):
        return Refused(429, str(error), code="rate_limit_exceeded", headers=LATER)
    if isinstance(error, Cancelled):
        return Refused(503, CLOSING, code="server_is_closing", headers=LATER)
    if isinstance(error, Absent):
        return Refused(404, str(error), code=error.code)
    if isinstance(error, Fault):
        return Refused(400, str(error))
    if isinstance(error, TimeoutError):
        told = "the answer took longer than this server allows; ask for fewer tokens"
        return Refused(408, told, code="timeout", headers=NO_RETRY)
    if isinstance(error, MemoryError):
        return Refused(503, "there is not enough memory for this now; try again, or with fewer passages")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        told = "the server's disk is full; make room there, then send it again"
        return Refused(507, told, code="disk_full", headers=NO_RETRY)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    log.error("unexpected %s%s", type(error).__name__, place)
    return Refused(500, f"unexpected {type(error).__name__}{place}; this is a fault of openbook: please report it")


def install(app: FastAPI) -> None:
    """Every error of the app as JSON of one form, those of the framework too."""

    async def ours(request: Request, error: Exception) -> Response:
        return refusal(error).response()

    async def invalid(request: Request, error: Exception) -> Response:
        found = error.errors() if isinstance(error, RequestValidationError) else []
        message, param = _wrong(found)
        return Refused(400, message, param=param).response()

    async def of_framework(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = error.headers if isinstance(error, HTTPException) else None
        told = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not for this address"}
        told[413] = TOO_LARGE
        detail = str(getattr(error, "detail", "")) or HTTPStatus(status).phrase
        return Refused(status, told.get(status, detail), headers=headers).response()

    for kind in (Refused, Fault, Exception):
        app.add_exception_handler(kind, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_framework)


_PLACES = frozenset({"body", "query", "path", "header"})
_KIND = re.compile(r"(?:constrained-)?(?:str|int|float)$|.*\[.*\]$")
"""How pydantic calls the kinds of a field that may be of several."""


def _wrong(errors: Sequence[Any]) -> tuple[str, str | None]:
    """The first thing that is wrong with a request, and the name of its field."""
    if not errors:
        return "the request cannot be read", None
    first = max(errors, key=lambda error: len(error["loc"]))  # of a field of several kinds: where it went furthest
    path = [str(part) for part in first["loc"][first["loc"][0] in _PLACES :]]
    name = ".".join(part for part in path if not _KIND.match(part)) or None
    if first["type"] == "extra_forbidden":
        return f"{name} is not supported; leave it out", name
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first.get('ctx', {}).get('error', '')}", None
    message = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        message += f", not {first['input'][:100]!r}"
    return (f"{name}: {message}" if name else message), name
