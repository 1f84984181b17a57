"""Which way a question is answered, and the answers of ways that write none of their own: a stored answer, points about
the whole book."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from openbook.answer.answer import Answer, Token
from openbook.answer.faq import Reply, reply
from openbook.answer.looked import look
from openbook.answer.routing import Route, Way, route
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings
from openbook.serve.errors import Refused
from openbook.serve.shelf import Shelved

WHOLE: tuple[Way, ...] = ("faq", "global")
"""Ways that answer at once, with a text that no setting of writing has a part in."""


@dataclass(frozen=True)
class Told:
    """An answer as a command of another name gives it with `--json`; seen as an `Answer` where that matters."""

    facts: Mapping[str, Any]
    ended: None = None
    tokens: tuple[Token, ...] = ()
    others: tuple[Answer, ...] = ()

    @property
    def text(self) -> str:
        """What it says."""
        return str(self.facts["answer"])

    @property
    def abstained(self) -> bool:
        """Whether it is withheld."""
        return bool(self.facts["abstained"])

    def to_dict(self) -> dict[str, Any]:
        """Its JSON; what only a written answer has is empty."""
        return {"tokens": [], "citations": [], **self.facts}


def way_of(way: str, question: str, shelved: Shelved, reader: Reader) -> tuple[Route, Reply | None]:
    """The way to go, and what the stored answers say if they were asked. `auto`: by the question's form, the book's
    pairs and a look into the book; where a form is demanded of the answer, only ways that can keep to it."""
    auto, book, settings = way == "auto", reader.book, reader.settings
    free = settings.constraint is None and not settings.stop and settings.answers == 1
    knowledge = shelved.pairs(book) if way == "faq" else shelved.knowledge(book) if auto and free else None
    stored = None if knowledge is None else reply(question, knowledge, book=book)
    if not auto:
        return Route(cast("Way", way), 1.0, "it was asked for", asked=True), stored
    looked = asdict(look(reader, question)) if book.count else {}  # what comes next says that it is empty
    found = route(question, faq=None if stored is None else (stored.confidence, stored.calibration.threshold), **looked)
    if found.way == "global" and not free:
        return Route("passages", found.confidence, "a form is demanded of the answer", found.shares, found.seen), None
    return found, stored


def check_way(way: str | None, settings: Settings) -> None:
    """Refuse what a way cannot keep to."""
    demanded = {
        "response_format or regex": settings.constraint is not None,
        "stop": bool(settings.stop),
        "n": settings.answers > 1,
        "top_logprobs": settings.likeliest > 0,
    }
    if way in WHOLE and (name := next((name for name, given in demanded.items() if given), None)):
        raise Refused(400, f"{name} is of an answer that is written; the way {way!r} writes none", param=name)
