"""What a first look into the book says of a question: whether it has it, in how many places, how much of it in one.

Looking reads the question once under each passage that was found, as answering from passages begins anyway; their keys
are kept, so the answer that follows does not read them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openbook.answer.citations import says_something, words
from openbook.book.graph.derive import stem
from openbook.book.retrieve import Hit
from openbook.mix.reading import Reader


@dataclass(frozen=True)
class Looked:
    """What was measured. `lift_bits`: by how much the best passage makes the question likelier, in bits; `margin`: how
    much is asked of it (None: nothing); `spread`: documents that count, e to the entropy of how much each is believed;
    `said`: the share of the question's words that the most believed passage has."""

    lift_bits: float
    margin: float | None
    spread: float
    said: float


def look(reader: Reader, question: str) -> Looked:
    """Find passages for a question and read it under each."""
    hits = reader.find(question)
    _, believed = reader.read(question, hits)
    refined_S = np.exp(believed.refined_S)
    best = hits[int(refined_S.argmax())]
    return Looked(believed.lift_bits, reader.settings.margin, _spread(hits, refined_S), _said(question, best))


def _spread(hits: Sequence[Hit], believed_S: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    by_document: dict[str, float] = {}
    for hit, share in zip(hits, believed_S.tolist(), strict=True):
        by_document[hit.passage.document] = by_document.get(hit.passage.document, 0.0) + share
    shares = np.array([share for share in by_document.values() if share > 0])
    shares /= shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _said(question: str, hit: Hit) -> float:
    asked = {stem(word.folded) for word in words(question) if says_something(word)}
    place = f"{hit.passage.title} {hit.passage.heading} {hit.passage.text}"
    return len(asked & {stem(word.folded) for word in words(place)}) / len(asked) if asked else 1.0
