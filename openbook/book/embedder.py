"""What a book needs of a text encoder; `openbook.lm.encoder.TextEncoder` has it.

Shapes: N texts, M width.
"""

from __future__ import annotations

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
