"""A guide under which a model can name nothing but what a text says (`openbook.answer.extracting`).

The grammar is made of the text: a name can only be a run of its words that was not named before, a relation only join
two names that stand near each other. It is narrowed after each name and relation (llguidance's Lark with its substring
automata). What is written only because it is held to that shows in the model's own probabilities: a name to whose
tokens it gives less than e^`SURE` in the mean is unsure, and after `TRIED` of those in a row no more may be named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from openbook.book.graph.extract import normal, sentences_of
from openbook.book.graph.modelled import APART, as_words, places
from openbook.errors import Fault
from openbook.lm.decoding.constrain import Guide, Guides, limits

MOST_NAMES, MOST_RELATIONS = 12, 8
MOST_WORDS, LONGEST = 8, 60
"""Words and characters of a name, two characters at least."""
SURE, TRIED = -3.0, 2
_CHUNK = re.compile(r"[^\W_]+|\s+|[^\w\s]|_")
_BARRED = re.compile(r"[^\w\s.,'’&/+#:-]")


class Naming(Guide):
    """A guide whose grammar knows what was named already: `names`, and in `unsure` those that do not count."""

    def __init__(self, guides: Guides, text: str) -> None:
        self.text, self.tokens, self.written = text, list[int](), ""
        self.names: list[str] = []
        self.unsure: set[str] = set()
        self.judged, self.missed, self.related = 0, 0, 0
        self.near = _Near(text)
        super().__init__(guides, _matcher(guides, grammar(text, "", (), {})))

    def fork(self) -> Guide:
        raise Fault("what a text names is written one text at a time, without beams")

    def add(self, token: int) -> None:
        """Append a token that was allowed; where it ends a name or a relation, the grammar is made anew."""
        super().add(token)
        self.tokens.append(token)
        spelled = b"".join(map(self._guides.tokenizer.token_bytes, self.tokens))
        self.written = spelled.decode("utf-8", "ignore")
        names, relations = _told(self.written)
        if (len(names), len(relations)) != (len(self.names), self.related):
            self.names, self.related = [match[1] for match in names], len(relations)
            self._narrow()

    def judge(self, marks: Sequence[float]) -> None:
        """Look at names that were not looked at; `marks` are the model's log p of the token of each character."""
        for match in _told(self.written)[0][self.judged :]:
            self.judged += 1
            mean = sum(marks[slice(*match.span(1))]) / max(1, len(match[1]))
            self.missed = self.missed + 1 if mean < SURE else 0
            if mean < SURE:
                self.unsure.add(match[1])
                self._narrow()

    def _narrow(self) -> None:
        relations = _told(self.written)[1]
        sure = [name for name in self.names if name not in self.unsure]
        near = self.near.pairs(sure, [(match[1], match[3]) for match in relations])
        prefix, enough = self.written[: _ended(self.written)], self.missed >= TRIED
        fresh = _matcher(self._guides, grammar(self.text, prefix, self.names, near, len(relations), enough))
        first = [self._guides.first.get(token, token) for token in self.tokens[:1]]
        tokens = [*first, *self.tokens[1:]]
        if fresh.validate_tokens(tokens) == len(tokens):  # else the last token went on already: after the next one
            fresh.consume_tokens(tokens)
            self._matcher = fresh
            self._check()

    def said(self) -> str:
        """All that was written to its end and counts, as JSON."""
        start, _, rest = self.written.partition(_BREAK)
        names = [[m[1], m[2]] for m in _WHOLE_NAME.finditer(start) if m[1] not in self.unsure]
        relations = [[m[1], m[2], m[3]] for m in _RELATION.finditer(rest)]
        return as_json(names, relations)


def as_json(names: list[list[str]], relations: list[list[str]]) -> str:
    """A reply."""
    return json.dumps({"names": names, "relations": relations}, ensure_ascii=False)


_NAME = re.compile(r'\["([^"]*)", "')
_WHOLE_NAME = re.compile(r'\["([^"]*)", "([^"]*)"\]')
_RELATION = re.compile(r'\["([^"]*)", "([^"]*)", "([^"]*)"\]')
_BREAK = '], "relations": ['


def _told(written: str) -> tuple[list[re.Match[str]], list[re.Match[str]]]:
    """Names, and relations, that are written to their end."""
    names, _, relations = written.partition(_BREAK)
    return list(_NAME.finditer(names)), list(_RELATION.finditer(relations))


