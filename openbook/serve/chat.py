"""/v1/chat/completions: an answer from a book, or from the model alone, whole or as it is written."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from openbook.answer.answer import Answer, Token, source_dict, token_dict
from openbook.serve.asked import Asked, Begun, asked_of
from openbook.serve.citing import citations
from openbook.serve.errors import refusal
from openbook.serve.replies import Choice, Completion, Likely, Logprob, Logprobs, PromptDetails, Said, Usage
from openbook.serve.schemas import ChatRequest
from openbook.serve.service import Served, Service
from openbook.serve.sse import comment, event_of
from openbook.serve.ways import Told
from openbook.serve.written import Ended, Quiet, answers, events

router = APIRouter(tags=["answers"])
EVENTS = {"description": "The answer, or with `stream` its events.", "content": {"text/event-stream": {}}}
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.post("/v1/chat/completions", response_model=Completion, responses={200: EVENTS})
async def chat_completions(request: Request, body: ChatRequest, service: Served) -> Response:
    """Answer the last user message from a book (`openbook:BOOK`), or by the model alone."""
    asked = await asyncio.to_thread(asked_of, body, service.shelf, service.names, service.defaults)
    seed = asked.settings.sampling.seed
    drawn = body.n if asked.settings.answers == 1 else 1
    askings = [asked, *(asked.seeded(seed + i) for i in range(1, drawn))]
    reply = Reply(service, body, str(request.base_url).rstrip("/"), service.loaded(asked.model).fingerprint)
    runs = []
    try:
        for one in askings:
            runs.append(service.start(one))
    except BaseException:
        for run in runs:
            run.cancel()
        raise
    if body.stream:
        listened = reply.stream(askings, runs)
        return StreamingResponse(listened, media_type="text/event-stream", headers=UNBUFFERED)
    found = await answers(request, runs, service.limits.seconds)
    return JSONResponse(await reply.whole(askings, found))


@dataclass
class Reply:
    """One request's answer on its way back."""

    service: Service
    body: ChatRequest
    address: str
    fingerprint: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self, askings: Sequence[Asked], found: Sequence[Answer | Told]) -> dict[str, Any]:
        """The answers at once; of several that were drawn each choice has its own evidence."""
        told = [await self.service.told(asked, answer) for asked, answer in zip(askings, found, strict=True)]
        choices: list[Choice] = []
        for asked, answer, facts in zip(askings, found, told, strict=True):
            for each in (answer, *answer.others):
                choices.append(self._choice(len(choices), asked, each))
            if self.body.openbook.evidence and len(found) > 1:
                choices[-1].openbook = facts
        completion = Completion(
            id=self.id,
            created=self.created,
            model=self.body.model,
            choices=choices,
            usage=_usage(askings, found),
            system_fingerprint=self.fingerprint,
            openbook=told[0] if self.body.openbook.evidence else {"answer_id": told[0]["id"]},
        )
        return completion.model_dump()

    def _choice(self, index: int, asked: Asked, answer: Answer | Told) -> Choice:
        cited = citations(answer, asked, self.address)
        said = Said(content="" if answer.abstained else answer.text, annotations=cited)
        logprobs = Logprobs(content=[logprob_of(t) for t in answer.tokens]) if self.body.logprobs else None
        return Choice(index=index, message=said, logprobs=logprobs, finish_reason=_finish(answer))

    async def stream(self, askings: Sequence[Asked], runs: Sequence[Any]) -> AsyncIterator[str]:
        """Server-sent events: chunks as OpenAI's, comments while nothing comes, `[DONE]`."""
        texts = [Text(asked.settings.constraint is None) for asked in askings]
        begun: set[int] = set()
        found: list[Answer | Told] = []
        index = len(askings)
        async for place, event in events(runs, self.service.limits.seconds):
            if isinstance(event, Quiet):
                yield _waiting(askings, runs)
                continue
            if place not in begun:
                begun.add(place)
                yield self._first(place, askings[place], event)
            if isinstance(event, Token):
                if (chunk := self._token(place, event, texts[place].push(event))) is not None:
                    yield chunk
            elif isinstance(event, Ended):
                if event.error is not None:
                    yield event_of(refusal(event.error).body())
                    return
                found.append(event.answer)
                if isinstance(event.answer, Told) and not event.answer.abstained:
                    yield event_of(self._chunk(place, {"content": event.answer.text}))
                yield await self._last(place, askings[place], event.answer)
                for other in event.answer.others:
                    yield self._other(index, askings[place], other)
                    index += 1
        if self.body.stream_options is not None and self.body.stream_options.include_usage:
            yield event_of({**self._frame([]), "usage": _usage(askings, found).model_dump()})
        yield "data: [DONE]\n\n"

    def _frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        frame = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.body.model}
        return {**frame, "choices": choices, "system_fingerprint": self.fingerprint}

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        logprobs = more.pop("logprobs", None)
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._frame([choice]), **({"openbook": more} if more and self.body.openbook.evidence else {})}

    def _first(self, place: int, asked: Asked, event: Any) -> str:
        known: dict[str, Any] = {"settings": asked.settings.summary()}
        if isinstance(event, Begun):
            known["sources"] = [source_dict(source) for source in event.sources]
        if asked.book is not None and asked.shelved is not None:
            known["book"] = {"name": asked.shelved.name, "path": str(asked.book.path), "version": asked.book.version}
        return event_of(self._chunk(place, {"role": "assistant", "content": ""}, **known))

    def _token(self, place: int, token: Token, text: str) -> str | None:
        if not (text or self.body.openbook.evidence or self.body.logprobs):
            return None
        logprobs = {"content": [logprob_of(token).model_dump()], "refusal": None} if self.body.logprobs else None
        return event_of(self._chunk(place, {"content": text}, logprobs=logprobs, token=token_dict(token)))

    async def _last(self, place: int, asked: Asked, answer: Answer | Told) -> str:
        facts = await self.service.told(asked, answer)
        cited = [c.model_dump() for c in citations(answer, asked, self.address)]
        return event_of(self._chunk(place, {"annotations": cited}, _finish(answer), answer=facts))

    def _other(self, index: int, asked: Asked, answer: Answer) -> str:
        """A whole answer that was found beside the first."""
        cited = [c.model_dump() for c in citations(answer, asked, self.address)]
        delta = {"role": "assistant", "content": answer.text, "annotations": cited}
        return event_of(self._chunk(index, delta, _finish(answer)))


