"""Reading a model's configuration so that nothing in it is overlooked.

A field that changes the arithmetic and is passed over in silence gives a model that runs and is wrong. So every
field is either taken, required to have the one value that means "off", or listed as harmless; what is left is a
`Fault` that names it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from openbook.errors import Fault

MOST = 1 << 31  # no size of a model is larger, so a corrupt one is refused before anything is made of it


class Fields:
    """A mapping of configuration fields that remembers which were read; `where` names it in messages."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = dict(values)
        self._read: set[str] = set()
        self._where = where

    def fault(self, name: str, problem: str) -> Fault:
        """A `Fault` about the field `name`; what came from the file is shortened, so that it stays one line."""
        shown = name if name.isprintable() else repr(name)
        return Fault(f"{self._where}: {_short(shown, 80)} {_short(problem, 400)}")

    def take(self, name: str, default: Any = None) -> Any:
        """The value as it is; an explicit null counts as absent."""
        self._read.add(name)
        value = self._values.get(name)
        return default if value is None else value

    def has(self, name: str) -> bool:
        """Whether the field is there at all, be it null."""
        return name in self._values

    def whole(self, name: str, default: int | None = None) -> int:
        """An integer of 1 or more; without a default the field must be there."""
        value = self.take(name, default)
        if value is None:
            raise self.fault(name, "is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
            raise self.fault(name, f"is {value!r}, not a whole number from 1 to {MOST}")
        return value

    def token(self, name: str, default: int | None = None) -> int:
        """A token's id: an integer of 0 or more; without a default the field must be there."""
        value = self.take(name, default)
        if value is None:
            raise self.fault(name, "is missing; give a token's id")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
            raise self.fault(name, f"is {value!r}, not a token's id")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """A finite number of 0 or more."""
        value = self.take(name, default)
        if value is None:
            raise self.fault(name, "is missing")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise self.fault(name, f"is {value!r}, not a number of 0 or more")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.fault(name, f"is {value!r}, not true or false")
        return value

    def only(self, name: str, *allowed: Any) -> None:
        """Require the field to be absent or one of `allowed`: the values that leave the arithmetic as it is."""
        value = self.take(name)
        if value is not None and value not in allowed:
            rest = f"only {', '.join(map(repr, allowed))} is" if allowed else "only a model without it is"
            raise self.fault(name, f"is {value!r}, which is not supported; {rest}")

    def finish(self, harmless: Iterable[str]) -> None:
        """Refuse the first field that was neither read nor is `harmless`."""
        for name in sorted(set(self._values) - self._read - set(harmless)):
            raise self.fault(name, "is a field openbook does not know, and it may change the arithmetic")


def _short(text: str, most: int) -> str:
    """The text, or its beginning and its end."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2) :]}"
