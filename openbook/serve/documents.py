"""/v1/books/…/documents: what is in a book, its text, its pages as pictures; forgetting. Adding: `adding.py`."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response

from openbook.book import tables, uploads
from openbook.book.apart import page_png
from openbook.book.documents import Unreadable
from openbook.book.manifest import faults
from openbook.book.store import Book
from openbook.serve.bodies import DocumentFacts, DocumentList, DocumentText, ForgottenFacts, Proof
from openbook.serve.books import Named
from openbook.serve.errors import Refused
from openbook.serve.service import Served

router = APIRouter(tags=["documents"])
At = Annotated[str | None, Query(max_length=200, description="A version's number, or a tag; else the live one.")]
PIXELS = 1_600


@router.get("/v1/books/{book}/documents")
async def list_documents(name: Named, service: Served, at: At = None) -> DocumentList:
    """A book's documents, by name."""
    book = service.shelf.named(name).at(at)
    return DocumentList(version=book.version, data=await asyncio.to_thread(_documents, book))


def _documents(book: Book) -> list[DocumentFacts]:
    last: dict[str, int] = {}
    for document, page, _ in _places(book):
        last[document] = max(last.get(document, 0), page)
    return [
        DocumentFacts(
            name=d.name,
            title=d.title,
            kind=d.media,
            passages=d.passages,
            size=d.size,
            pages=last.get(d.name),
            note=d.note,
        )
        for d in book.documents()
    ]


def _places(book: Book, document: str | None = None) -> list[tuple[str, int, int]]:
    """Document, page and place of every passage that begins on a page."""
    if book.passages_table is None:
        return []
    wanted = "page IS NOT NULL" + (f" AND document IN ({tables.quoted([document])})" if document is not None else "")
    with faults(book.path):
        table = book.passages_table.scanner(columns=["document", "page", "start"], filter=wanted).to_table()
    return list(zip(*(table[name].to_pylist() for name in ("document", "page", "start")), strict=True))


@router.get("/v1/books/{book}/documents/{document:path}")
async def get_document(name: Named, document: str, service: Served, at: At = None) -> DocumentText:
    """A document's text: what every span counts in."""
    book = service.shelf.named(name).at(at)
    found = await asyncio.to_thread(_stored, book, document)
    text = await asyncio.to_thread(book.text, document)
    first: dict[int, int] = {}
    for _, page, start in await asyncio.to_thread(_places, book, document):
        first[page] = min(first.get(page, start), start)
    pages, after = [len(text)] * max(first, default=0), len(text)
    for page in range(len(pages), 0, -1):
        pages[page - 1] = after = first.get(page, after)
    told = {"name": document, "title": found["title"], "kind": found["media"], "version": book.version}
    return DocumentText(**told, text=text, pages=pages or None)


def _stored(book: Book, document: str) -> dict[str, Any]:
    """What the book's table says of a document; 404 where it holds none of that name."""
    rows: list[dict[str, Any]] = []
    if book.documents_table is not None:
        wanted = f"name IN ({tables.quoted([document])})"
        with faults(book.path):
            rows = (
                book.documents_table.scanner(columns=["name", "title", "media"], filter=wanted).to_table().to_pylist()
            )
    if not rows:
        told = f"the book holds no document {document!r} at version {book.version}"
        raise Refused(404, told, code="document_not_found")
    return rows[0]


@router.get(
    "/v1/books/{book}/pages/{page}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The page, with the spans marked."}},
)
async def get_page(
    name: Named,
    page: int,
    service: Served,
    document: Annotated[str, Query(max_length=4096)],
    span: Annotated[list[str], Query(max_length=64, description="Characters of the text to mark: `310-702`.")] = [],  # noqa: B006  (FastAPI copies it)
    at: At = None,
) -> Response:
    """A page of a PDF (from 1) as a picture; 404 where the file that was read is gone or has changed."""
    book = service.shelf.named(name).at(at)
    await asyncio.to_thread(_stored, book, document)
    spans = [_span(each) for each in span]
    async with service.drawing:  # also while its file is held, which may be large
        data = await asyncio.to_thread(uploads.original, book, document)
        if data is None:
            told = f"the file that {document!r} was read from is gone or has changed"
            raise Refused(404, told, code="original_gone")
        try:
            picture = await asyncio.to_thread(page_png, data, page, spans, PIXELS)
        except Unreadable as error:
            told = f"page {page} of {document!r} cannot be shown: {error.reason}"
            raise Refused(404, told, code="no_page") from error
    return Response(picture, media_type="image/png", headers={"Cache-Control": "private, max-age=600"})


def _span(given: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})-(\d{1,9})", given)
    if found is None:
        raise Refused(400, f"span is {given[:40]!r}; it must be like 310-702", param="span")
    return int(found[1]), int(found[2])


@router.delete("/v1/books/{book}/documents/{document:path}")
async def forget_document(
    name: Named,
    document: str,
    service: Served,
    prove: Annotated[bool, Query(description="Search every file of the book for what might be left.")] = False,
    tags: Annotated[bool, Query(description="Also tagged versions that hold it.")] = False,
) -> ForgottenFacts:
    """Remove a document from every version, index, cache and answer of the book. It cannot be undone."""
    shelved = service.shelf.named(name)
    done, report, version = await shelved.in_turn(lambda: shelved.forget([document], tags, prove))
    told = {field: value for field, value in vars(done).items() if field != "traces"}
    proof = None if report is None else Proof(**asdict(report))
    return ForgottenFacts(**told, version=version, proof=proof)
