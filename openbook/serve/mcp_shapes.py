"""What the tools of `openbook.serve.mcp` hand back beside text, as models: their JSON schemas are what clients read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Shape(BaseModel):
    """Fields that are always there; more may be beside them."""

    model_config = ConfigDict(extra="allow")


class Source(Shape):
    """A passage (or the model's own memory, `closed_book`) and its share in the answer."""

    id: str
    kind: str
    document: str | None = None
    page: int | None = None
    line: int | None = None
    span: list[int] | None = Field(None, description="Characters of the document's text, end exclusive.")
    text: str | None = None
    responsibility: float | None = Field(None, description="Its share in the answer's words, 0 to 1.")
    bits: float | None = Field(None, description="How much likelier it made the answer, base 2.")


class Citation(Shape):
    """A stretch of the answer and the place that made the model write it."""

    span: list[int] = Field(description="Characters of `answer`, end exclusive.")
    source: str
    source_span: list[int] = Field(description="Characters of the source's document.")
    cited_text: str
    responsibility: float | None = None


class Answer(Shape):
    """An answer with its evidence; `abstained` ones have a reason instead."""

    question: str | None
    answer: str
    abstained: bool = False
    reason: str | None = None
    sources: list[Source]
    citations: list[Citation]
    id: int | None = Field(None, description="Its number among the book's answers: why(number) shows it again.")


class Hit(Shape):
    """A passage that was found."""

    rank: int
    document: str
    page: int | None
    line: int | None
    span: list[int]
    text: str
    score: float


class Hits(Shape):
    """Passages, best first."""

    hits: list[Hit]


class Skipped(Shape):
    """A file that was not read, and why."""

    name: str
    reason: str


class Added(Shape):
    """What an add did."""

    documents: int
    passages: int
    unchanged: int
    replaced: int
    skipped: list[Skipped]
    version: int


class Forgotten(Shape):
    """What a forget did. `left`: what a search of every file of the book still found, where that was asked for."""

    forgotten: list[str]
    passages: int
    versions: list[int] = Field(description="Old versions that held it, which are gone.")
    answers: int = Field(description="Kept answers that were blanked.")
    left: list[str] | None
    version: int


class Version(Shape):
    """A version of a book."""

    number: int
    created: str
    made: str
    documents: int
    passages: int
    tags: list[str]
    live: bool


class Versions(Shape):
    """All of them, oldest first."""

    versions: list[Version]


class Changed(Shape):
    """The version that is meant now."""

    version: int


class Document(Shape):
    """A document of a book."""

    name: str
    title: str
    media: str
    passages: int
    uri: str = Field(description="The resource that has its text.")


class Documents(Shape):
    """Documents by name; `total` of them in the book."""

    documents: list[Document]
    total: int


Plain = dict[str, Any]
