"""/v1/embeddings: texts as a book's encoder sees them."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, Field, model_validator

from openbook.book.embedder import Embedder
from openbook.serve.asked import PREFIX
from openbook.serve.errors import Refused
from openbook.serve.schemas import Name, Request, Text, Unread
from openbook.serve.service import Served

router = APIRouter(tags=["answers"])
MOST_TEXTS = 2_048
MOST_CHARACTERS = 1 << 20


class EmbeddingsRequest(Request):
    """POST /v1/embeddings. Texts, not tokens: a book's encoder has tokens of its own."""

    model: Name = Field(description="`openbook:BOOK`, `openbook`, or the encoder's own name.")
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    user: Unread = None

    @property
    def texts(self) -> list[str]:
        """The input as a list."""
        return [self.input] if isinstance(self.input, str) else self.input

    @model_validator(mode="after")
    def _some(self) -> EmbeddingsRequest:
        if not all(self.texts):
            raise ValueError("the input holds an empty text")
        if sum(map(len, self.texts)) > MOST_CHARACTERS:
            raise ValueError(f"the input holds more than {MOST_CHARACTERS:,} characters; send it in parts")
        return self


class Embedding(BaseModel):
    """A text's unit vector: numbers, or in base64 the bytes of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Tokens of the input, as the encoder counts them."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """The vectors, in the order of the input."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingsRequest, service: Served) -> Embeddings:
    """Unit vectors of texts, by the encoder of a book: what `find` compares passages by."""
    encoders = {shelved.encoder.name: shelved.encoder for shelved in service.shelf}
    named = body.model.removeprefix(PREFIX) if body.model.startswith(PREFIX) else None
    encoder = encoders.get(body.model)
    if encoder is None:
        if body.model != "openbook" and named is None:
            there = ", ".join([*encoders, *(PREFIX + shelved.name for shelved in service.shelf)])
            raise Refused(404, f"there is no encoder {body.model!r}; there are: {there}", code="model_not_found")
        encoder = service.shelf.named(named).encoder
    if body.dimensions not in (None, encoder.width):
        raise Refused(400, f"{encoder.name} has {encoder.width} dimensions, no others", param="dimensions")
    return await service.slowly(lambda: _embedded(encoder, body))


def _embedded(encoder: Embedder, body: EmbeddingsRequest) -> Embeddings:
    vectors_NM = np.asarray(encoder.embed(body.texts), dtype="<f4")
    count = sum(encoder.count_tokens(body.texts))
    shown = [
        base64.b64encode(row.tobytes()).decode("ascii") if body.encoding_format == "base64" else row.tolist()
        for row in vectors_NM
    ]
    data = [Embedding(index=i, embedding=each) for i, each in enumerate(shown)]
    return Embeddings(model=body.model, data=data, usage=EmbeddingsUsage(prompt_tokens=count, total_tokens=count))
