"""SQuAD's format (v1.1, v2.0, CMRC): questions with gold answers, and a book of the paragraphs they are about."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openbook.book.adding import Progress
from openbook.book.embedder import Embedder
from openbook.book.store import Book, open_book
from openbook.errors import Fault
from openbook.home import home

LONGEST = 1 << 29
"""Bytes of a file that is unpacked: fifteen times SQuAD."""


@dataclass(frozen=True)
class Question:
    """A question, its gold answers (none: it cannot be answered), and the name of the document that holds them."""

    text: str
    golds: tuple[str, ...]
    document: str


@dataclass(frozen=True)
class Squad:
    """A file in SQuAD's format: paragraphs by document name, and questions in the file's order."""

    paragraphs: dict[str, str]
    questions: tuple[Question, ...]
    digest: str

    def sample(self, count: int, seed: int = 0, skip: int = 0) -> list[Question]:
        """`count` questions of a fixed shuffle, after the first `skip` of it."""
        order = list(range(len(self.questions)))
        random.Random(seed).shuffle(order)  # noqa: S311 nothing secret: the same sample each time
        return [self.questions[i] for i in order[skip : skip + count]]


def read_squad(path: Path) -> Squad:
    """Read `path` (.json or .json.gz). Raises `Fault` if it is not in SQuAD's format, or too long."""
    try:
        raw = path.expanduser().read_bytes()
    except OSError as error:
        raise Fault(f"{path} cannot be read: {error.strerror}; give a file in SQuAD's format") from error
    try:
        data = json.loads(_unpacked(raw) if path.suffix == ".gz" else raw)["data"]
        paragraphs: dict[str, str] = {}
        questions: list[Question] = []
        for a, article in enumerate(data):
            title = str(article.get("title", "")).replace("_", " ").replace("/", " ") or f"article {a}"
            for p, paragraph in enumerate(article["paragraphs"]):
                name = f"{a:03}-{p:03}.md"
                paragraphs[name] = f"# {title}\n\n{paragraph['context']}\n"
                questions += [_question(entry, name) for entry in paragraph["qas"]]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"there is no {error}" if isinstance(error, KeyError) else error
        raise Fault(f"{path} is not in SQuAD's format: {why}; it needs data[].paragraphs[].qas[]") from None
    if not questions:
        raise Fault(f"{path} holds no questions")
    return Squad(paragraphs, tuple(questions), hashlib.sha256(raw).hexdigest())


def _unpacked(raw: bytes) -> bytes:
    """What a .gz holds: a small one may hold any amount."""
    data = gzip.GzipFile(fileobj=io.BytesIO(raw)).read(LONGEST + 1)
    if len(data) > LONGEST:
        raise ValueError(f"more than {LONGEST >> 20} MiB are packed in it")
    return data


def _question(entry: dict[str, Any], document: str) -> Question:
    golds = tuple(dict.fromkeys(str(answer["text"]) for answer in entry.get("answers", ())))
    return Question(str(entry["question"]), golds, document)


def book_of(squad: Squad, encoder: Embedder, progress: Progress | None = None) -> Book:
    """The book of a file's paragraphs, one document each; made once and kept under `home()/books`.

    The paragraphs lie in a folder beside it, whose name the documents carry: they and their passages have the same
    names and ids on every machine, and a run that was interrupted is gone on with.
    """
    book = open_book(home() / "books" / f"qa-{squad.digest[:16]}")
    folder = book.path.with_name(f"{book.path.name}-documents")
    names = {f"{folder.name}/{name}" for name in squad.paragraphs}
    held = {document.name for document in book.documents()}
    if held < names:
        folder.mkdir(exist_ok=True)
        for name, text in squad.paragraphs.items():
            _write(folder / name, text)
        book.add(folder, encoder=encoder, progress=progress)
        held = {document.name for document in book.documents()}
    if held != names:
        raise Fault(f"{book.path} does not hold the paragraphs of this file alone; delete it and run this again")
    return book


def _write(path: Path, text: str) -> None:
    """The text in the file, whole or not at all; a file that holds it is left alone, its time with it."""
    data = text.encode("utf-8", "replace")
    if path.is_file() and path.read_bytes() == data:
        return
    fresh = path.with_name(f".{path.name}")  # hidden: no document
    fresh.write_bytes(data)
    fresh.replace(path)
