"""openbook: answers from your own documents, with the evidence for every token.

    book = openbook.open_book("notes.book")
    book.add("notes/")
    answer = openbook.ask("Who led the comet team?", book=book, model=openbook.load_model("smollm2"))

Importing this imports nothing else: each name brings its module when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openbook import book as book
    from openbook import lm as lm
    from openbook import mix as mix
    from openbook.answer.answer import Answer as Answer
    from openbook.answer.ask import ask as ask
    from openbook.answer.ask import stream as stream
    from openbook.book.store import open_book as open_book
    from openbook.errors import Fault as Fault
    from openbook.lm.model import load_model as load_model

    __version__: str

_HOME = {
    "Answer": "openbook.answer.answer",
    "Fault": "openbook.errors",
    "ask": "openbook.answer.ask",
    "load_model": "openbook.lm.model",
    "open_book": "openbook.book.store",
    "stream": "openbook.answer.ask",
}

_ROOMS = ("book", "lm", "mix")

__all__ = ["Answer", "Fault", "__version__", "ask", "book", "lm", "load_model", "mix", "open_book", "stream"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("openbook")
    elif name in _ROOMS:
        value = import_module(f"{__name__}.{name}")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
