"""From sentences to points: measured, the idle dropped, those that say the same folded, the rest put in order.

A point's score is what it adds to the question, in bits,

    b(s) = log2 p(question | s) − log2 p(question | nothing)

of the model itself, which has read the sentence s (or nothing) before the question. GraphRAG (Edge 2024, 2404.16130)
lets the model say a number from 0 to 100 instead; a model of 135 million parameters cannot.

What is worth telling is also typical of what the book has on the question, is no habit of its documents, and can be
read by itself (`worth`).

Shapes: N sentences, M width of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from openbook.answer.citations import says_something, words
from openbook.answer.summarize.cover import Array, Vectors
from openbook.mix.reading import Reader
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, Branch

AT_ONCE = 32
"""Sentences that the question is read under at once."""
ALIKE, SAME_WORDS = 0.8, 0.6
"""Cosine, or share of the words in common, from which on two sentences say the same."""

LEANING = 0.5
"""What a sentence is worth that begins with a word that leans on the one before."""
NEAR, LEAST = 0.5, 0.01
"""Share of the highest cosine with the subject that is near enough; what adds bits is worth something in any case."""
AGAIN = 0.8
"""What a point is worth whose document has given one already; of two, the square; and so on."""
_LEANS = re.compile(
    r"(?:[\"“‘'(\[–—-]|\s)*(?:(?:and|but|so|or|nor|because|which|that|this|these|those|it|he|she|they|his|her|their|its"
    r"|such|there|then|well|yeah|yes|no|okay|oh|um|uh|i mean|you know|like|also|however|therefore)\b|[这那它他她但]"
    r"|所以|而且|因此|然而|于是|此外)",
    re.IGNORECASE,
)

Told = Callable[[int, int, str], None] | None
Item = TypeVar("Item")


@dataclass(frozen=True)
class Folded:
    """Places of sentences that say the same, the one with most bits first."""

    members: tuple[int, ...]

    @property
    def first(self) -> int:
        return self.members[0]


def lifts(reader: Reader, question: str, texts: Sequence[str], told: Told = None) -> Array:
    """b `[N]`: the bits that each text adds to the question. One batch a few texts, nothing of them is kept."""
    bits = np.zeros(len(texts))
    for start in range(0, len(texts), AT_ONCE):
        here = texts[start : start + AT_ONCE]
        branches = [Branch(Label(f"c{i}", "passage"), "", (text,)) for i, text in enumerate(here)]
        asked_S = reader.branches(question, [*branches, CLOSED_BOOK], room=1).question_log_p_S
        bits[start : start + len(here)] = (asked_S[:-1] - asked_S[-1]) / np.log(2)
        if told is not None:
            told(start + len(here), len(texts), "sentences weighed")
    return bits


def fold(texts: Sequence[str], vectors_NM: Vectors, bits_N: Array) -> list[Folded]:
    """Texts that say the same together; those that add nothing to the question are left out. Most bits first.

    Each text goes to the first kept one that it is alike to, so no two that are kept are alike.
    """
    said = [frozenset(word.folded for word in words(text) if says_something(word)) for text in texts]
    kept: list[list[int]] = []
    for i in sorted(range(len(texts)), key=lambda i: (-bits_N[i], i)):
        if not bits_N[i] > 0:
            break
        home = next(
            (of for of in kept if _same(said[i], said[of[0]]) or vectors_NM[i] @ vectors_NM[of[0]] >= ALIKE), None
        )
        if home is None:
            kept.append([i])
        else:
            home.append(i)
    return [Folded(tuple(of)) for of in kept]


def _same(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) >= SAME_WORDS * max(1, len(one | other))


def leans(text: str) -> bool:
    """Whether a sentence begins as one does that goes on from another (English and Chinese)."""
    return _LEANS.match(text) is not None


def worth(texts: Sequence[str], bits_N: Array, near_N: Array, typical_N: Array, common_N: Array) -> Array:
    """w = bits · typical · min(1, near / (half the nearest)) · (1 − common), less for a sentence that leans on another.

    `near_N` is the cosine with the question's subject, `typical_N` that with what the book has on it, `common_N` the
    share of a sentence that many documents say in the same words. Of what is near enough the nearest is not better:
    it only repeats the question.
    """
    alone_N = np.array([LEANING if leans(text) else 1.0 for text in texts])
    enough_N = near_N / max(NEAR * float(near_N.max(initial=0.0)), 1e-9)
    told_N: Array = np.maximum(bits_N, 0.0) * np.clip(enough_N, LEAST, 1.0) * np.clip(typical_N, LEAST, 1.0)
    told_N *= (1 - common_N) * alone_N
    return told_N


def ordered(
    folded: Sequence[Folded], vectors_NM: Vectors, worth_N: Array, count: int, documents: Sequence[str] = ()
) -> list[Folded]:
    """The points, greedily: next comes the one that is worth most, times how unlike it is to those before (maximal
    marginal relevance as a product), times `AGAIN` for each of them that is of the same document."""
    left, chosen = list(folded), list[Folded]()
    near = np.zeros(len(left))  # of each that is left, the highest cosine with one that was chosen
    given: dict[str, int] = {}
    while left and len(chosen) < count:
        again = np.array([AGAIN ** given.get(documents[f.first], 0) if documents else 1.0 for f in left])
        values = np.array([worth_N[f.first] for f in left]) * (1 - np.clip(near, 0.0, 1.0)) * again
        at = int(values.argmax())
        chosen.append(left.pop(at))
        near = np.delete(near, at)
        if documents:
            given[documents[chosen[-1].first]] = given.get(documents[chosen[-1].first], 0) + 1
        if left:
            others_LM = vectors_NM[[f.first for f in left]]
            near = np.maximum(near, others_LM @ vectors_NM[chosen[-1].first])
    return chosen