class Text:
    """The stream's text without the white space around the answer, as `Answer.text` is; `trim` False leaves it."""

    def __init__(self, trim: bool) -> None:
        self._trim, self._begun, self._held = trim, False, ""

    def push(self, token: Token) -> str:
        """What can be sent now: white space at the end waits for what follows it."""
        if not self._trim:
            return token.text
        text = self._held + token.text
        if not self._begun:
            text = text.lstrip()
        self._begun = self._begun or bool(text)
        sure = text.rstrip()
        self._held = text[len(sure) :]
        return sure


def logprob_of(token: Token) -> Logprob:
    """A token as OpenAI lists it."""
    likely = [Likely(token=one.text, logprob=one.log_p, bytes=list(one.bytes)) for one in token.likeliest]
    sure = math.log(max(token.p, 1e-300))
    return Logprob(token=token.text, logprob=sure, bytes=list(token.text.encode()), top_logprobs=likely)


def _finish(answer: Answer | Told) -> Any:
    return "length" if answer.ended == "limit" else "stop"


def _usage(askings: Sequence[Asked], found: Sequence[Answer | Told]) -> Usage:
    read = max(asked.read for asked in askings)
    written = sum(len(each.tokens) for answer in found for each in (answer, *answer.others))
    kept = PromptDetails(cached_tokens=min(asked.cached for asked in askings))  # the prompt is counted once
    return Usage(prompt_tokens=read, prompt_tokens_details=kept, completion_tokens=written, total_tokens=read + written)


def _waiting(askings: Sequence[Asked], runs: Sequence[Any]) -> str:
    place = max((run.place for run in runs), default=0)
    told = f"queued {place}" if place else next((asked.told for asked in askings if asked.told), "at work")
    return comment(told)
