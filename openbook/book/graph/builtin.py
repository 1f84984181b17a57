"""The extractor that comes with openbook: what names and key phrases look like in print, without a model.

A *name* is a run of capitalised words ("University of Copenhagen", "WHO") or a title in quotes, a *phrase* a run of
words between the commonest ones ("gene expression"), as in RAKE (Rose 2010). Words of scripts without spaces come from
rjieba where it is installed, else from the stretches between the characters that join words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

from openbook.book.graph.extract import NAME, PHRASE, Found, extractor
from openbook.book.graph.languages import UNSPACED, UNSPACED_STOP, listed, stop_words

MOST_WORDS = 8
"""Words of a name."""
PHRASE_WORDS = 3
LEAST_LETTERS = 3
"""Of a phrase of one word."""

_TOKEN = re.compile(r"[^\W_]+(?:['’.&/][^\W_]+)*(?:\+\+|#)?")
_LINKS = listed("""
    of the de la le du des van von der den di da do dos das del della bin ibn al à zu zum
""")
"""Words that may stand inside a name uncapitalised, but not where it begins or ends."""
_QUOTED = re.compile(
    r"\"([^\"\n]{2,60})\"|[“„«]([^“”„«»\n]{2,60})[”“»]|[《「『]([^《》「」『』\n]{2,60})[》」』]|``([^`'\n]{2,60}?) ?''"
)
_GAPS = frozenset({" ", "-", " - ", "\n", "  ", " & ", "’ ", "' "})
"""What may stand between two words of a run."""
_CAPITAL, _LOWER, _LINK, _NUMBER, _STOP = range(5)
_PROPER = frozenset({"nr", "ns", "nt", "nz", "nrt", "nrfg", "eng"})
"""jieba's tags of persons, places, organisations and other proper names."""
_NOUNS = frozenset({"n", "vn", "an", "l", "j", "nl", "ng"})


@extractor("built-in")
def built_in(sentence: str, language: str) -> list[Found]:
    """Capitalised runs, titles in quotes and phrases; in stretches without spaces, words."""
    found = [
        Found(*match.span(match.lastindex or 0), NAME)
        for match in _QUOTED.finditer(sentence)
        if match[0].count(" ") < MOST_WORDS and sentence[match.start(match.lastindex or 0)].isupper()
    ]
    begin = 0
    for match in UNSPACED.finditer(sentence):
        found += _spaced(sentence, begin, match.start(), language)
        found += _unspaced(match[0], match.start())
        begin = match.end()
    found += _spaced(sentence, begin, len(sentence), language)
    return sorted(found)


def _spaced(sentence: str, begin: int, end: int, language: str) -> Iterator[Found]:
    """Runs of a part of a sentence that has spaces between its words."""
    stop = stop_words(language)
    spans = [token.span() for token in _TOKEN.finditer(sentence, begin, end)]
    words = [sentence[a:b] for a, b in spans]
    kinds = [_kind(word, stop) for word in words]
    joined = [_joins(sentence, words[i], b, spans[i + 1][0]) for i, (_, b) in enumerate(spans[:-1])] + [False]
    at = 0
    while at < len(kinds):
        last = at
        if kinds[at] == _CAPITAL or (kinds[at] == _NUMBER and joined[at] and kinds[at + 1] == _CAPITAL):
            last = _name(words, kinds, joined, at)
            yield Found(spans[at][0], spans[last][1], NAME, at == 0 and begin == 0)
        elif kinds[at] == _LOWER:
            while joined[last] and kinds[last + 1] == _LOWER:
                last += 1
            for end in range(last, at - 1, -PHRASE_WORDS):  # the head of a phrase is its last word
                first = max(at, end - PHRASE_WORDS + 1)
                if first < end or len(words[end]) >= LEAST_LETTERS:
                    yield Found(spans[first][0], spans[end][1], PHRASE)
        at = last + 1


def _name(words: list[str], kinds: list[int], joined: list[bool], first: int) -> int:
    """The last word of the name that begins with word `first`: capitals, and what stands between capitals."""
    last = ahead = first
    while joined[ahead] and ahead - first < MOST_WORDS - 1:
        ahead += 1
        if kinds[ahead] in (_CAPITAL, _NUMBER):
            last = ahead
        elif ahead - last > 2 or not (kinds[ahead] == _LINK or words[ahead][0].isupper()):
            break
    return last


def _kind(word: str, stop: frozenset[str]) -> int:
    if word[0].isdigit():
        return _NUMBER
    low = word.casefold()
    if low in _LINKS and low == word:
        return _LINK
    if low in stop or low.replace("’", "'") in stop:
        # "WHO" and "IT" are names, "Who" and "It" are not.
        return _CAPITAL if len(word) > 1 and word.isupper() and low in ("who", "it", "us") else _STOP
    return _LOWER if word == low or word.islower() else _CAPITAL


def _joins(sentence: str, word: str, end: int, start: int) -> bool:
    """Whether the next word, at `start`, may belong to one run with this one, which ends at `end`."""
    gap = sentence[end:start]
    return gap in _GAPS or (gap in (". ", ".") and (len(word) == 1 or word in ("Dr", "St", "Mr", "Mrs", "Jr")))


def _unspaced(text: str, offset: int) -> Iterator[Found]:
    """Words of a stretch of Han or kana."""
    begin = 0
    for word, tag in _cut(text) if dictionary() else _stretches(text):
        named = tag in _PROPER and len(word) > 1
        if named or (tag in _NOUNS and len(word) > 1 and not UNSPACED_STOP.issuperset(word)):
            yield Found(offset + begin, offset + begin + len(word), NAME if named else PHRASE)
        begin += len(word)


def _stretches(text: str) -> Iterator[tuple[str, str]]:
    """Without a dictionary: what stands between characters that join words, as phrases of two to six characters."""
    at = 0
    while at < len(text):
        end = at + 1
        joins = text[at] in UNSPACED_STOP
        while end < len(text) and (text[end] in UNSPACED_STOP) == joins:
            end += 1
        yield text[at:end], "" if joins or end - at > 6 else "n"
        at = end


def _cut(text: str) -> list[tuple[str, str]]:
    import rjieba

    words: list[tuple[str, str]] = rjieba.tag(text)
    return words


@cache
def dictionary() -> bool:
    """Whether there is a dictionary for scripts without spaces."""
    return find_spec("rjieba") is not None
