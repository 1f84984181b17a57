"""Values of JSON that anybody may have written: each is of its kind, or nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Span = tuple[int, int]

_SPACING = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
# C0, C1 and DEL (escape sequences), and the bidi embeddings and overrides that make a name read as another one.
_CONTROL = re.compile("[\x00-\x08\x0d-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Text that is safe to print: no control characters, no bidi overrides, no lone surrogates; lines and tabs stay."""
    return _SURROGATE.sub("\ufffd", _CONTROL.sub("", _SPACING.sub(" ", text)))


def text_of(value: object) -> str:
    """A string as it is, null as nothing, anything else as Python writes it."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def rows_of(value: object) -> list[Mapping[str, Any]]:
    """The objects of a list; none where it is no list."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, Sequence) else []


def span_of(value: object, length: int, least: int = 0) -> Span | None:
    """A span of characters within `[least, length]`, or None."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    start, end = value
    if type(start) is not int or type(end) is not int or not least <= start <= end <= length:
        return None
    return start, end
