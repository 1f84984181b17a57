"""/v1/answers: answers that were given, with all their evidence, and as files to keep."""

from __future__ import annotations

import asyncio
import heapq
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi import Path as InPath
from fastapi.responses import Response

from openbook.answer.history import file_of, headline, numbers, recall
from openbook.errors import Fault
from openbook.serve.bodies import AnswerList, AnswerRow, Facts
from openbook.serve.errors import Refused
from openbook.serve.service import Served
from openbook.serve.shelf import Shelved

router = APIRouter(tags=["history"])
InBook = Annotated[str | None, Query(max_length=200, description="A book's name; else the first.")]
Number = Annotated[int, InPath(ge=1, lt=10**12, description="Its number in the history of its book.")]
SHORT, LONGEST = 300, 4_000
"""Characters that the list shows: of an answer, of a question."""


@router.get("/v1/answers")
async def list_answers(
    service: Served, book: InBook = None, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> AnswerList:
    """Answers of one book, or of all, the newest first; those that were forgotten with a document are left out."""
    shelves = [service.shelf.named(book)] if book is not None else list(service.shelf)
    return AnswerList(data=await asyncio.to_thread(_rows, shelves, limit))


def _rows(shelves: list[Shelved], limit: int) -> list[AnswerRow]:
    found = []
    for shelved in shelves:
        for number in numbers(shelved.path)[-limit:]:
            try:
                found.append((file_of(shelved.path, number).stat().st_mtime, number, shelved))
            except FileNotFoundError:  # the oldest leave when new ones come
                continue
    rows = []
    for when, number, shelved in heapq.nlargest(limit, found, key=lambda each: (each[0], each[1])):
        try:
            told = headline(shelved.path, number)
        except Fault:
            continue
        rows.append(
            AnswerRow(
                id=number,
                book=shelved.name,
                question=told.question[:LONGEST],
                answer=told.answer[:SHORT],
                abstained=told.abstained,
                when=datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds"),
            )
        )
    return rows


@router.get("/v1/answers/{number}")
async def get_answer(number: Number, service: Served, book: InBook = None) -> Facts:
    """An answer with all its evidence."""
    shelved = service.shelf.named(book)
    return Facts(**{**await _recalled(shelved, number), "id": number})


Form = Literal["md", "html", "svg", "png", "txt"]
KINDS = ("text/markdown", "text/html", "image/svg+xml", "image/png", "text/plain")


@router.get(
    "/v1/answers/{number}/report.{form}",
    response_class=Response,
    responses={200: {"content": {media: {} for media in KINDS}}},
)
async def get_report(number: Number, form: Form, service: Served, book: InBook = None) -> Response:
    """An answer as a file to keep: Markdown with footnotes, a page with its evidence, a picture, plain text."""
    from openbook.answer.report.save import MEDIA, report

    answer = await _recalled(service.shelf.named(book), number)
    data = await asyncio.to_thread(report, answer, form)
    headers = {
        "Content-Disposition": f'attachment; filename="answer-{number}.{form}"',
        "Content-Security-Policy": "sandbox; default-src 'none'",  # it is a file, no page of this server
    }
    return Response(data, media_type=MEDIA[form], headers=headers)


async def _recalled(shelved: Shelved, number: int) -> dict[str, Any]:
    try:
        return await asyncio.to_thread(recall, shelved.path, number)
    except Fault as error:
        raise Refused(404, str(error), code="answer_not_found") from error
