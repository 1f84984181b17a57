"""What people made of answers: a log of judgements, kept in the book as a document of its own.

A log has a JSON object a line: the question as it was asked, the pair that answered (its id, or a question it is
stored under) and whether that was right:

    {"question": "router keeps rebooting", "pair": "3f0c9a1e5b7d2c48", "accepted": true}

A question whose answer was accepted becomes another question of that pair. One whose answer was rejected holds the pair
back from questions that are nearer to it than to the pair's own. The book keeps the judgements, not what they were
about: the pair is named by its id, or by the hash of its question. So nothing of a forgotten pair is in them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openbook.book.documents import Extracted, Unreadable, load, stored_as
from openbook.book.faq.pairs import MAX_QUESTION, Problem, key
from openbook.book.faq.read import SHOWN, texts_of
from openbook.book.readers.plain import decode

if TYPE_CHECKING:
    from openbook.book.store import Book

LOG = "text/x-openbook-faq-log"
"""What a log is stored as."""
MAX_JUDGEMENTS = 100_000
_ID = re.compile("[0-9a-f]{16}|q[0-9a-f]{16}")


@dataclass(frozen=True)
class Judgement:
    """A question that was asked, the pair that answered (`Pair.id`, or `named` of a question of its), and whether the
    answer was accepted."""

    question: str
    pair: str
    accepted: bool


def named(question: str) -> str:
    """What a judgement calls a pair that it knows by a question alone."""
    return "q" + hashlib.sha256(key(question).encode()).hexdigest()[:16]


def read_log(path: Path) -> tuple[list[Judgement], list[Problem]]:
    """The judgements of a log, and the lines that are none; `Unreadable` where there is not one."""
    return _judgements(load(path).data, path)


def _judgements(data: bytes, path: Path) -> tuple[list[Judgement], list[Problem]]:
    text, _ = decode(data)
    found = [_judged(line, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    problems = [one for one in found if isinstance(one, Problem)]
    judged = [one for one in found if isinstance(one, Judgement)]
    if not judged:
        reason = str(problems[0]) if problems else "it is empty"
        raise Unreadable(f"is no log of judgements: {reason}", str(path))
    if len(judged) > MAX_JUDGEMENTS:
        raise Unreadable(f"holds {len(judged):,} judgements; at most {MAX_JUDGEMENTS:,}", str(path))
    return judged, problems


def _judged(line: str, number: int) -> Judgement | Problem:
    try:
        one: Any = json.loads(line)
        question, pair, accepted = one["question"], one["pair"], one["accepted"]
    except (ValueError, RecursionError):
        return Problem(number, "is no JSON object")
    except (KeyError, TypeError):
        return Problem(number, "needs question, pair and accepted")
    if not isinstance(question, str) or not isinstance(pair, str) or type(accepted) is not bool:
        return Problem(number, "question and pair are texts, accepted is true or false")
    question = " ".join(question.split())
    if not question or len(question) > MAX_QUESTION or not pair.strip():
        return Problem(number, f"its question or its pair is empty, or longer than {MAX_QUESTION:,} characters")
    return Judgement(question, pair if _ID.fullmatch(pair) else named(pair), accepted)


@stored_as(LOG, passages=False)
def as_log(data: bytes, path: Path) -> Extracted:
    """A log as the document it becomes: a judgement a line, the pair under a name that says nothing of it."""
    judged, problems = _judgements(data, path)
    lines = (json.dumps(vars(one), ensure_ascii=False) for one in judged)
    note = f"left out: {'; '.join(map(str, problems[:SHOWN]))}" if problems else None
    return Extracted("\n".join(lines) + "\n", kind="lines", note=note)


def judgements_of(book: Book) -> Iterator[Judgement]:
    """All judgements of a book at its version, log by log."""
    for row in texts_of(book, LOG):
        found = (_judged(line, number) for number, line in enumerate(row["text"].split("\n"), 1) if line.strip())
        yield from (one for one in found if isinstance(one, Judgement))
