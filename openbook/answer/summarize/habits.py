"""What documents say out of habit: who speaks at the head of a line, and what they all say in the same words.

Both are found by counting, so nothing is known of any kind of document. The head of a line (`ADA LOVELACE:`, a time)
is a *label* where a document has it often; digits count as one. A run of `RUN` words is *common* where many documents
have it: what is mostly of such runs (a greeting, a disclaimer, "subscribe to our channel") tells a reader nothing
about any of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from openbook.book.graph.derive import stem
from openbook.book.graph.languages import UNSPACED
from openbook.book.passages import Passage

RUN = 4
"""Words that stand together."""
OFTEN, AT_LEAST, SHARE = 3, 4, 0.05
"""Lines of a document that have a label; documents, and share of all of them, that have a common run."""
HABITUAL = 0.2
"""Share of the places of a word that are in common runs, from which on it is said out of habit."""
LONGEST_LABEL = 40
LABELS = 500
"""Labels that are looked for in the middle of a sentence."""
READ = 50_000_000
"""Characters that are looked at."""

_TIME = r"[\[(<]?\d{1,4}(?:[:.]\d{2}){1,2}(?:[.,]\d+)?[\])>]?"
_SAID = rf"[^\n:：.?!]{{1,{LONGEST_LABEL}}}[:：](?=\s)"
_HEAD = re.compile(rf"(?m)^[ \t]*((?:{_TIME}[ \t]*[-–—]?[ \t]*)?(?:{_SAID})?)[ \t]*")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
_MASK = (1 << 61) - 1
Hashes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Habits:
    """The labels of a book's documents, the runs of words that many of them have, and the words (stems) that stand in
    such runs often: of interviews "guest", of podcasts "episode"."""

    labels: frozenset[str] = frozenset()
    runs: frozenset[int] = frozenset()
    words: frozenset[str] = frozenset()

    def head(self, text: str, at: int = 0) -> tuple[str, int]:
        """The label that begins a line at `at`, and where it ends with what is white behind it; ("", at) without."""
        found = _HEAD.match(text, at)
        if found and found[1] and _plain(found[1]) in self.labels:
            return found[1].strip().rstrip(":："), found.end()
        return "", at

    def speaker(self, text: str) -> str:
        """The last label that begins a line of a text: who speaks where it ends; "" without."""
        found = ""
        for line in _HEAD.finditer(text):
            if line[1] and _plain(line[1]) in self.labels:
                found = line[1].strip().rstrip(":：")
        return found

    @cached_property
    def _inside(self) -> re.Pattern[str] | None:
        named = sorted((label for label in self.labels if label[-1:] in ":：" and "0" not in label), key=len)[-LABELS:]
        # `A:` is no part of `area:`; scripts without spaces have no edge to look for.
        edged = ((("" if UNSPACED.match(label) else r"(?<!\w)") + re.escape(label)) for label in named)
        return re.compile("|".join(edged), re.IGNORECASE) if named else None

    def broken(self, text: str) -> bool:
        """Whether somebody else begins to speak in it: a label stands in its middle."""
        return self._inside is not None and self._inside.search(" ".join(text.split())) is not None

    def common(self, text: str) -> float:
        """The share of a text's runs that many documents have."""
        runs = _runs(_hashed(_WORD.findall(text.casefold()))).tolist()
        return sum(run in self.runs for run in runs) / max(1, len(runs))


def habits(passages: Iterable[Passage]) -> Habits:
    """Those of some passages, `READ` characters of them; passages of a document may come in any order."""
    heads, said, read = Counter[tuple[str, str]](), dict[str, list[Hashes]](), 0
    names: dict[int, str] = {}
    for passage in passages:
        if (read := read + len(passage.text)) > READ:
            break
        heads.update((passage.document, _plain(head)) for head in _HEAD.findall(passage.text) if head)
        words = _WORD.findall(passage.text.casefold())
        said.setdefault(passage.document, []).append(hashes := _hashed(words))
        names.update(zip(hashes.tolist(), words, strict=True))
    labels = frozenset(label for (_, label), count in heads.items() if count >= OFTEN)
    if len(said) < AT_LEAST:
        return Habits(labels)
    every = [np.unique(np.concatenate([_runs(hashes) for hashes in of])) for of in said.values()]
    runs, counts = np.unique(np.concatenate(every), return_counts=True)
    common = runs[counts >= max(AT_LEAST, SHARE * len(every))]
    return Habits(labels, frozenset(common.tolist()), _habitual([h for of in said.values() for h in of], common, names))


def _habitual(said: Iterable[Hashes], common: Hashes, names: Mapping[int, str]) -> frozenset[str]:
    """The stems of words that stand in common runs at `HABITUAL` of their places, or more."""
    texts, held = [hashes for hashes in said if len(hashes) >= RUN], []
    for hashes in texts:
        runs, inside = _runs(hashes), np.zeros(len(hashes), bool)
        at = np.minimum(np.searchsorted(common, runs), max(0, len(common) - 1))
        starts = common[at] == runs if len(common) else np.zeros(len(runs), bool)
        for i in range(RUN):
            inside[i : len(runs) + i] |= starts
        held.append(inside)
    if not texts:
        return frozenset()
    words, of = np.unique(np.concatenate(texts), return_inverse=True)
    total, within = np.bincount(of), np.bincount(of, weights=np.concatenate(held).astype(float))
    by_stem: dict[str, tuple[float, float]] = {}
    for word, count, common_count in zip(words.tolist(), total.tolist(), within.tolist(), strict=True):
        before = by_stem.get(root := stem(names[word]), (0.0, 0.0))
        by_stem[root] = (before[0] + count, before[1] + common_count)
    return frozenset(root for root, (count, inside_it) in by_stem.items() if inside_it >= HABITUAL * count)


def _plain(head: str) -> str:
    return re.sub(r"\d", "0", " ".join(head.split())).casefold()


def _hashed(words: list[str]) -> Hashes:
    """A number for each word; the same in one process, which is all that it is for."""
    return np.array([hash(word) & _MASK for word in words], dtype=np.int64)


def _runs(hashes: Hashes) -> Hashes:
    """A number for each run of `RUN` words."""
    if len(hashes) < RUN:
        return np.zeros(0, np.int64)
    of = hashes.view(np.uint64)
    made = np.zeros(len(of) - RUN + 1, dtype=np.uint64)
    for i in range(RUN):
        made = made * np.uint64(1_000_003) ^ of[i : len(of) - RUN + 1 + i]
    return made.view(np.int64)


NONE = Habits()
