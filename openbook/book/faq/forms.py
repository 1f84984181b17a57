"""Files of pairs: CSV and JSON. A form is a function from a file's text to drafts, and problems with their lines:

    @form(".csv", ".tsv")
    def of_csv(text: str) -> Iterator[Draft | Problem]: ...

Columns and fields are known by their names, in English or Chinese. Web pages and Markdown: `openbook.book.faq.pages`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from openbook.book.documents import Unreadable
from openbook.book.faq.pairs import Draft, Problem, key

Form = Callable[[str], Iterator[Draft | Problem]]
_FORMS: dict[str, Form] = {}


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


_QUESTION = _words("question questions query queries q title utterance prompt 问题 问 問題 提问 标准问 faq")
_OTHERS = _words("paraphrase paraphrases alternative alternatives variants synonyms similar 相似问 相似问题 扩展问")
_ANSWER = _words("answer answers a response reply solution acceptedanswer 答案 回答 答 回复 答复")
MAX_ROW_LINES = 200
"""Lines of one row of CSV: where a quotation mark is never closed, the rest of the file is not one cell."""
MAX_CELL = 100_000


def form(*endings: str) -> Callable[[Form], Form]:
    """Register how pairs are found in files of these endings (".csv"), lower case."""

    def register(function: Form) -> Form:
        _FORMS.update(dict.fromkeys(endings, function))
        return function

    return register


def form_of(ending: str) -> Form | None:
    """How pairs are found in files of an ending; None where nobody knows."""
    import openbook.book.faq.pages  # noqa: F401  (registers those of pages)

    return _FORMS.get(ending.lower())


def forms() -> list[str]:
    """The endings that are known, sorted."""
    form_of("")
    return sorted(_FORMS)


@form(".csv", ".tsv")
def of_csv(text: str) -> Iterator[Draft | Problem]:
    """Rows of a question and its answer, under a header that names the columns, or else the first two columns."""
    mark = _delimiter(text)
    cells = ((line, _cells(row, mark)) for line, row in _rows(text, mark))
    asked, others, answers, needed = [0], list[int](), [1], 2
    for nth, (line, row) in enumerate(cells):
        if isinstance(row, str):
            yield Problem(line, row)
            continue
        named = [key(cell).replace(" ", "") for cell in row]
        if nth == 0 and (columns := _columns(named)):
            asked, others, answers = columns
            needed = max([*asked, *answers]) + 1
            continue
        if len(row) < needed:
            yield Problem(line, f"has {len(row)} cell{'s' * (len(row) != 1)}, {needed} are needed; see the header")
            continue
        questions = (*(row[i] for i in asked), *(row[i] for i in others if i < len(row)))
        for answer in [row[i] for i in answers if row[i].strip()] or [""]:
            yield Draft(questions, answer, line)


def _columns(named: Sequence[str]) -> tuple[list[int], list[int], list[int]] | None:
    asked, others, answers = ([i for i, n in enumerate(named) if n in names] for names in (_QUESTION, _OTHERS, _ANSWER))
    return (asked, others, answers) if asked and answers else None


def _delimiter(text: str) -> str:
    """What stands in the most of the first lines; a comma may stand in any text, a tab in none."""
    first = text[:MAX_CELL].split("\n", 20)[:20]
    return max("\t;,|", key=lambda mark: sum(mark in line for line in first))


def _inside(line: str, mark: str, inside: bool) -> bool:
    """Whether a line ends inside a quoted cell, if it begins `inside` one or not. A quotation mark opens a cell only
    where one begins: 5" is five inches."""
    at = 0
    while True:
        if inside:
            at = line.find('"', at) + 1
            if at == 0:
                return True
            if line.startswith('"', at):  # a doubled one is a character of the cell
                at += 1
                continue
        elif line.startswith('"', at):
            inside, at = True, at + 1
            continue
        inside, at = False, line.find(mark, at) + 1
        if at == 0:
            return False


