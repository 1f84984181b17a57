"""/v1/responses in its basic form: a question or a conversation in, one message with its citations out.

It is translated to a chat request and answered as that is; nothing is remembered from one request to the next.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as Asking
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from openbook.answer.answer import Answer, Token, token_dict
from openbook.serve.asked import Asked, asked_of
from openbook.serve.chat import UNBUFFERED, Text
from openbook.serve.citing import citations
from openbook.serve.errors import refusal
from openbook.serve.schemas import (
    MOST_MESSAGES,
    ChatRequest,
    JsonObject,
    Message,
    Name,
    Options,
    Plain,
    Request,
    Temperature,
    Tokens,
    TopP,
    Unread,
)
from openbook.serve.schemas import Text as Said
from openbook.serve.service import Served, Service
from openbook.serve.sse import comment, event_of
from openbook.serve.ways import Told
from openbook.serve.written import Ended, Quiet, answers, events

router = APIRouter(tags=["answers"])


class Turn(Message):
    """A message, as this API lists it among others."""

    type: Literal["message"] = "message"


class FormOf(Request):
    """JSON of a schema, as this API spells it."""

    type: Literal["json_schema"]
    name: Name
    schema_: dict[str, Any] = Field(alias="schema")
    description: Said | None = None
    strict: bool | None = None


class TextForm(Request):
    """The form of the answer."""

    format: Annotated[Plain | JsonObject | FormOf, Field(discriminator="type")] | None = None


class ResponsesRequest(Request):
    """POST /v1/responses."""

    model: Name
    input: Said | Annotated[list[Turn], Field(min_length=1, max_length=MOST_MESSAGES - 1)]  # and the instructions
    instructions: Said | None = None
    stream: bool = False
    temperature: Temperature | None = None
    top_p: TopP | None = None
    max_output_tokens: Tokens | None = None
    text: TextForm | None = None
    user: Unread = None
    safety_identifier: Unread = None
    prompt_cache_key: Unread = None
    metadata: dict[str, str] | None = Field(default=None, description="Taken and not used.")
    openbook: Options = Options()

    @model_validator(mode="after")
    def _asks(self) -> ResponsesRequest:
        if not isinstance(self.input, str) and self.input[-1].role != "user":
            raise ValueError("the last message must be the user's: it is what is answered")
        return self

    def as_chat(self) -> ChatRequest:
        """The same as a chat request."""
        turns = [Turn(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        said = [{"role": turn.role, "content": turn.text} for turn in turns]
        if self.instructions is not None:
            said.insert(0, {"role": "system", "content": self.instructions})
        form = None if self.text is None or self.text.format is None else self.text.format.model_dump(by_alias=True)
        if form is not None and form["type"] == "json_schema":
            form = {"type": "json_schema", "json_schema": {k: v for k, v in form.items() if k != "type"}}
        return ChatRequest.model_validate(
            {
                "model": self.model,
                "messages": said,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "max_tokens": self.max_output_tokens,
                "response_format": form,
                "openbook": self.openbook.model_dump(exclude_none=True),
            }
        )


class ResponseBody(BaseModel):
    """A response: its `output` is one message of text with annotations."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    openbook: dict[str, Any] | None = None


EVENTS = {"description": "The response, or with `stream` its events.", "content": {"text/event-stream": {}}}


@router.post("/v1/responses", response_model=ResponseBody, responses={200: EVENTS})
async def create_response(request: Asking, body: ResponsesRequest, service: Served) -> Response:
    """Answer from a book, or by the model alone."""
    asked = await asyncio.to_thread(asked_of, body.as_chat(), service.shelf, service.names, service.defaults)
    reply = Reply(service, body, asked, str(request.base_url).rstrip("/"))
    run = service.start(asked)
    if body.stream:
        return StreamingResponse(reply.stream(run), media_type="text/event-stream", headers=UNBUFFERED)
    [answer] = await answers(request, [run], service.limits.seconds)
    return JSONResponse(await reply.whole(answer))


@dataclass
class Reply:
    """One response on its way back."""

    service: Service
    body: ResponsesRequest
    asked: Asked
    address: str
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    sent: int = 0

    @property
    def item(self) -> str:
        """The message's id."""
        return self.id.replace("resp_", "msg_")

    async def whole(self, answer: Answer | Told) -> dict[str, Any]:
        """The response as it ends."""
        facts = await self.service.told(self.asked, answer)
        status = "incomplete" if answer.ended == "limit" else "completed"
        written = len(answer.tokens)
        usage = {
            "input_tokens": self.asked.read,
            "input_tokens_details": {"cached_tokens": self.asked.cached, "cache_write_tokens": 0},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.asked.read + written,
        }
        return {
            **self._frame(status, [self._message(status, [self._part(answer)])]),
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "usage": usage,
            "openbook": facts if self.body.openbook.evidence else {"answer_id": facts["id"]},
        }

    def _frame(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        sampling, text = self.asked.settings.sampling, self.body.text
        form = None if text is None else text.format
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": self.body.instructions,
            "max_output_tokens": self.asked.settings.max_tokens,
            "metadata": {},
            "model": self.body.model,
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": sampling.temperature,
            "text": {"format": {"type": "text"} if form is None else form.model_dump(by_alias=True)},
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "truncation": "disabled",
        }

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.item, "type": "message", "role": "assistant", "status": status, "content": content}

    def _part(self, answer: Answer | Told | None) -> dict[str, Any]:
        text = "" if answer is None or answer.abstained else answer.text
        cited = [] if answer is None else [c.model_dump() for c in citations(answer, self.asked, self.address)]
        return {"type": "output_text", "text": text, "annotations": cited, "logprobs": []}

    async def stream(self, run: Any) -> AsyncIterator[str]:
        """The response's events, numbered."""
        place = {"item_id": self.item, "output_index": 0, "content_index": 0}
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response=self._frame("in_progress", []))
        yield self._event("response.output_item.added", output_index=0, item=self._message("in_progress", []))
        yield self._event("response.content_part.added", **place, part=self._part(None))
        text, evidence = Text(self.asked.settings.constraint is None), self.body.openbook.evidence
        async for _, event in events([run], self.service.limits.seconds):
            if isinstance(event, Quiet):
                yield comment("at work")
            elif isinstance(event, Token):
                told = {"openbook": {"token": token_dict(event)}} if evidence else {}
                if (piece := text.push(event)) or told:
                    yield self._event("response.output_text.delta", **place, delta=piece, logprobs=[], **told)
            elif isinstance(event, Ended):
                async for last in self._last(event, place):
                    yield last

    async def _last(self, ended: Ended, place: dict[str, Any]) -> AsyncIterator[str]:
        if ended.error is not None:
            problem = refusal(ended.error)
            code = problem.code or "server_error"
            yield self._event("error", code=code, message=str(problem), param=problem.param)
            return
        response = await self.whole(ended.answer)
        [message] = response["output"]
        [part] = message["content"]
        if isinstance(ended.answer, Told):
            yield self._event("response.output_text.delta", **place, delta=part["text"], logprobs=[])
        for number, cited in enumerate(part["annotations"]):
            yield self._event(
                "response.output_text.annotation.added", **place, annotation_index=number, annotation=cited
            )
        yield self._event("response.output_text.done", **place, text=part["text"], logprobs=[])
        yield self._event("response.content_part.done", **place, part=part)
        yield self._event("response.output_item.done", output_index=0, item=message)
        yield self._event(f"response.{response['status']}", response=response)

    def _event(self, kind: str, **data: Any) -> str:
        told = {"type": kind, "sequence_number": self.sent, **data}
        self.sent += 1
        return event_of(told, kind)
