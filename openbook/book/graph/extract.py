"""Names and key phrases of a text: what is counted as one, where it is said, and in which sentence.

How they are seen is an extractor's affair (`openbook.book.graph.builtin`); here they are brought to their normal form,
a shorter name is counted under the one longer name of the document that it ends ("Scott": Kevin Scott), and an
abbreviation is said to be the same as what it stands for (after Schwartz and Hearst 2003).

Everything is a pure function of one document's text: what the whole corpus says is derived from that later
(`openbook.book.graph.derive`). Another way of extracting is a function handed to the registry:

    @extractor("mine")
    def mine(sentence: str, language: str) -> list[Found]: ...
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from openbook.book.graph.languages import language_of
from openbook.book.sentences import Span, cut_near, sentences, trim

NAME, PHRASE = "name", "phrase"
KINDS = (NAME, PHRASE)
LONGEST_SENTENCE = 800
"""Characters of what counts as one sentence: a text without stops would be one of a million words."""
LONGEST_NAME = 80
"""Characters of a name; what is longer is none."""
FORMAT = 1
"""Raised when the same text is extracted otherwise."""

_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=[^\n:]{1,40}:\s)")
_SHORT = re.compile(r"\s?\(([^\W\d_][\w.&-]{1,9})\)")
_POSSESSIVE = re.compile(r"'[sS]?$")


class Found(NamedTuple):
    """A stretch of a sentence that names something; `initial` where its capital may be the sentence's."""

    start: int
    end: int
    kind: str
    initial: bool = False


class Mention(NamedTuple):
    """Name number `name` of a document, said in its sentence number `sentence`, at characters `start:end`."""

    sentence: int
    name: int
    start: int
    end: int


class Name(NamedTuple):
    """What is mentioned: the normal form it is counted under, how it is shown, and its kind."""

    normal: str
    shown: str
    kind: str


@dataclass(frozen=True)
class Extraction:
    """What a document mentions, once a sentence. `aliases` are pairs of normal forms that it says are the same."""

    language: str
    sentences: tuple[Span, ...]
    names: tuple[Name, ...]
    mentions: tuple[Mention, ...]
    aliases: tuple[tuple[str, str], ...]


Extractor = Callable[[str, str], Sequence[Found]]
_EXTRACTORS: dict[str, Extractor] = {}


def extractor(name: str) -> Callable[[Extractor], Extractor]:
    """Register a way of extracting from a sentence, given the language of its document."""

    def register(function: Extractor) -> Extractor:
        _EXTRACTORS[name] = function
        return function

    return register


def extractors() -> list[str]:
    """Names for `extract(by=…)`."""
    import openbook.book.graph.builtin
    import openbook.book.graph.spacy  # noqa: F401  (registers; spaCy itself is imported when it is asked)

    return sorted(_EXTRACTORS)


def version_of(by: str) -> str:
    """Names all that decides an extraction besides the text: what another has made is made again.

    `BookFault` where what an extractor needs is not installed."""
    from openbook.book.graph.builtin import dictionary

    if by == "spacy":
        from openbook.book.graph.spacy import installed

        by = installed()
    return f"{by}{'-rjieba' if dictionary() else ''}"


@lru_cache(1 << 16)
def normal(text: str) -> str:
    """The form under which names are the same: compatible characters, case, articles, possessives and stops folded.

    >>> normal("The  U.S."), normal("Scott’s"), normal("KEVIN SCOTT"), normal("ＡＢＣ")
    ('us', 'scott', 'kevin scott', 'abc')
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    words = [_POSSESSIVE.sub("", word).replace(".", "") for word in text.split()]
    if len(words) > 1 and words[0] in ("the", "a", "an"):
        words = words[1:]
    return " ".join(filter(None, words)).strip(" -–—'\"")


@lru_cache(1 << 16)
def singular(text: str) -> str:
    """A phrase in normal form, its last word without the s of an English plural.

    >>> singular("language models"), singular("analysis"), singular("companies")
    ('language model', 'analysis', 'company')
    """
    if text.endswith("ies") and len(text) > 5:
        return text[:-3] + "y"
    plural = text.endswith("s") and len(text) > 4 and text[-2] not in "suia'"
    return text[:-1] if plural else text


def extract(text: str, by: str = "built-in") -> Extraction:
    """What a text mentions, by an extractor of `extractors()`."""
    if by not in extractors():
        raise KeyError(by)
    function, language = _EXTRACTORS[by], language_of(text)
    spans = tuple(sentences_of(text))
    found = [
        (row, Found(start + f.start, start + f.end, f.kind, f.initial))
        for row, (start, end) in enumerate(spans)
        for f in function(text[start:end], language)
    ]
    return _count(text, language, spans, found)


def sentences_of(text: str) -> Iterator[Span]:
    """Sentences; a blank line or a speaker's name ends one, and long ones are cut."""
    for start, end in sentences(text, 0, len(text)):
        for match in _PARAGRAPH.finditer(text, start, end):
            yield from _cut(text, start, match.start())
            start = match.end()
        yield from _cut(text, start, end)


