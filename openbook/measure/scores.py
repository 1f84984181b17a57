"""Scores of a short answer against gold answers, as SQuAD defines them (Rajpurkar 2016)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CJK = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "，。！？；：、“”‘’（）《》「」…—")


def words(text: str) -> list[str]:
    """Lower case, no punctuation, no English articles; a Chinese character is a word of its own."""
    plain = text.lower().translate(_PUNCTUATION)
    return _CJK.sub(r" \1 ", _ARTICLES.sub(" ", plain)).split()


def exact(answer: str, golds: Sequence[str]) -> float:
    """1 if the answer equals a gold answer."""
    return float(any(words(answer) == words(gold) for gold in golds))


def f1(answer: str, golds: Sequence[str]) -> float:
    """The best harmonic mean of word precision and recall over the gold answers."""
    return max((_f1(words(answer), words(gold)) for gold in golds), default=0.0)


def contains(answer: str, golds: Sequence[str]) -> float:
    """1 if the words of a gold answer stand in the answer, in order and together."""
    said = f" {' '.join(words(answer))} "
    return float(any(words(gold) and f" {' '.join(words(gold))} " in said for gold in golds))


def _f1(answer: list[str], gold: list[str]) -> float:
    shared = sum((Counter(answer) & Counter(gold)).values())
    if not shared:
        return float(answer == gold)
    precision, recall = shared / len(answer), shared / len(gold)
    return 2 * precision * recall / (precision + recall)
