"""From a request to the work of answering it: which book at which version, which settings, which words."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from openbook.answer.account import sources_of
from openbook.answer.answer import Answer, Source, Token
from openbook.answer.ask import tokens_of
from openbook.answer.chat import tokens_of_chat
from openbook.answer.closed import Closed
from openbook.answer.routing import Route
from openbook.answer.summarize import summarize_with
from openbook.book.manifest import BookFault
from openbook.book.store import Book
from openbook.book.versions import gone
from openbook.lm.cache.beginnings import Beginnings
from openbook.lm.decoding.constrain import Constraint
from openbook.lm.model import LanguageModel
from openbook.mix.diverse import SPARE
from openbook.mix.prompt import Prompt, Turn
from openbook.mix.reading import Reading
from openbook.mix.settings import Settings
from openbook.serve.engine import Aside
from openbook.serve.errors import Refused
from openbook.serve.schemas import ChatRequest, Form, JsonOf, Message, Options, Plain
from openbook.serve.shelf import Shelf, Shelved
from openbook.serve.ways import Told, check_way, way_of

PREFIX = "openbook:"
CHAT_TOKENS = 512
"""Tokens that the model alone writes at most, where nothing is said: it answers at length."""


@dataclass(frozen=True)
class Begun(Aside):
    """What is known before the first token: the sources and what retrieval believes of them."""

    sources: tuple[Source, ...]


@dataclass
class Asked:
    """One question on its way into the engine. `told` says what it waits for, while it waits; `read` counts the
    tokens of its messages and `route` says how it is answered, once it is at work.

    A chat with the model alone does not read again what `beginnings` has of it: `cached` tokens of those `read`."""

    question: str
    messages: Sequence[Message]
    settings: Settings
    model: str
    shelved: Shelved | None = None
    book: Book | None = None
    way: str | None = None
    route: Route | None = None
    told: str = ""
    read: int = 0
    cached: int = 0
    beginnings: Beginnings | None = None
    reading: list[Reading] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Branches that write it."""
        if self.book is None:
            return 1
        groups = 1 if self.settings.answers == 1 else self.settings.answers + SPARE
        return (self.settings.passages + 1) * groups

    def seeded(self, seed: int) -> Asked:
        """The same question with another seed."""
        return replace(
            self, settings=replace(self.settings, sampling=replace(self.settings.sampling, seed=seed)), reading=[]
        )

    def work(self, model: LanguageModel) -> Generator[Token | Begun, None, Answer | Told]:
        """The engine's work: what is known first, the tokens, and the answer."""
        try:
            return (yield from self._work(model))
        except BookFault as error:
            if self.book is not None and gone(self.book.path, self.book.version):
                told = f"version {self.book.version} was forgotten while this was answered; ask again"
                raise Refused(409, told, code="version_gone") from error
            raise

    def _work(self, model: LanguageModel) -> Generator[Token | Begun, None, Answer | Told]:
        self.read = sum(len(ids) for ids in model.tokenizer.encode_batch([m.text for m in self.messages]))
        if self.book is None or self.shelved is None:
            return (yield from self._chat(model))
        reader = self.shelved.reader(self.book, model, self.settings, self._tell)
        if self.way is not None:
            self.route, stored = way_of(self.way, self.question, self.shelved, reader)
            if self.route.way == "faq" and stored is not None:
                return Told(stored.to_dict())
            if self.route.way == "graph":
                self.settings = replace(self.settings, paths="graph")
                reader = replace(reader, settings=self.settings)
            elif self.route.way == "closed":
                self.settings = replace(self.settings, margin=None)
                reader = Closed(self.book, model, reader.encoder, self.settings, reader.kept, self._tell)
        if self.route is not None and self.route.way == "global":
            return Told(summarize_with(reader, self.question, told=self._tell).to_dict())
        return (yield from self._announced(tokens_of(reader, self.question, self.reading.append)))

    def _chat(self, model: LanguageModel) -> Generator[Token, None, Answer]:
        """The model alone. All that it reads is the client's prompt: so that is counted, and what of it was kept."""
        said = [{"role": _role(m), "content": m.text} for m in self.messages]
        answer = yield from tokens_of_chat(model, said, self.settings, self.beginnings)
        self.read, self.cached = (int(answer.timings[name]) for name in ("prompt_tokens", "cached_tokens"))
        return answer

    def _announced(self, tokens: Generator[Token, None, Answer]) -> Generator[Token | Begun, None, Answer]:
        """The tokens with what is known first in front of them."""
        try:
            while True:
                try:
                    token = next(tokens)
                except StopIteration as end:
                    yield from self._known()
                    answer: Answer = end.value
                    return answer
                yield from self._known()
                yield token
        finally:
            tokens.close()

    def _known(self) -> Iterator[Begun]:
        if self.reading:
            yield Begun(sources_of(self.reading.pop(), None))

    def _tell(self, done: int, total: int, what: str) -> None:
        self.told = f"{what} {done}/{total}"


