"""openbook: answers from your own documents, with the evidence for every token.

    book = openbook.open_book("notes.book")
    book.add("notes/")
    answer = openbook.ask("Who led the comet team?", book=book, model=openbook.load_model("smollm2"))

Importing this imports nothing else: each name brings its module when it is first used (PEP 562).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openbook.lazy import names

if TYPE_CHECKING:
    from openbook import book as book
    from openbook import lm as lm
    from openbook import mix as mix
    from openbook.answer.answer import Answer as Answer
    from openbook.answer.ask import ask as ask
    from openbook.answer.ask import stream as stream
    from openbook.answer.warm import warm as warm
    from openbook.book.store import open_book as open_book
    from openbook.errors import Fault as Fault
    from openbook.lm.model import load_model as load_model

    __version__: str

_HOMES = {
    "Answer": "openbook.answer.answer",
    "Fault": "openbook.errors",
    "ask": "openbook.answer.ask",
    "load_model": "openbook.lm.model",
    "open_book": "openbook.book.store",
    "stream": "openbook.answer.ask",
    "warm": "openbook.answer.warm",
    **{room: f"openbook.{room}" for room in ("book", "lm", "mix")},
}
_bring, __dir__ = names(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # longer to import than all else here

        return metadata.version("openbook")
    return _bring(name)
