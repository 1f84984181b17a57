"""What of a text a book already says word for word: of that, figures tell of copying, not of foretelling."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from openbook.book.store import Book
from openbook.lm.tokenizer import Tokenizer

WORDS = 13
"""A run of so many words is a copy (Brown 2020, arXiv 2005.14165, appendix C); shorter ones people write anew."""
_WORD = re.compile(r"\w+")

Mask = npt.NDArray[np.bool_]


class Said:
    """The runs of 13 words in a book's documents; letter case, punctuation and white space apart."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._runs = {run for text in texts for run, _, _ in _runs(text)}

    @classmethod
    def by(cls, book: Book | None) -> Said:
        """All that a book's documents say; nothing without one."""
        return cls([] if book is None else [book.text(document.name) for document in book.documents()])

    def copied(self, text: str, tokens: Sequence[int], tokenizer: Tokenizer) -> Mask:
        """Which of the text's tokens, from its first on, lie in a run of words that a document has too."""
        ends = [*accumulate((len(tokenizer.token_bytes(token)) for token in tokens), initial=0)]
        bytes_ = [*accumulate((len(character.encode("utf-8", "replace")) for character in text), initial=0)]
        copied = np.zeros(bytes_[-1] + 1, dtype=bool)
        for run, start, stop in _runs(text):
            if run in self._runs:
                copied[bytes_[start] : bytes_[stop]] = True
        return np.array(
            [bool(copied[start : max(stop, start + 1)].any()) for start, stop in pairwise(ends)], dtype=bool
        )


def _runs(text: str) -> list[tuple[int, int, int]]:
    """Each run of 13 words: its hash within this process, and its span of characters."""
    found = [(match[0].casefold(), match.start(), match.end()) for match in _WORD.finditer(text)]
    return [
        (hash(tuple(word for word, _, _ in found[i : i + WORDS])), found[i][1], found[i + WORDS - 1][2])
        for i in range(len(found) - WORDS + 1)
    ]
