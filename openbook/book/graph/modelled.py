"""What a language model says a text names, tied to the text: what is not said there does not count.

A document is shown to a model in *stretches*, runs of its sentences. Of the reply every whole item is taken, wherever
it stands; a name must be said in the stretch, and a relation joins two names that are said in one sentence, or in
sentences `APART` of each other at most: those are its evidence. What is left out is counted.

All of it is a function of the document's text and the replies. Who asks which model is none of this floor's affair
(`openbook.book.graph.asking`).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from openbook.book.graph.extract import KINDS, LONGEST_NAME, NAME, PHRASE, normal, whole_names
from openbook.book.graph.languages import UNSPACED, language_of, stop_words
from openbook.book.graph.stored import Key, Said, Tie, Whole, table, texts_of
from openbook.book.sentences import Span

STRETCH = 1_000
"""Characters of a stretch, unless one sentence has more."""
REPLY = 1 << 15
"""Characters of a reply that are looked at."""
MOST_ITEMS = 64
"""Names, and relations, that are taken of one reply."""
LONGEST_TYPE, LONGEST_RELATION = 40, 80
APART = 2
"""How many sentences on the other name of a relation may be."""
LLM, BOTH, PRINT = "llm", "both", "built-in"
WAYS = (LLM, BOTH)
"""How names are extracted with a model's help: by it alone where it was asked, or beside what is seen in print."""

_ITEM = re.compile(r'\{(?:[^\[\]{}"]|"(?:[^"\\]|\\.)*+")*+\}|\[(?:[^\[\]{}"]|"(?:[^"\\]|\\.)*+")*+\]')
_NAMES, _TYPES = ("name", "entity", "title"), ("type", "kind", "label", "category")
_FROM, _TO = ("a", "source", "subject", "from", "head"), ("b", "target", "object", "to", "tail")
_WHATS = ("relation", "description", "relationship", "predicate", "type", "label")


class Item(NamedTuple):
    """What a model names, and what it calls it; `other` where it is a relation to that."""

    name: str
    what: str
    other: str | None = None


@dataclass(frozen=True)
class Part:
    """What a model named in one stretch, number `number` of `of`, which has the document's sentences `first:last`.

    `types` are of the names; `mentions_R4` as in `Said`; `ties` join names that are here. `dropped` names and relations
    were not in the text. `tokens` were read and written.
    """

    key: Key
    number: int
    of: int
    rows: Span
    normals: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    mentions_R4: Whole = field(default_factory=lambda: np.zeros((0, 4), np.int64))
    ties: list[Tie] = field(default_factory=list)
    dropped: tuple[int, int] = (0, 0)
    tokens: tuple[int, int] = (0, 0)


def stretches(sentences: Sequence[Span]) -> list[Span]:
    """Runs of sentences (numbers `first:last`) that are shown to a model at once."""
    found: list[Span] = []
    first = 0
    for row, (_, end) in enumerate(sentences):
        if row > first and end - sentences[first][0] > STRETCH:
            found.append((first, row))
            first = row
    return [*found, (first, len(sentences))] if len(sentences) else []


def items(reply: str) -> Iterator[Item]:
    """Every whole item of a reply, of however much else it consists: `["Ada", "person"]`, `["Ada", "met", "Bo"]`, or
    objects with these under the names that models give them.

    >>> list(items('Sure! {"names": [["Ada", "person"]], "relations": [{"a": "Ada", "relation": "met", "b": "Bo"}, '))
    [Item(name='Ada', what='person', other=None), Item(name='Ada', what='met', other='Bo')]
    """
    for match in _ITEM.finditer(reply[:REPLY]):
        try:
            value = json.loads(match[0])
            match[0].encode()
        except (ValueError, RecursionError):
            continue
        told = _of_list(value) if isinstance(value, list) else _of_object(value)
        if told is not None and all(isinstance(text, str) and _sound(text) for text in told):
            yield Item(*told)


def _of_list(value: list[Any]) -> tuple[Any, ...] | None:
    return tuple(value) if len(value) in (2, 3) else None


def _of_object(value: dict[str, Any]) -> tuple[Any, ...] | None:
    def first(names: Iterable[str], otherwise: Any = None) -> Any:
        return next((value[name] for name in names if name in value), otherwise)

    if (one := first(_FROM)) is not None and (other := first(_TO)) is not None:
        return one, first(_WHATS, ""), other
    name = first(_NAMES)
    return None if name is None else (name, first(_TYPES, ""))


