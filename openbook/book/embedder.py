"""What a book needs of a text encoder; `openbook.lm.encoder.TextEncoder` has it.

Shapes: N texts, M width.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class TokenCounter(Protocol):
    """Counts a text's tokens: all that cutting into passages needs."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones left out."""
        ...


class Embedder(TokenCounter, Protocol):
    """Texts to unit vectors."""

    @property
    def name(self) -> str:
        """Names the vectors: a book holds vectors of one name only."""
        ...

    @property
    def width(self) -> int:
        """M, the length of a vector."""
        ...

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors, float32 `[N, M]`."""
        ...


class HashedWords:
    """Vectors of hashed words: no model, no meaning beyond shared words, the same everywhere. For tests and trials."""

    def __init__(self, width: int = 64) -> None:
        self.name = f"hashed-words-{width}"
        self.width = width

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Pieces of at most six letters, each other character by itself."""
        return [len(re.findall(r"[A-Za-z0-9]{1,6}|\S", text)) for text in texts]

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """How often each of M classes of words occurs, at unit length."""
        counts_NM = np.zeros((len(texts), self.width), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                digest = hashlib.sha256(word.encode()).digest()
                counts_NM[row, int.from_bytes(digest[:4], "big") % self.width] += 1
        unit: npt.NDArray[np.float32] = counts_NM / np.linalg.norm(counts_NM, axis=1, keepdims=True)
        return unit
