"""/v1/models, and what is said of the server itself: /health, /metrics."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from openbook import __version__
from openbook.serve.asked import PREFIX
from openbook.serve.errors import Refused
from openbook.serve.metrics import exposition
from openbook.serve.replies import Health, ModelCard, Models
from openbook.serve.service import Served, Service

router = APIRouter(tags=["server"])


@router.get("/v1/models")
async def list_models(service: Served) -> Models:
    """The names that a request may give as its model: one for each book, and the models' own."""
    return Models(data=await asyncio.to_thread(_cards, service))


@router.get("/v1/models/{model:path}")
async def get_model(model: str, service: Served) -> ModelCard:
    """One of them."""
    for card in await asyncio.to_thread(_cards, service):
        if card.id == model:
            return card
    raise Refused(404, f"there is no model {model!r}", code="model_not_found")


@router.get("/health", responses={503: {"model": Health, "description": "It is closing: requests at work are ended"}})
async def health(request: Request, response: Response) -> Health:
    """Whether it answers; who asks for the sake of others sends them elsewhere after a 503."""
    closing = request.app.state.door.closing
    response.status_code = 503 if closing else 200
    return Health(status="closing" if closing else "ok", version=__version__)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Served) -> PlainTextResponse:
    """Counts in Prometheus' text format."""
    books = await asyncio.to_thread(lambda: {b.name: (b.at().version, b.at().count) for b in service.shelf})
    text = exposition(service.counts, {model.name: model.stats() for model in service.models}, books)
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _cards(service: Service) -> list[ModelCard]:
    made = service.began
    cards = []
    for shelved in service.shelf:
        facts = {"book": shelved.name, "model": service.names[0], "version": shelved.at().version}
        cards.append(ModelCard(id=PREFIX + shelved.name, created=made, openbook=facts))
    return cards + [ModelCard(id=name, created=made) for name in service.names]
