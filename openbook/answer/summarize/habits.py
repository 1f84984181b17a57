"""What documents say out of habit: who speaks at the head of a line, and what they all say in the same words.

Both are found by counting, so nothing is known of any kind of document. The head of a line (`ADA LOVELACE:`, a time)
is a *label* where a document has it often; digits count as one. A run of `RUN` words is *common* where many documents
have it: what is mostly of such runs (a greeting, a disclaimer, "subscribe to our channel") tells a reader nothing
about any of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from openbook.book.graph.derive import stem
from openbook.book.passages import Passage

RUN = 4
"""Words that stand together."""
OFTEN, AT_LEAST, SHARE = 3, 4, 0.05
"""Lines of a document that have a label; documents, and share of all of them, that have a common run."""
EVERYWHERE = 0.9
"""Share of the documents that have a word which tells none from another."""
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
    """The labels of a book's documents, the runs of words that many of them have, the words (stems) that nearly all
    have."""

    labels: frozenset[str] = frozenset()
    runs: frozenset[int] = frozenset()
    everywhere: frozenset[str] = frozenset()

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
        return re.compile("|".join(map(re.escape, named)), re.IGNORECASE) if named else None

    def broken(self, text: str) -> bool:
        """Whether somebody else begins to speak in it: a label stands in its middle."""
        return self._inside is not None and self._inside.search(" ".join(text.split())) is not None

    def common(self, text: str) -> float:
        """The share of a text's runs that many documents have."""
        runs = _runs(_WORD.findall(text.casefold())).tolist()
        return sum(run in self.runs for run in runs) / max(1, len(runs))


def habits(passages: Iterable[Passage]) -> Habits:
    """Those of some passages, `READ` characters of them; passages of a document may come in any order."""
    heads, runs, read = Counter[tuple[str, str]](), dict[str, list[Hashes]](), 0
    said = dict[str, set[str]]()
    for passage in passages:
        if (read := read + len(passage.text)) > READ:
            break
        heads.update((passage.document, _plain(head)) for head in _HEAD.findall(passage.text) if head)
        words = _WORD.findall(passage.text.casefold())
        runs.setdefault(passage.document, []).append(_runs(words))
        said.setdefault(passage.document, set()).update(words)
    labels = frozenset(label for (_, label), count in heads.items() if count >= OFTEN)
    every = [np.unique(np.concatenate(of)) for of in runs.values()]
    if len(every) < AT_LEAST:
        return Habits(labels)
    hashes, counts = np.unique(np.concatenate(every), return_counts=True)
    common = frozenset(hashes[counts >= max(AT_LEAST, SHARE * len(every))].tolist())
    documents = Counter(word for of in said.values() for word in {stem(word) for word in of})
    return Habits(labels, common, frozenset(w for w, n in documents.items() if n >= EVERYWHERE * len(said)))


def _plain(head: str) -> str:
    return re.sub(r"\d", "0", " ".join(head.split())).casefold()


def _runs(words: list[str]) -> Hashes:
    """A number for each run of words; the same in one process, which is all that it is for."""
    if len(words) < RUN:
        return np.zeros(0, np.int64)
    of = np.array([hash(word) & _MASK for word in words], dtype=np.uint64)
    made = np.zeros(len(of) - RUN + 1, dtype=np.uint64)
    for i in range(RUN):
        made = made * np.uint64(1_000_003) ^ of[i : len(of) - RUN + 1 + i]
    return made.view(np.int64)


NONE = Habits()