def _cut(text: str, start: int, end: int) -> Iterator[Span]:
    while end - start > LONGEST_SENTENCE:
        cut = cut_near(text, start, end, start + LONGEST_SENTENCE, LONGEST_SENTENCE // 4)
        if span := trim(text, start, cut):
            yield span
        start = cut
    if span := trim(text, start, end):
        yield span


def _count(text: str, language: str, spans: tuple[Span, ...], found: list[tuple[int, Found]]) -> Extraction:
    lower = {text[f.start : f.end].casefold() for _, f in found if f.kind == PHRASE}
    lower |= {word for phrase in lower for word in phrase.split()}
    said: list[tuple[int, str, str, int, int]] = []
    for row, f in found:
        start, shown = f.start, text[f.start : f.end]
        if f.initial and shown.split()[0].casefold() in lower:  # capital for the sentence's sake
            rest = shown.split(None, 1)[1:]
            start, shown = (f.end - len(rest[0]), rest[0]) if rest else (f.end, "")
        form = normal(shown) if len(shown) <= LONGEST_NAME else ""
        if f.kind == PHRASE and language == "en":
            form = singular(form)
        if len(form) > 1 and not form.isnumeric():
            said.append((row, form, f.kind, start, f.end))
    aliases = _aliases(text, said)
    whole = whole_names({form for _, form, kind, _, _ in said if kind == NAME})
    names = _names(text, said, whole)
    at = {name.normal: i for i, name in enumerate(names)}
    mentions = {(row, at[whole.get(form, form)]): (start, end) for row, form, _, start, end in reversed(said)}
    return Extraction(
        language,
        spans,
        tuple(names),
        tuple(Mention(row, name, *mentions[row, name]) for row, name in sorted(mentions)),
        tuple(sorted({(whole.get(a, a), whole.get(b, b)) for a, b in aliases})),
    )


def _names(text: str, said: Iterable[tuple[int, str, str, int, int]], whole: dict[str, str]) -> list[Name]:
    """Each normal form with the spelling it has most often, in the order of their normal forms."""
    shown: dict[str, Counter[str]] = defaultdict(Counter)
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for _, form, kind, start, end in said:
        kinds[whole.get(form, form)][kind] += 1
        if form not in whole:
            shown[form][" ".join(text[start:end].split())] += 1
    return [
        Name(form, min(shown[form], key=lambda s: (-shown[form][s], s)), NAME if kinds[form][NAME] else PHRASE)
        for form in sorted(shown)
    ]


def whole_names(names: set[str]) -> dict[str, str]:
    """Each single word that ends exactly one longer name: a surname after the full one."""
    longer: dict[str, set[str]] = defaultdict(set)
    for name in names:
        if len(words := name.split()) > 1:
            longer[words[-1]].add(name)
    return {word: next(iter(found)) for word, found in longer.items() if len(found) == 1 and word in names}


def _aliases(text: str, said: Iterable[tuple[int, str, str, int, int]]) -> set[tuple[str, str]]:
    """(short, long) where an abbreviation in brackets stands behind a name or phrase with its letters."""
    found: set[tuple[str, str]] = set()
    for _, form, _, _, end in said:
        match = _SHORT.match(text, end)
        if match and _abbreviates(short := normal(match[1]), form):
            found.add((short, form))
    return found


def _abbreviates(short: str, long: str) -> bool:
    """Whether all letters of `short` come in this order in `long`, the first one first, from more words than one."""
    if not short or " " not in long or len(short) >= len(long) or short[0] != long[0]:
        return False
    rest = iter(long)
    return all(letter in rest for letter in short if letter.isalnum())
