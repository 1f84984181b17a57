"""What is answered, in the shapes of OpenAI's API; `openbook` holds what that has no place for (`Answer.to_dict`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Link(BaseModel):
    """A citation as OpenAI's chat API has it: the document's address on this server."""

    start_index: int
    end_index: int
    title: str
    url: str


class Citation(BaseModel):
    """A stretch of the answer and the place it comes from: OpenAI's `file_citation`, with the place itself."""

    type: Literal["file_citation"] = "file_citation"
    file_id: str
    filename: str
    index: int
    start_index: int
    end_index: int
    source: str
    source_span: tuple[int, int]
    cited_text: str
    page: int | None = None
    line: int | None = None
    url_citation: Link


class Likely(BaseModel):
    """A token that could have come, its natural log-probability under the mixture, and its bytes."""

    token: str
    logprob: float
    bytes: list[int] | None = None


class Logprob(Likely):
    """The token that came, and the likeliest in its place."""

    top_logprobs: list[Likely] = []


class Logprobs(BaseModel):
    """Of every token of a choice."""

    content: list[Logprob]
    refusal: None = None


class Said(BaseModel):
    """The message of a choice."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Citation] = []


class Choice(BaseModel):
    """One answer; `openbook` is its evidence where several were drawn."""

    index: int
    message: Said
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"]
    openbook: dict[str, Any] | None = None


class PromptDetails(BaseModel):
    """Of the prompt's tokens, how many were kept from another chat and not read again."""

    cached_tokens: int = 0


class Usage(BaseModel):
    """Tokens of the messages, and written ones; passages are not counted."""

    prompt_tokens_details: PromptDetails
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """POST /v1/chat/completions, not streamed."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str
    openbook: dict[str, Any] | None = None


class ModelCard(BaseModel):
    """A name that a request may give as its model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["openbook"] = "openbook"
    openbook: dict[str, Any] | None = None


class Models(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """GET /health."""

    status: Literal["ok", "closing"]
    version: str
