"""How wide text is, near enough to set it: in ems of a proportional face such as Helvetica, DejaVu Sans or Inter."""

from __future__ import annotations

import unicodedata

_NARROW = {
    **dict.fromkeys("ijl'|.,:;!", 0.27),
    **dict.fromkeys(' ftrI()[]{}/\\"`', 0.33),
    **dict.fromkeys("-–…", 0.45),
    **dict.fromkeys("mwMW@%", 0.86),
}


def width(text: str) -> float:
    """Ems of a line of text."""
    return sum(map(_of, text))


def _of(character: str) -> float:
    if character in _NARROW:
        return _NARROW[character]
    if unicodedata.combining(character) or unicodedata.category(character) == "Cf":
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    return 0.66 if character.isupper() else 0.54