def _ended(written: str) -> int:
    """Where the last thing ends that stays as it is: a name that is followed by its type, or a relation."""
    start, found, _ = written.partition(_BREAK)
    names, relations = _told(written)
    if not found:
        return max((match.end() for match in names), default=0)
    return len(start) + len(found) + max((match.end() for match in relations), default=0)


class _Near:
    """Which names of a text may be related: those that one sentence says, or sentences near each other."""

    def __init__(self, text: str) -> None:
        self.text, self.sentences = text, list(sentences_of(text))
        self.rows: dict[str, set[int]] = {}

    def _rows(self, name: str) -> set[int]:
        if name not in self.rows:
            self.rows[name] = set(places(self.text, self.sentences, (0, len(self.sentences)), name))
        return self.rows[name]

    def pairs(self, names: Sequence[str], related: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
        """For each name those it may still be related to."""
        told = {frozenset(pair) for pair in related}
        found = {a: [b for b in names if frozenset((a, b)) not in told and self._near(a, b)] for a in names}
        return {a: others for a, others in found.items() if others}

    def _near(self, a: str, b: str) -> bool:
        if normal(a) == normal(b):
            return False
        return any(abs(i - j) <= APART for i in self._rows(a) for j in self._rows(b))


def _matcher(guides: Guides, lark: str) -> Any:
    from llguidance import LLMatcher

    return LLMatcher(guides._vocabulary, LLMatcher.grammar_from_lark(lark), log_level=0, limits=limits())


def grammar(
    text: str,
    prefix: str,
    names: Sequence[str],
    near: dict[str, list[str]],
    related: int = 0,
    enough: bool = False,
) -> str:
    """What may be written of a text after `prefix`, in which `names` were named and `related` relations told; `enough`
    says that no more are to be named."""
    more = 0 if enough else MOST_NAMES - max(1, len(names))
    return "\n".join(
        [
            *_rest(prefix, bool(names), more, near, MOST_RELATIONS - related),
            "TYPE: /[a-z][a-z -]{1,18}[a-z]/",
            r'WHAT: /[^"\\\x00-\x1f]{2,40}/',
            f"NAME: SUB & /[^\\W_][^\\n ]*( [^\\n ]+){{0,{MOST_WORDS - 1}}}/ & /[^\\n]{{1,{LONGEST}}}[^\\W_]/",
            f"SUB: %regex {json.dumps({'substring_chunks': _chunks(text, names)})}",
        ]
    )


def _chunks(text: str, names: Sequence[str]) -> list[str]:
    """The words of a text, and line ends, over which no name goes: between sentences, at brackets and quotes, and where
    something is that was named already."""
    chunks: list[str] = []
    for start, end in sentences_of(text):
        sentence = text[start:end]
        for name in names:
            sentence = as_words(name).sub("\x00", sentence)
        chunks += [" " if chunk.isspace() else _BARRED.sub("\n", chunk) for chunk in _CHUNK.findall(sentence)] + ["\n"]
    return chunks or ["\n"]


def _rest(prefix: str, named: bool, more: int, near: dict[str, list[str]], relations: int) -> Iterator[str]:
    """The rules of what follows: names, or relations where there are such already."""
    if _BREAK in prefix:
        yield f'start: {_literal(prefix)} {_some(", ", "relation", relations if near else 0)} "]}}"'
    else:
        begun = f'{_literal(prefix)} TYPE "\\"]"' if named else '"{\\"names\\": [" name'
        tied = f"(relation {_some(', ', 'relation', relations - 1)})?" if near else ""
        yield f'start: {begun} {_some(", ", "name", more)} {_literal(_BREAK)} {tied} "]}}"'
    yield 'name: "[\\"" NAME "\\", \\"" TYPE "\\"]"'
    if near:
        each = [f'{_literal(a)} "\\", \\"" WHAT "\\", \\"" ({" | ".join(map(_literal, bs))})' for a, bs in near.items()]
        yield f'relation: "[\\"" ({" | ".join(each)}) "\\"]"'


def _some(between: str, rule: str, most: int) -> str:
    return f'("{between}" {rule}){{0,{most}}}' if most > 0 else ""


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
