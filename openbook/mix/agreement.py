"""How far two short answers say the same: their words, and the F1 of them (Rajpurkar 2016, arXiv 1606.05250)."""

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


def overlap(one: Sequence[str], other: Sequence[str]) -> float:
    """Harmonic mean of word precision and recall; 1 for two texts without words. Symmetric."""
    shared = sum((Counter(one) & Counter(other)).values())
    if not shared:
        return float(list(one) == list(other))
    precision, recall = shared / len(one), shared / len(other)
    return 2 * precision * recall / (precision + recall)