def _rows(text: str, mark: str) -> Iterator[tuple[int, str | None]]:
    """Rows with the line each begins in; None for a line whose quotation mark is not closed soon."""
    lines, at = text.split("\n"), 0
    while at < len(lines):
        stop, inside = at, _inside(lines[at], mark, False)
        while inside and stop + 1 < min(len(lines), at + MAX_ROW_LINES):
            stop += 1
            inside = _inside(lines[stop], mark, True)
        if inside:
            yield at + 1, None
            at += 1
            continue
        row = "\n".join(lines[at : stop + 1])
        if row.strip():
            yield at + 1, row
        at = stop + 1


def _cells(row: str | None, mark: str) -> list[str] | str:
    """The cells of a row, or what is wrong with it."""
    if row is None:
        return "a quotation mark is opened and not closed"
    if len(row) > MAX_CELL:
        return f"a row of {len(row):,} characters; at most {MAX_CELL:,}"
    try:
        return next(csv.reader([row], delimiter=mark, strict=True))
    except csv.Error as error:
        return f"is no row of CSV: {error}"


@form(".json")
def of_json(text: str) -> Iterator[Draft | Problem]:
    """Every object with a question and an answer, wherever it stands; else one object of answers by question."""
    value = _parsed(text, 1)
    found = list(_objects(value, 1))
    if not found and isinstance(value, dict) and value and all(isinstance(v, str) for v in value.values()):
        found = [Draft((question,), answer, 1) for question, answer in value.items()]
    yield from placed(found, text)


@form(".jsonl", ".ndjson")
def of_jsonl(text: str) -> Iterator[Draft | Problem]:
    """An object a line, with a question and an answer or several."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found: list[Draft | Problem] = list(_objects(_parsed(line, number), number))
        except Unreadable as error:
            yield Problem(number, error.reason)
            continue
        yield from found or [Problem(number, "has no question with an answer")]


def _parsed(text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(f"is no JSON: {error.msg} in line {line + error.lineno - 1}") from error
    except RecursionError as error:
        raise Unreadable("nests its JSON too deep") from error


def _objects(value: Any, line: int) -> Iterator[Draft]:
    """Drafts of the objects inside a value, in order; without recursion, as the value is a stranger's."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping) and (questions := _asked(one)) is not None:
            answers = [text for name, inner in one.items() if _name(name) in _ANSWER for text in _texts(inner)]
            yield from (Draft(tuple(questions), answer, line) for answer in answers or [""])
        elif isinstance(one, Mapping | list):
            waiting.extend(reversed(list(one.values() if isinstance(one, Mapping) else one)))


def _asked(one: Mapping[str, Any]) -> list[str] | None:
    """The questions of an object that is a pair; schema.org's `Question` has its question under `name`."""
    names = {_name(name): inner for name, inner in one.items()}
    if str(names.get("@type")) == "Question" or ("name" in names and "acceptedanswer" in names):
        return _texts(names.get("name", ""))
    if not names.keys() & _ANSWER or not names.keys() & _QUESTION:
        return None
    first = [text for name in names if name in _QUESTION for text in _texts(names[name])]
    return [*first, *(text for name in names if name in _OTHERS for text in _texts(names[name]))]


def _name(name: str) -> str:
    return name.casefold().replace(" ", "").replace("_", "")


def _texts(value: Any) -> list[str]:
    """The texts of a field: one, a list of them, or an object's `text`."""
    if isinstance(value, Mapping):
        value = value.get("text", "")
    if isinstance(value, list):
        return [text for one in value if not isinstance(one, list) for text in _texts(one)]
    return [] if value is None else [str(value)]


def placed(found: Sequence[Draft | Problem], text: str) -> Iterator[Draft | Problem]:
    """What was found, with the lines of the file that the questions stand in: looked for in order."""
    at, line = 0, 1
    for one in found:
        first = one.questions[0] if isinstance(one, Draft) and one.questions else ""
        spelled = {json.dumps(first, ensure_ascii=False)[1:-1], json.dumps(first)[1:-1], first[:30]}
        places = [place for place in (text.find(way, at) for way in spelled if way) if place >= 0]
        if places:
            line += text.count("\n", at, min(places))
            at = min(places)
        yield replace(one, line=line)
