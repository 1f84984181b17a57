"""Dense retrieval: the cosine of two texts' vectors.

Shapes: M width of a vector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def embedded_text(title: str, heading: str | None, text: str) -> str:
    """What the encoder reads of a passage: its document's title and section stand before it."""
    return text
