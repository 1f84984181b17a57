"""Adding to a book over HTTP: uploads are staged on its disk, not too many bytes at once, then read and taken in."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Request, UploadFile
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.types import Message

from openbook.book import uploads
from openbook.book.adding import Added
from openbook.book.store import Book
from openbook.serve.bodies import AddedFacts, Done, Skipped
from openbook.serve.books import Named
from openbook.serve.engine import Busy
from openbook.serve.errors import ErrorBody, Refused, refusal
from openbook.serve.service import Served
from openbook.serve.shelf import Shelved

MOST_FILES = 1_000
AT_ONCE = 2
"""Uploads of the largest size that may be under way; of smaller ones so many more."""
NDJSON = {
    "description": "An event a line: `progress`, then `done` or `error`; with Accept: application/json the last alone.",
    "content": {"application/x-ndjson": {}},
}


class Room:
    """Bytes of uploads that have come, and are not in their books yet: `limit` of all together. One event loop's."""

    def __init__(self, limit: int) -> None:
        self.limit, self.taken = limit, 0

    @contextmanager
    def upload(self, announced: int) -> Iterator[Callable[[int], None]]:
        """What takes room for so many more bytes of one upload; within, until its end.

        `Busy`, also at the beginning, where the uploads of others leave none for it."""
        held = 0

        def take(size: int) -> None:
            nonlocal held
            self._check(size)
            held += size
            self.taken += size

        self._check(announced)
        try:
            yield take
        finally:
            self.taken -= held

    def _check(self, size: int) -> None:
        if self.taken + size > self.limit:
            told = f"uploads of {self.taken:,} bytes are being taken in already, of {self.limit:,} at once"
            raise Busy(f"{told}; send it again in a moment")


class Staged(APIRoute):
    """A route whose bodies take room, from their first byte until the work that was made of them is done."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def staged(request: Request) -> Response:
            room: Room = request.app.state.room
            length = request.headers.get("content-length", "")
            full: list[Busy] = []
            with ExitStack() as stack:
                take = stack.enter_context(room.upload(int(length) if length.isdigit() else 0))

                async def receive() -> Message:
                    message = await request.receive()
                    try:
                        take(len(message.get("body", b"")))
                    except Busy as error:
                        full.append(error)
                        raise
                    return message

                request.state.staged = stack  # who goes on with the upload after its answer has begun takes it over
                try:
                    return await handle(Request(request.scope, receive))
                except HTTPException as error:  # the framework's, of a body that it could not read
                    raise (full[0] if full else error) from error

        return staged


router = APIRouter(tags=["documents"], route_class=Staged)


class Progress(BaseModel):
    """How far an upload is."""

    event: str = "progress"
    done: int
    total: int
    what: str
    document: str


@router.post("/v1/books/{book}/documents", response_model=Done, responses={200: NDJSON, 422: {"model": ErrorBody}})
async def add_documents(
    request: Request, name: Named, service: Served, files: Annotated[list[UploadFile], File(max_length=MOST_FILES)]
) -> Response:
    """Add files: each is read in a process of its own, bounded in memory and time. What cannot be read is skipped.

    Once `done` is sent the documents are in the book for good. The work goes on where the client goes away.
    """
    shelved = service.shelf.named(name)
    stack: ExitStack = request.state.staged.pop_all()
    told: asyncio.Queue[BaseModel | Exception] = asyncio.Queue()
    try:
        folder = await asyncio.to_thread(stack.enter_context, uploads.staging(shelved.path))
        staged = await asyncio.to_thread(_stage, folder, files)
    except BaseException:
        stack.close()
        raise
    service.keep_at(_adding(shelved, staged, stack, told))
    if request.headers.get("accept", "").split(";")[0].strip() == "application/json":
        while isinstance(event := await told.get(), Progress):
            pass
        if isinstance(event, Exception):
            raise _unadded(event)
        return JSONResponse(event.model_dump())
    return StreamingResponse(_lines(told), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})


def _stage(folder: Path, files: Sequence[UploadFile]) -> list[tuple[str, Path]]:
    """The uploads' bytes in files of our own naming, on the book's disk."""
    staged = []
    for number, file in enumerate(files):
        path = folder / str(number)
        with path.open("xb") as target:
            shutil.copyfileobj(file.file, target, 1 << 20)
        staged.append((file.filename or "document", path))
    return staged


async def _adding(
    shelved: Shelved, staged: list[tuple[str, Path]], stack: ExitStack, told: asyncio.Queue[BaseModel | Exception]
) -> None:
    """The work of an upload; it ends with `Done` or what went wrong."""
    loop = asyncio.get_running_loop()

    def progress(done: int, total: int, what: str) -> None:
        name = "" if what.startswith(("embedding", "indexing")) else what
        doing = "reading" if name else what
        event = Progress(done=done, total=total, what=doing, document=name)
        loop.call_soon_threadsafe(told.put_nowait, event)

    def receive(book: Book) -> Done:
        added = uploads.receive(book, staged, shelved.encoder, progress)
        return Done(added=_added(added), version=book.version)

    try:
        with stack:
            await told.put(await shelved.in_turn(lambda: shelved.change(receive)))
    except Exception as error:
        await told.put(error)


async def _lines(told: asyncio.Queue[BaseModel | Exception]) -> AsyncIterator[str]:
    while True:
        event = await told.get()
        if isinstance(event, Exception):
            yield json.dumps({"event": "error", "message": str(_unadded(event))}, ensure_ascii=False) + "\n"
            return
        yield event.model_dump_json() + "\n"
        if isinstance(event, Done):
            return


def _unadded(error: Exception) -> Refused:
    refused = refusal(error)
    return Refused(422, str(refused), code="unreadable") if refused.status == 400 else refused


def _added(added: Added) -> AddedFacts:
    told = {name: value for name, value in vars(added).items() if name not in ("skipped", "seconds")}
    skipped = [Skipped(name=s.name, reason=s.reason) for s in added.skipped]
    return AddedFacts(**told, seconds=round(added.seconds, 3), skipped=skipped)
