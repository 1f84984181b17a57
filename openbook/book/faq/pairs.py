"""Questions and the answers on file: what a pair is, and how a document holds pairs.

A file of pairs becomes a document like any other, so its pairs are added, versioned, compared, gone back to and
forgotten as documents are. Its text is

    Q: How do I reset it?
    Q: the reset button does nothing
    A: Hold it for ten seconds.
    The lamp goes out.

one pair after the other, an empty line between. `written` makes that text, `stored` reads it again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from openbook.book.documents import MAX_NAME, MAX_TEXT_CHARS, Extracted, Heading, Unreadable, tidy
from openbook.book.faq.words import folded

MEDIA = "text/x-openbook-faq"
"""What a document of pairs is stored as."""
MAX_PAIRS = 50_000
"""Pairs of one file."""
MAX_QUESTION, MAX_ANSWER, MAX_QUESTIONS = 1_000, 20_000, 200
"""Characters of a question and of an answer, and questions of one answer in one file."""

_QUESTION, _ANSWER = "Q: ", "A: "
_MARKED = re.compile(r"^(?=[QA]: )", re.MULTILINE)


@dataclass(frozen=True)
class Draft:
    """A pair as a file has it, before it is stored; `line` counts from 1, of the file."""

    questions: tuple[str, ...]
    answer: str
    line: int


@dataclass(frozen=True)
class Problem:
    """What of a file was left out, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Pair:
    """A stored answer and the questions it is for. `start:end` are its characters, `answer_start:answer_end` those of
    its answer, in the text of `document`; `line` counts from 1."""

    document: str
    title: str
    questions: tuple[str, ...]
    answer: str
    start: int
    end: int
    answer_start: int
    answer_end: int
    line: int

    @property
    def id(self) -> str:
        """16 hexadecimal digits of the document's name and the first question: a better answer keeps it."""
        return hashlib.sha256(f"{self.document}\0{key(self.questions[0])}".encode()).hexdigest()[:16]


@dataclass
class Sorted:
    """A file's pairs that are whole and new, in order, and what was left out."""

    pairs: list[Draft] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def key(text: str) -> str:
    """What two texts have in common that differ in case, accents, spaces and punctuation alone."""
    return " ".join(re.findall(r"\w+", folded(text))) or " ".join(text.split())


def sort_out(found: Iterable[Draft | Problem]) -> Sorted:
    """Leave out pairs without question or answer, longer than is stored, or there already; say each with its line."""
    made, seen = Sorted(), dict[tuple[str, str], int]()
    for one in found:
        if isinstance(one, Problem):
            made.problems.append(one)
            continue
        draft = Draft(tuple(dict.fromkeys(filter(None, map(_line, one.questions)))), _body(one.answer), one.line)
        first = tuple(key(part) for part in (draft.questions[0] if draft.questions else "", draft.answer))
        if reason := _unfit(draft) or _known(seen.get((first[0], first[1]))):
            made.problems.append(Problem(draft.line, reason))
            continue
        seen[first[0], first[1]] = draft.line
        made.pairs.append(draft)
        if len(made.pairs) > MAX_PAIRS:
            raise Unreadable(f"holds more than {MAX_PAIRS:,} pairs; split it")
    return made


def _unfit(draft: Draft) -> str | None:
    if not draft.questions:
        return "the question is empty"
    if not draft.answer:
        return f"the question {draft.questions[0][:60]!r} has no answer"
    if len(draft.questions) > MAX_QUESTIONS:
        return f"{len(draft.questions)} questions for one answer; at most {MAX_QUESTIONS}"
    if max(map(len, draft.questions)) > MAX_QUESTION:
        return f"a question of {max(map(len, draft.questions)):,} characters; at most {MAX_QUESTION:,}"
    if len(draft.answer) > MAX_ANSWER:
        return f"an answer of {len(draft.answer):,} characters; at most {MAX_ANSWER:,}"
    return None


def _known(line: int | None) -> str | None:
    return None if line is None else f"the same question and answer stand in line {line}"


def _line(question: str) -> str:
    return " ".join(tidy(question).split())


def _body(answer: str) -> str:
    """An answer as it is stored: no line of it begins as a pair does."""
    lines = (line.rstrip() for line in tidy(answer).strip().split("\n"))
    return _MARKED.sub(" ", "\n".join(lines)).strip()


def written(pairs: Sequence[Draft], title: str | None = None, note: str | None = None) -> Extracted:
    """The document of some pairs that were sorted out: each a section, headed by its first question."""
    parts, headings, at = list[str](), list[Heading](), 0
    for pair in pairs:
        asked = "\n".join(_QUESTION + question for question in pair.questions)
        headings.append(Heading(at, at + len(asked), 2, pair.questions[0][:MAX_NAME]))
        parts.append(f"{asked}\n{_ANSWER}{pair.answer}\n")
        at += len(parts[-1]) + 1
        if at > MAX_TEXT_CHARS:
            raise Unreadable(f"holds more than {MAX_TEXT_CHARS:,} characters of pairs; split it")
    return Extracted("\n".join(parts), title, headings=tuple(headings), note=note)


def stored(document: str, title: str, text: str) -> Iterator[Pair]:
    """The pairs of a document that `written` made, in order; what is not of that form is passed over."""
    questions, start, line, newlines = list[str](), 0, 1, 0
    marks = [match.start() for match in _MARKED.finditer(text)]
    for at, end in pairwise([*marks, len(text)]):
        if text.startswith(_QUESTION, at):
            if not questions:
                newlines += text.count("\n", start, at)
                start, line = at, newlines + 1
            questions.append(text[at + len(_QUESTION) : end].strip())
        elif questions:
            body = at + len(_ANSWER)
            stop = body + len(text[body:end].rstrip())
            asked = tuple(filter(None, questions))
            if asked and stop > body:
                yield Pair(document, title, asked, text[body:stop], start, stop, body, stop, line)
            questions = []
