"""What a request may say. Fields as OpenAI names them, and `openbook` for what OpenAI has no name for.

What would be passed over is refused by name. A field that is null, or asks for nothing, is as if it were absent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

LONGEST_TEXT = 1 << 18
"""Characters of one message or input."""
MOST_MESSAGES = 256
MOST_STOPS = 8

Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Temperature = Annotated[FiniteFloat, Field(ge=0, le=2)]
TopP = Annotated[FiniteFloat, Field(gt=0, le=1)]
Part = Annotated[FiniteFloat, Field(ge=0, lt=1)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Tokens = Annotated[int, Field(ge=1, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(max_length=200)]
Nothing: Any = Annotated[float | None, Field(ge=0, le=0, description="Only 0: not supported.")]
Unread: Any = Annotated[str | None, Field(max_length=512, description="Taken and not used.")]

NEUTRAL: dict[str, tuple[object, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "background": (False,),
    "truncation": ("disabled",),
    "include": ([],),
}
"""Fields of OpenAI's that are refused, save with a value that asks for nothing."""


class Request(BaseModel):
    """A body of JSON in which nothing is passed over."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, given: Any) -> Any:
        """Leave out what is null or asks for nothing."""
        if not isinstance(given, dict):
            return given
        return {
            name: value
            for name, value in given.items()
            if value is not None and not any(value == nothing for nothing in NEUTRAL.get(name, ()))
        }


class Options(Request):
    """The `openbook` field: which book, and how it is to be asked. What is absent is as the server was started."""

    book: Name | None = Field(default=None, description="A book; else the model's (`openbook:NAME`), or the first.")
    model: Name | None = Field(default=None, description="The language model, as /v1/models names it.")
    version: Annotated[int, Field(ge=0)] | Name | None = Field(default=None, description="A number, or a tag.")
    way: Literal["passages", "graph", "global", "faq", "closed", "auto"] | None = None
    persistence: Share | None = Field(default=None, description="τ: 0 Token, 1 Sequence")
    passages: Annotated[int, Field(ge=1, le=64)] | None = None
    lambda_knn: Part | Literal["auto"] | None = None
    closed_share: Part | None = None
    robust: Annotated[int, Field(ge=0, le=31)] | None = Field(default=None, description="Bad passages it withstands.")
    cap: Annotated[FiniteFloat, Field(gt=0, le=1)] | None = None
    paths: Literal["single", "behind", "sets", "neighbours", "graph"] | None = None
    hops: Annotated[int, Field(ge=2, le=4)] | None = None
    margin: FiniteFloat | None = Field(default=None, description="Bits below which an answer is withheld.")
    anyway: bool = Field(default=False, description="Answer even where it would abstain.")
    regex: Annotated[str, Field(max_length=1 << 16)] | None = Field(default=None, description="Of the whole answer.")
    evidence: bool = Field(default=True, description="Send it: each token's, and the whole answer's.")


class TextPart(Request):
    """A part of a message; others than text are not read."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


class Message(Request):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=64)]
    name: Unread = None

    @property
    def text(self) -> str:
        """What it says, its parts put together."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class StreamOptions(Request):
    """`include_usage`: one more chunk, with the usage."""

    include_usage: bool = False
    include_obfuscation: bool = Field(default=False, description="Taken and not used: nothing is padded.")


class JsonSchema(Request):
    """A schema that the answer satisfies."""

    name: Name
    description: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class Plain(Request):
    """Any text."""

    type: Literal["text"]


class JsonObject(Request):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonOf(Request):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


Form = Annotated[Plain | JsonObject | JsonOf, Field(discriminator="type")]


class ChatRequest(Request):
    """POST /v1/chat/completions."""

    model: Name = Field(description="`openbook:BOOK`, `openbook` (the first book), or the model's own name: no book.")
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=16)] = 1
    stop: Text | Annotated[list[Text], Field(max_length=MOST_STOPS)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    seed: Seed | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Form | None = None
    frequency_penalty: Nothing = None
    presence_penalty: Nothing = None
    user: Unread = None
    safety_identifier: Unread = None
    prompt_cache_key: Unread = None
    metadata: dict[str, str] | None = Field(default=None, description="Taken and not used.")
    openbook: Options = Options()

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's: it is what is answered")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is given without logprobs; set logprobs true")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is given without stream; set stream true")
        return self
