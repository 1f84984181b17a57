"""What the books' endpoints take and give, beside OpenAI's own (`schemas`, `replies`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from openbook.serve.schemas import Name, Request, Text

Ref = Annotated[int, Field(ge=0, lt=10**12)] | Name
LONGEST_CHECKED = 100_000


class FindRequest(Request):
    """POST …/find."""

    query: Text
    k: Annotated[int, Field(ge=1, le=1000)] = 5
    by: Name = "fused"
    version: Ref | None = None


class CheckRequest(Request):
    """POST …/check."""

    text: Annotated[str, Field(min_length=1, max_length=LONGEST_CHECKED)]
    question: Text | None = None
    version: Ref | None = None
    passages: Annotated[int, Field(ge=1, le=64)] | None = None


class FaqRequest(Request):
    """POST …/faq."""

    question: Text
    related: Annotated[int, Field(ge=0, le=50)] = 3
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    version: Ref | None = None


class SummarizeRequest(Request):
    """POST …/summarize."""

    question: Text
    points: Annotated[int, Field(ge=1, le=64)] = 8
    over: Literal["auto", "passages", "reports", "retrieval"] = "auto"
    budget: Annotated[int, Field(ge=100, le=1_000_000)] = 8_000
    version: Ref | None = None


class TagRequest(Request):
    """POST …/tags: name a version, else the live one."""

    name: Name
    version: Ref | None = None


class UseRequest(Request):
    """POST …/use: make the live version equal to another."""

    version: Ref


class BookFacts(BaseModel):
    """A book at its live version."""

    name: str
    version: int
    passages: int
    documents: int
    tags: list[str]
    updated: str
    encoder: str | None


class BookList(BaseModel):
    """GET /v1/books."""

    data: list[BookFacts]


class DocumentFacts(BaseModel):
    """A document in a book; `pages` is the last page on which a passage begins, of one with pages."""

    name: str
    title: str | None
    kind: str = Field(description="Its media type.")
    passages: int
    size: int
    pages: int | None
    note: str | None


class DocumentList(BaseModel):
    """GET …/documents."""

    version: int
    data: list[DocumentFacts]


class DocumentText(BaseModel):
    """A document's text, what every span counts in. `pages`: where the first passage from each page on begins."""

    name: str
    title: str | None
    kind: str
    version: int
    text: str
    pages: list[int] | None


class VersionFacts(BaseModel):
    """A version, as `openbook versions` lists it."""

    number: int
    created: str
    made: str
    documents: int
    passages: int
    tags: list[str]
    live: bool
    whole: bool


class VersionList(BaseModel):
    """GET …/versions, oldest first."""

    data: list[VersionFacts]


class Tagged(BaseModel):
    """A tag and its version."""

    name: str
    version: int


class Used(BaseModel):
    """The version that is live now, and the one before."""

    version: int
    before: int


class Hits(BaseModel):
    """Passages found, the best first, as `openbook find --json` has them."""

    query: str
    book: dict[str, Any]
    hits: list[dict[str, Any]]


class Skipped(BaseModel):
    """A file that was not taken, and why."""

    name: str
    reason: str


class AddedFacts(BaseModel):
    """What an upload came to."""

    documents: int
    passages: int
    unchanged: int
    replaced: int
    dropped: int
    ignored: int
    seconds: float
    skipped: list[Skipped]
    notes: list[str]


class Done(BaseModel):
    """The last event of an upload."""

    event: Literal["done"] = "done"
    added: AddedFacts
    version: int


class Proof(BaseModel):
    """What a search of every file of the book found of a forgotten document."""

    model_config = ConfigDict(extra="allow")

    left: list[dict[str, Any]]


class ForgottenFacts(BaseModel):
    """What a `forget` removed."""

    documents: list[str]
    passages: int
    versions: list[int]
    tags: list[str]
    answers: int
    neighbours: int
    bytes: int
    version: int
    proof: Proof | None = None


class Facts(BaseModel):
    """An answer of openbook's own kind, as the command of that name prints with `--json`."""

    model_config = ConfigDict(extra="allow")


class AnswerRow(BaseModel):
    """An answer in the history; `id` counts within its book."""

    id: int
    book: str
    question: str
    answer: str
    abstained: bool
    when: str


class AnswerList(BaseModel):
    """GET /v1/answers, the newest first."""

    data: list[AnswerRow]
