"""Answers given, kept with their book: `<book>/answers/000001.json`; `home()/last` names the book last asked.

An answer's file is whole or not there. Numbers only grow; the oldest answers leave first.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from openbook.book.manifest import path_of, sync
from openbook.errors import Fault
from openbook.home import home

KEPT = 1_000
LONGEST = 1 << 26
"""Bytes of an answer's file that are read: many times what the longest answer from the most passages takes."""
HEAD, LONGEST_HEAD = 1 << 15, 1 << 23
"""Bytes of an answer's file that are looked at for its headline: of most, of all."""
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_HEAD = re.compile(rb'\{"question": (%b), "answer": (%b), "abstained": (true|false), ' % (_STRING, _STRING))
_NAME = re.compile("[0-9]{6}|[1-9][0-9]{6,11}")
HOW = "ask something first: openbook ask QUESTION"


def keep(book: Path, answer: Mapping[str, Any]) -> int:
    """Store an answer's JSON with its book and return its number, from 1. Raises `OSError` where that cannot be.

    `Fault` where the version it was given at is gone: documents were forgotten meanwhile, which it may quote.
    """
    folder = book / "answers"
    folder.mkdir(exist_ok=True)
    version = answer.get("book", {}).get("version")
    with _alone(folder):  # `forget` looks through the answers under the same lock, after it took versions away
        if isinstance(version, int) and not path_of(book, version).exists():
            raise Fault(f"version {version} of {book} is gone, a document of it was forgotten meanwhile")
        number = max(numbers(book), default=0) + 1
        # A lone surrogate becomes its escape, which is JSON again.
        _write(file_of(book, number), json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        for old in numbers(book)[:-KEPT]:
            file_of(book, old).unlink(missing_ok=True)
    last = home() / "last"
    last.parent.mkdir(parents=True, exist_ok=True)
    _write(last, os.fsencode(book.absolute()))
    return number


def numbers(book: Path) -> list[int]:
    """Numbers of the answers kept with a book, oldest first."""
    return sorted(int(p.stem) for p in (book / "answers").glob("*.json") if _NAME.fullmatch(p.stem))


def recall(book: Path, number: int | None = None) -> dict[str, Any]:
    """The latest answer kept with a book, or the one with a number; `Fault` says what there is instead."""
    kept = numbers(book)
    if not kept:
        raise Fault(f"no answers are kept in {book}; {HOW}")
    chosen = kept[-1] if number is None else number
    if chosen not in kept:
        there = f"answers {kept[0]} to {kept[-1]}" if len(kept) > 1 else f"answer {kept[0]}"
        raise Fault(f"there is no answer {chosen} in {book}; kept there: {there}")
    return _read(book, chosen)


class Headline(NamedTuple):
    """What an answer's file begins with."""

    question: str
    answer: str
    abstained: bool


def headline(book: Path, number: int) -> Headline:
    """The beginning of an answer kept with a book, however long its evidence; `Fault` where there is none, as `recall`.

    Only a file that does not begin as `keep` writes it is read whole."""
    with suppress(ValueError, FileNotFoundError), file_of(book, number).open("rb") as file:  # told with its name below
        head = file.read(HEAD)
        found = _HEAD.match(head) or _HEAD.match(head + file.read(LONGEST_HEAD - HEAD))
        if found is not None:
            question, answer, abstained = (json.loads(part.decode("utf-8")) for part in found.groups())
            return Headline(question, answer, abstained)
    whole = _read(book, number)
    return Headline(str(whole.get("question", "")), str(whole.get("answer", "")), bool(whole.get("abstained")))


def _read(book: Path, number: int) -> dict[str, Any]:
    path = file_of(book, number)
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
        answer = json.loads(data.decode("utf-8")) if len(data) <= LONGEST else None
    except FileNotFoundError as error:
        raise Fault(f"there is no answer {number} in {book}") from error
    except (ValueError, RecursionError) as error:
        raise Fault(f"{path} is damaged; delete it and ask again") from error
    if isinstance(answer, dict) and "forgotten" in answer:
        raise Fault(f"answer {number} was forgotten with a document it was based on; ask again")
    if not isinstance(answer, dict) or "tokens" not in answer:
        raise Fault(f"{path} is not an answer; delete it and ask again")
    return answer


def last_book() -> Path:
    """The book that was asked last; `Fault` where there is none, or it is gone."""
    try:
        book = Path(os.fsdecode((home() / "last").read_bytes()))
    except FileNotFoundError as error:
        raise Fault(f"nothing was asked yet; {HOW}") from error
    if not (book / "HEAD").is_file():
        raise Fault(f"the book last asked, {book}, is gone; name another with --book DIR, or {HOW}")
    return book


def file_of(book: Path, number: int) -> Path:
    """Where an answer is kept, if it is."""
    return book / "answers" / f"{number:06d}.json"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for other processes that number an answer of this book: each takes milliseconds."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(path: Path, data: bytes) -> None:
    """Replace a file in one step, durable; nothing is left behind where that fails."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    fresh = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync(path.parent)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
