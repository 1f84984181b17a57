"""/v1/books: what there is, what it holds at which version, and looking for passages."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query

from openbook.book import versions
from openbook.book.manifest import BookFault
from openbook.book.retrieve import hit_dicts, retrievers
from openbook.serve.bodies import (
    BookFacts,
    BookList,
    FindRequest,
    Hits,
    Tagged,
    TagRequest,
    Used,
    UseRequest,
    VersionFacts,
    VersionList,
)
from openbook.serve.errors import Refused
from openbook.serve.service import Served
from openbook.serve.shelf import BY_GRAPH, Shelved

router = APIRouter(tags=["books"])
Named = Annotated[str, Path(alias="book", description="A book's name, as /v1/books lists it.")]


def facts_of(shelved: Shelved) -> BookFacts:
    """A book at its live version."""
    book = shelved.at()
    named = sorted(versions.tags(shelved.path))
    m = book.manifest
    return BookFacts(
        name=shelved.name,
        version=m.version,
        passages=m.passages,
        documents=m.documents,
        tags=named,
        updated=m.created,
        encoder=m.encoder,
    )


@router.get("/v1/books")
async def list_books(service: Served) -> BookList:
    """The books that are served."""
    return BookList(data=await asyncio.to_thread(lambda: [facts_of(shelved) for shelved in service.shelf]))


@router.get("/v1/books/{book}")
async def get_book(name: Named, service: Served) -> BookFacts:
    """A book at its live version."""
    return await asyncio.to_thread(facts_of, service.shelf.named(name))


@router.get("/v1/books/{book}/versions")
async def list_versions(
    name: Named, service: Served, every: Annotated[bool, Query(alias="all", description="Also batches.")] = False
) -> VersionList:
    """A book's versions, oldest first; each add, forget and use made one."""
    found = await asyncio.to_thread(versions.versions, service.shelf.named(name).path)
    return VersionList(data=[VersionFacts(**asdict(v)) for v in found if every or v.whole])


@router.post("/v1/books/{book}/tags")
async def tag_version(name: Named, body: TagRequest, service: Served) -> Tagged:
    """Name a version; one with a name is never cleaned up."""
    shelved = service.shelf.named(name)
    return Tagged(name=body.name, version=await asyncio.to_thread(shelved.at(body.version).tag, body.name))


@router.delete("/v1/books/{book}/tags/{tag}")
async def untag_version(name: Named, tag: str, service: Served) -> Tagged:
    """Take a name off a version."""
    shelved = service.shelf.named(name)
    named = await asyncio.to_thread(versions.tags, shelved.path)
    if tag not in named:
        raise Refused(404, f"{shelved.name} has no tag {tag!r}", code="version_not_found")
    await asyncio.to_thread(versions.untag, shelved.path, [tag])
    return Tagged(name=tag, version=named[tag])


@router.post("/v1/books/{book}/use")
async def use_version(name: Named, body: UseRequest, service: Served) -> Used:
    """Make the live version equal to another, as a new version. Requests at work end on the version they began with."""
    shelved = service.shelf.named(name)
    before, version = await shelved.in_turn(lambda: shelved.use(body.version))
    return Used(version=version, before=before)


@router.post("/v1/books/{book}/find")
async def find_passages(name: Named, body: FindRequest, service: Served) -> Hits:
    """Passages for a query, the best first; the model is not asked."""
    shelved = service.shelf.named(name)
    if body.by not in retrievers():
        raise Refused(400, f"by: {body.by!r} is no retriever; there are: {', '.join(retrievers())}", param="by")
    book = shelved.at(body.version)

    def search() -> Hits:
        hits = shelved.find(book, body.query, body.k, body.by)
        seen = {"name": shelved.name, "path": str(book.path), "version": book.version}
        return Hits(query=body.query, book=seen, hits=hit_dicts(hits))

    try:
        if body.by in BY_GRAPH:
            return await service.slowly(search)
        return await asyncio.to_thread(search)
    except BookFault as error:
        raise Refused(400, str(error)) from error
