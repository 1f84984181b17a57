"""Which place of a passage carries a sentence: the words it copied, first of all.

A sentence and a passage are aligned word by word (Smith 1981): matching words earn what they are worth, words between
them cost a little. The best alignment's first and last word bound the span. Deterministic, no model.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

Span = tuple[int, int]

# A word is a run of letters, digits and inner marks; a Chinese, Japanese or Korean character is a word of its own.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W_]+(?:['’.,-](?=\w)[^\W_]+)*")
_COMMON = frozenset(
    """
    a an the and or of in on at to for from by with as is are was were be been it its that this which who what when
    where how has have had do does did not no he she they we you i his her their our can will would 的 了 是 在 和 有
    """.split()  # noqa: SIM905 a list of words reads better as words
)
_BREAK = re.compile(r"(\n[ \t]*\n)")
_GAP, _LONGEST = 0.3, 400


@dataclass(frozen=True)
class Word:
    """A word as compared (folded) and where it stands."""

    folded: str
    start: int
    end: int


def words(text: str) -> list[Word]:
    """The words of a text with their offsets."""
    return [Word(m[0].casefold(), m.start(), m.end()) for m in _WORD.finditer(text)]


def says_something(word: Word) -> bool:
    """Whether it is none of the commonest words, which carry no claim."""
    return word.folded not in _COMMON


def best_span(sentence: str, passage: str) -> Span | None:
    """Character span of `passage` that best carries `sentence`, within one paragraph; it ends with a word that says
    something. None where no such word is shared."""
    said = words(sentence)[:_LONGEST]
    best, where = 0.0, None
    start = 0
    for paragraph in _BREAK.split(passage):  # the breaks are kept, so that offsets can be counted
        found = _align(said, words(paragraph))
        if found and found[0] > best:
            best, where = found[0], (start + found[1][0], start + found[1][1])
        start += len(paragraph)
    return where


def _align(said: list[Word], read: list[Word]) -> tuple[float, Span] | None:
    worth = _worths(read)
    best: tuple[float, Span] | None = None
    # score[j]: the best alignment that ends at read[j−1]; begin[j]: the word it starts with.
    score, begin = [0.0] * (len(read) + 1), list(range(len(read) + 1))
    for word in said:
        above, above_begin = score, begin
        score, begin = [0.0] * (len(read) + 1), list(range(len(read) + 1))
        for j, other in enumerate(read, start=1):
            choices = [(0.0, j), (above[j] - _GAP, above_begin[j]), (score[j - 1] - _GAP, begin[j - 1])]
            matched = word.folded == other.folded
            if matched:
                fresh = above[j - 1] <= 0
                choices.append((above[j - 1] + worth[word.folded], j - 1 if fresh else above_begin[j - 1]))
            score[j], begin[j] = max(choices, key=lambda c: c[0])
            if matched and word.folded not in _COMMON and (best is None or score[j] > best[0]):
                best = score[j], (read[begin[j]].start, other.end)
    return best


def _worths(read: list[Word]) -> dict[str, float]:
    """What matching a word earns: little for the commonest, less than 1 for one the passage repeats, 1 for the rest."""
    counts = Counter(w.folded for w in read)
    return {word: 0.1 if word in _COMMON else 1.0 if n <= 2 else 0.6 for word, n in counts.items()}