def asked_of(request: ChatRequest, shelf: Shelf, models: Sequence[str], defaults: Settings) -> Asked:
    """What a chat request asks, and of which model: the first unless it names another.

    `Refused` (404) for a book, version or model that is not here, `Fault` for settings that do not go together.
    """
    model = model_of(request.model, request.openbook, models)
    shelved = book_of(request.model, request.openbook, shelf, models)
    settings = settings_of(request, defaults, alone=shelved is None)
    if shelved is None:
        return Asked(request.messages[-1].text, request.messages, settings, model)
    settings = replace(settings, prompt=prompt_of(request.messages, settings.prompt))
    check_way(request.openbook.way, settings)
    book = shelved.at(request.openbook.version)
    return Asked(request.messages[-1].text, request.messages, settings, model, shelved, book, request.openbook.way)


def prompt_of(messages: Sequence[Message], prompt: Prompt) -> Prompt:
    """What is said besides the last message: instructions of the system, and turns of question and answer."""
    minded = [message.text for message in messages if message.role in ("system", "developer")]
    turns: list[Turn] = []
    asked: str | None = None
    for message in messages[:-1]:
        if message.role == "user":
            if asked is not None:
                turns.append(Turn(asked, ""))
            asked = message.text
        elif message.role == "assistant":
            turns.append(Turn(asked or "", message.text))
            asked = None
    if asked is not None:
        turns.append(Turn(asked, ""))
    return replace(prompt, turns=tuple(turns), instructions="\n\n".join(minded))


def model_of(name: str, options: Options, models: Sequence[str]) -> str:
    """The language model that a request's model and options mean."""
    if options.model is None:
        return name if name in models else models[0]
    if options.model not in models:
        there = ", ".join(models)
        raise Refused(404, f"there is no model {options.model!r} here; there are: {there}", code="model_not_found")
    if name in models and name != options.model:
        raise Refused(400, f"model says {name!r}, openbook.model {options.model!r}; leave one out")
    return options.model


def book_of(name: str, options: Options, shelf: Shelf, models: Sequence[str]) -> Shelved | None:
    """The book that a model's name and the options mean; None: the model alone."""
    if name in models:
        return None if options.book is None else shelf.named(options.book)
    if name != "openbook" and not name.startswith(PREFIX):
        there = ", ".join([*models, *(PREFIX + book.name for book in shelf)])
        raise Refused(404, f"there is no model {name!r}; there are: {there}", code="model_not_found", param="model")
    named = name.removeprefix(PREFIX) if name != "openbook" else None
    if named is not None and options.book not in (None, named):
        raise Refused(400, f"the model names the book {named!r}, openbook.book {options.book!r}; leave one out")
    return shelf.named(named or options.book)


def settings_of(request: ChatRequest, defaults: Settings, alone: bool) -> Settings:
    """How it is to be written: the request's over the server's."""
    options = request.openbook
    given: dict[str, Any] = {
        name: value
        for name in ("persistence", "passages", "lambda_knn", "closed_share", "cap", "paths", "hops", "margin")
        if (value := getattr(options, name)) is not None
    }
    if alone and (named := next(iter(given), None) or ("robust" if options.robust is not None else None)):
        raise Refused(400, f"{named} is of a book; the model alone has none", param=f"openbook.{named}")
    base = Settings(max_tokens=CHAT_TOKENS, sampling=defaults.sampling) if alone else defaults
    drawn: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
    sampling = replace(base.sampling, **{name: value for name, value in drawn.items() if value is not None})
    most = request.max_completion_tokens or request.max_tokens
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    greedy = sampling.temperature == 0
    if most is not None:
        given["max_tokens"] = most
    settings = replace(
        base,
        sampling=sampling,
        constraint=_constraint(request.response_format, options.regex),
        stop=tuple(stop for stop in stops if stop) or base.stop,
        answers=request.n if greedy and not alone else 1,
        likeliest=request.top_logprobs or 0,
        **given,
    )
    if options.robust is not None:
        settings = settings.robustly(options.robust)
    return replace(settings, margin=None) if options.anyway else settings


def _constraint(form: Form | None, regex: str | None) -> Constraint | None:
    """The form that is demanded of the answer."""
    if form is None or isinstance(form, Plain):
        return None if regex is None else Constraint("regex", regex)
    if regex is not None:
        raise Refused(400, "response_format and openbook.regex both demand a form; leave one out")
    schema = form.json_schema.schema_ if isinstance(form, JsonOf) else {"type": "object"}
    return Constraint("json_schema", json.dumps(schema, ensure_ascii=False))


def _role(message: Message) -> str:
    return "system" if message.role == "developer" else message.role
