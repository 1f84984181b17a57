"""What else a book can be asked: a text held against it, stored answers, points about all of it, its graph."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fastapi import APIRouter, Request

from openbook.answer.check import check
from openbook.answer.faq import reply
from openbook.answer.graph_page.data import picture
from openbook.answer.summarize import Plan, Summary, summarize_with
from openbook.book.communities import communities
from openbook.lm.model import LanguageModel
from openbook.serve.bodies import CheckRequest, Facts, FaqRequest, SummarizeRequest
from openbook.serve.books import Named
from openbook.serve.documents import At
from openbook.serve.errors import Refused
from openbook.serve.service import Served

router = APIRouter(tags=["asking"])


@router.post("/v1/books/{book}/check")
async def check_text(request: Request, name: Named, body: CheckRequest, service: Served) -> Facts:
    """Hold a text against the book: which passage carries each word, which words nothing carries."""
    shelved = service.shelf.named(name)
    book, settings = shelved.at(body.version), service.defaults
    if body.passages is not None:
        settings = replace(settings, passages=body.passages)

    def work(model: LanguageModel) -> Facts:
        return Facts(**check(body.text, shelved.reader(book, model, settings), body.question).to_dict())

    return await service.compute(request, work, rows=settings.passages + 1)


@router.post("/v1/books/{book}/faq")
async def ask_faq(name: Named, body: FaqRequest, service: Served) -> Facts:
    """The stored answer to a question, or an abstention with the nearest; 404 where the book holds no pairs."""
    shelved = service.shelf.named(name)
    book = shelved.at(body.version)
    knowledge = await service.slowly(lambda: shelved.pairs(book))
    found = await asyncio.to_thread(
        lambda: reply(body.question, knowledge, related=body.related, threshold=body.threshold, book=book)
    )
    return Facts(**found.to_dict())


@router.post("/v1/books/{book}/summarize")
async def summarize_book(request: Request, name: Named, body: SummarizeRequest, service: Served) -> Facts:
    """Points about the whole book: sentences of its documents, each with the places that hold it."""
    shelved = service.shelf.named(name)
    book = shelved.at(body.version)
    plan = Plan(over=body.over, points=body.points, budget=body.budget)

    def work(model: LanguageModel) -> Summary:
        return summarize_with(shelved.reader(book, model, service.defaults), body.question, plan)

    made = await service.compute(request, work, rows=service.defaults.passages + 1)
    return Facts(**made.to_dict())


@router.get("/v1/books/{book}/graph")
async def get_graph(name: Named, service: Served, at: At = None) -> Facts:
    """Who and what the documents name, in communities, with the sentences that say so; 404 where they name nothing."""
    shelved = service.shelf.named(name)
    book = shelved.at(at)

    def draw() -> Facts | None:
        if not book.count:
            return None
        graph = shelved.graph(book)
        return Facts(**picture(graph, communities(graph)).to_dict()) if len(graph) else None

    drawn = await service.slowly(draw)
    if drawn is None:
        raise Refused(404, f"the documents of {shelved.name} name nothing yet; add some", code="no_graph")
    return drawn
