"""Scores of a short answer against gold answers, as SQuAD defines them (Rajpurkar 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from openbook.mix.agreement import overlap
from openbook.mix.agreement import words as words


def exact(answer: str, golds: Sequence[str]) -> float:
    """1 if the answer equals a gold answer."""
    return float(any(words(answer) == words(gold) for gold in golds))


def f1(answer: str, golds: Sequence[str]) -> float:
    """The best harmonic mean of word precision and recall over the gold answers."""
    return max((overlap(words(answer), words(gold)) for gold in golds), default=0.0)


def contains(answer: str, golds: Sequence[str]) -> float:
    """1 if the words of a gold answer stand in the answer, in order and together."""
    said = f" {' '.join(words(answer))} "
    return float(any(words(gold) and f" {' '.join(words(gold))} " in said for gold in golds))
