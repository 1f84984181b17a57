"""What all requests share: the engine, the books, the limits, what is counted."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request

from openbook.answer.answer import Answer
from openbook.answer.replay import run_of
from openbook.errors import Fault
from openbook.lm.cache.beginnings import Beginnings
from openbook.lm.model import LanguageModel
from openbook.mix.settings import Settings
from openbook.serve.asked import Asked
from openbook.serve.engine import Engine, Run
from openbook.serve.metrics import Counts
from openbook.serve.shelf import Shelf
from openbook.serve.ways import Told
from openbook.serve.written import answers

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What one request may cost: bytes of a body, bytes of an upload, seconds of an answer."""

    body_bytes: int = 2 << 20
    upload_bytes: int = 256 << 20
    seconds: float = 600.0


@dataclass(frozen=True)
class Loaded:
    """A model that answers, at work in its engine; `how` is what it was loaded by, `beginnings` what chats with it
    begin with."""

    engine: Engine
    how: Mapping[str, Any] = field(default_factory=dict)
    beginnings: Beginnings = field(default_factory=Beginnings)

    @property
    def name(self) -> str:
        """As /v1/models has it."""
        return self.engine.model.name

    def stats(self) -> dict[str, Any]:
        """What is counted of it: its engine's, and of chats the tokens read and the tokens found."""
        return {**self.engine.stats(), **self.beginnings.stats()}

    @cached_property
    def fingerprint(self) -> str:
        """Weights, backend and precision in a few characters, as OpenAI's `system_fingerprint`."""
        return "fp_" + hashlib.sha256(self.engine.model.fingerprint.encode()).hexdigest()[:16]


@dataclass
class Service:
    """One process that answers, with the first model unless a request names another. `defaults` are the settings where
    a request says nothing; without `history` answers are not kept with their books.

    `drawing` bounds the pages that are drawn at once, each in a process with up to a gibibyte of memory; `jobs` go on
    where their client goes away.
    """

    models: Sequence[Loaded]
    shelf: Shelf
    defaults: Settings = field(default_factory=Settings)
    limits: Limits = field(default_factory=Limits)
    history: bool = True
    counts: Counts = field(default_factory=Counts)
    drawing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    slow: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    jobs: set[asyncio.Task[None]] = field(default_factory=set)
    began: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        names = self.names
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise Fault(f"two models are called {twice}; serve one of them, or copy one under another name")

    @property
    def names(self) -> list[str]:
        """Of the models, the one that answers unless another is asked for first."""
        return [model.name for model in self.models]

    @property
    def engine(self) -> Engine:
        """The first model's."""
        return self.models[0].engine

    def loaded(self, name: str) -> Loaded:
        """A model by its name, which must be one of `names`."""
        return self.models[self.names.index(name)]

    def start(self, asked: Asked) -> Run:
        """Put a question into its model's engine; `Busy` where the queue is full."""
        loaded = self.loaded(asked.model)
        asked.beginnings = loaded.beginnings
        return loaded.engine.start(asked.work, rows=asked.rows)

    async def compute(self, request: Request, work: Callable[[LanguageModel], T], rows: int) -> T:
        """What a function does with the model, in the engine as any question."""

        def steps(model: LanguageModel) -> Generator[None, None, T]:
            yield from ()
            return work(model)

        run = self.engine.start(steps, rows=rows)
        [made] = await answers(request, [run], self.limits.seconds)
        return cast("T", made)

    async def slowly(self, work: Callable[[], T]) -> T:
        """What may take long, on a thread: few at once, as all who wait for a thread share a handful of them."""
        async with self.slow:
            return await asyncio.to_thread(work)

    def keep_at(self, job: Coroutine[Any, Any, None]) -> None:
        """Do this to its end, whoever waits for it."""
        task = asyncio.create_task(job)
        self.jobs.add(task)
        task.add_done_callback(self.jobs.discard)

    async def finish(self) -> None:
        """Wait for what is under way; nothing more is begun."""
        while self.jobs:
            await asyncio.wait(self.jobs)

    async def told(self, asked: Asked, answer: Answer | Told) -> dict[str, Any]:
        """An answer as JSON, kept with its book: `id` is its number there, null where it is not kept."""
        facts = answer.to_dict()
        if asked.route is not None:
            facts["route"] = asked.route.to_dict()
        if asked.shelved is not None:
            facts["book"] = {**facts["book"], "name": asked.shelved.name}
        if asked.shelved is None or not self.history:
            return {**facts, "id": None}
        model = self.loaded(asked.model)
        kept = await asyncio.to_thread(asked.shelved.keep, facts, run_of(model.engine.model, model.how))
        self.counts.unkept += kept["id"] is None
        return kept


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


Served = Annotated[Service, Depends(_service)]