def _sound(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def grounded(key: Key, number: int, of: int, text: str, sentences: Sequence[Span], rows: Span, reply: str) -> Part:
    """A reply to stretch `rows` of a document's `text`, of which only what the stretch says is kept."""
    names, relations = dict[str, Item](), list[Item]()
    for item in items(reply):
        if item.other is None:
            names.setdefault(normal(item.name[: LONGEST_NAME + 1]), item)
        else:
            relations.append(item)
    naming = [*list(names.values())[:MOST_ITEMS]]
    relations = list(dict.fromkeys(relations))[:MOST_ITEMS]
    joined = [Item(name, "") for relation in relations for name in (relation.name, relation.other or "")]
    found = _Found(text, sentences, rows)
    missed = sum(not found.add(item) for item in naming)
    for item in joined:
        found.add(item)
    ties = [tie for relation in relations if (tie := found.tie(relation))]
    return found.part(key, number, of, list(dict.fromkeys(ties)), (missed, len(relations) - len(ties)))


def places(text: str, sentences: Sequence[Span], rows: Span, name: str) -> dict[int, Span]:
    """The first place of a name in each of these sentences that says it, as whole words; in capitals and small letters
    otherwise only if none says it in these."""
    for pattern in (as_words(name), as_words(name, re.IGNORECASE)) if name.strip() else ():
        found = {row: match.span() for row in range(*rows) if (match := pattern.search(text, *sentences[row]))}
        if found:
            return found
    return {}


def as_words(name: str, flags: int = 0) -> re.Pattern[str]:
    """What finds a name as whole words, whatever white space is between them."""
    words = name.split()
    before = "" if UNSPACED.match(words[0]) else r"(?<!\w)"
    after = "" if UNSPACED.match(words[-1][-1]) else r"(?!\w)"
    return re.compile(before + r"\s+".join(map(re.escape, words)) + after, flags)


class _Found:
    """Names that a stretch says, in the order they were asked for: each with its places, one a sentence."""

    def __init__(self, text: str, sentences: Sequence[Span], rows: Span) -> None:
        self.text, self.sentences, self.rows = text, sentences, rows
        self.stop = stop_words(language_of(text))
        self.places: dict[str, dict[int, Span]] = {}
        self.shown: dict[str, str] = {}
        self.types: dict[str, str] = {}

    def add(self, item: Item) -> bool:
        form = normal(item.name) if len(item.name) <= LONGEST_NAME else ""
        if len(form) < 2 or form.isnumeric() or self.stop.issuperset(form.split()):
            return False
        if form not in self.places:
            there = places(self.text, self.sentences, self.rows, item.name)
            if not there:
                return False
            start, end = next(iter(there.values()))
            self.places[form], self.shown[form] = there, " ".join(self.text[start:end].split())
        if not self.types.get(form):
            self.types[form] = " ".join(item.what.split())[:LONGEST_TYPE].casefold()
        return True

    def tie(self, relation: Item) -> Tie | None:
        a, b = normal(relation.name), normal(relation.other or "")
        if a == b or a not in self.places or b not in self.places:
            return None
        apart, first, last = min((abs(i - j), min(i, j), max(i, j)) for i in self.places[a] for j in self.places[b])
        what = " ".join(relation.what.split())[:LONGEST_RELATION]
        return Tie(a, b, first, last, what) if apart <= APART else None

    def part(self, key: Key, number: int, of: int, ties: list[Tie], dropped: tuple[int, int]) -> Part:
        normals = sorted(self.places)
        at = [(row, name, *self.places[form][row]) for name, form in enumerate(normals) for row in self.places[form]]
        return Part(
            key, number, of, self.rows, normals,
            [self.shown[form] for form in normals], [self.types[form] for form in normals],
            [KINDS.index(_kind(self.shown[form])) for form in normals],
            np.array(sorted(at), dtype=np.int64).reshape(-1, 4), ties, dropped,
        )  # fmt: skip


def _kind(shown: str) -> str:
    """A name is what is not in small letters throughout, where a script has them."""
    return PHRASE if shown.islower() else NAME


def part_line(part: Part) -> str:
    """A stretch's line."""
    value = {
        "id": part.key[0], "hash": part.key[1], "part": part.number, "of": part.of, "rows": part.rows,
        "normals": part.normals, "shown": part.shown, "types": part.types, "kinds": part.kinds,
        "mentions": part.mentions_R4.ravel().tolist(), "ties": part.ties, "dropped": part.dropped,
        "tokens": part.tokens,
    }  # fmt: skip
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def read_part(line: bytes) -> Part:
    """A line, its numbers checked against each other; ValueError where it is damaged."""
    value = json.loads(line)
    counts = table([value["part"], value["of"], *value["rows"], *value["dropped"], *value["tokens"]], 1)[:, 0]
    number, of, first, last, *told = counts.tolist()
    lists = [texts_of(value[name]) for name in ("normals", "shown", "types")]
    kinds, mentions_R4 = table(value["kinds"], 1)[:, 0], table(value["mentions"], 4)
    ties = [_tie(each) for each in value["ties"]]
    inside = ((mentions_R4[:, 0] >= first) & (mentions_R4[:, 0] < last)).all()
    named = ((mentions_R4[:, 1] >= 0) & (mentions_R4[:, 1] < len(kinds))).all() and (mentions_R4 >= 0).all()
    whole = {len(each) for each in lists} == {len(kinds)} and ((kinds >= 0) & (kinds < len(KINDS))).all()
    tied = all({tie.a, tie.b} <= set(lists[0]) and first <= tie.first <= tie.last < last for tie in ties)
    if not (inside and named and whole and tied and 0 <= number < of and 0 <= first <= last and len(told) == 4):
        raise ValueError
    key = (str(value["id"]), str(value["hash"]))
    dropped, tokens = (told[0], told[1]), (told[2], told[3])
    names, shown, types = lists
    return Part(key, number, of, (first, last), names, shown, types, kinds.tolist(), mentions_R4, ties, dropped, tokens)


def _tie(value: Any) -> Tie:
    a, b, what = texts_of([value[0], value[1], value[4]])
    first, last = table(value[2:4], 2)[0].tolist()
    return Tie(a, b, first, last, what)


def overlaid(said: Said, parts: Sequence[Part], how: str) -> Said:
    """What a document mentions with what a model named in it: in place of what is seen in print there, or beside it.

    Stretches of which the model was not asked stay as they are."""
    parts = [part for part in parts if part.rows[1] <= len(said.sentences_S2)]
    if not parts:
        return said
    asked_S = np.zeros(len(said.sentences_S2), dtype=bool)
    for part in parts:
        asked_S[slice(*part.rows)] = how == LLM
    merged = _Merged()
    kept = said.mentions_R4[~asked_S[said.mentions_R4[:, 0]]] if len(said.mentions_R4) else said.mentions_R4
    merged.add(said.normals, said.shown, said.kinds_N.tolist(), kept)
    for part in parts:
        merged.add(part.normals, part.shown, part.kinds, part.mentions_R4, part.types)
    return merged.said(said, [tie for part in parts for tie in part.ties])


class _Merged:
    """Names of several extractions of one document, as one."""

    def __init__(self) -> None:
        self.mentions: dict[tuple[int, str], Span] = {}
        self.shown: dict[str, str] = {}
        self.kinds: dict[str, set[int]] = defaultdict(set)
        self.types: dict[str, str] = {}

    def add(
        self, normals: list[str], shown: list[str], kinds: list[int], mentions_R4: Whole, types: Sequence[str] = ()
    ) -> None:
        for row, name, start, end in mentions_R4.tolist():
            form = normals[name]
            self.mentions.setdefault((row, form), (start, end))
            self.shown.setdefault(form, shown[name])
            self.kinds[form].add(kinds[name])
            if types and types[name]:
                self.types.setdefault(form, types[name])

    def said(self, said: Said, ties: list[Tie]) -> Said:
        named = KINDS.index(NAME)
        whole = whole_names({form for form, kinds in self.kinds.items() if named in kinds})
        mentions: dict[tuple[int, str], Span] = {}
        for (row, form), span in self.mentions.items():
            mentions.setdefault((row, whole.get(form, form)), span)
        normals = sorted({form for _, form in mentions})
        at = {form: i for i, form in enumerate(normals)}
        rows = sorted((row, at[form], *span) for (row, form), span in mentions.items())
        return replace(
            said,
            normals=normals,
            shown=[self.shown[form] for form in normals],
            kinds_N=np.array([min(self.kinds[form]) for form in normals], dtype=np.int64),
            mentions_R4=np.array(rows, dtype=np.int64).reshape(-1, 4),
            types={form: kind for form, kind in self.types.items() if form in at},
            ties=[tie._replace(a=whole.get(tie.a, tie.a), b=whole.get(tie.b, tie.b)) for tie in ties],
        )
