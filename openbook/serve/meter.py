"""What an engine counts, for /metrics."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

BOUNDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
"""Upper bounds of the histogram's buckets, seconds; one more holds what took longer."""


class Meter:
    """Counts since the beginning. Each is written under Python's lock; a reader may see one a moment before another."""

    def __init__(self) -> None:
        self.requests = self.refused = self.tokens = 0
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def first(self, seconds: float) -> None:
        """A request had its first token after so long, since it was asked."""
        self._buckets[bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds

    def summary(self) -> dict[str, Any]:
        """`first_token`: `bounds` in seconds, `counts` (one more, for what took longer), `sum` of seconds."""
        first = {"bounds": BOUNDS, "counts": list(self._buckets), "sum": self._seconds}
        return {"requests": self.requests, "refused": self.refused, "tokens": self.tokens, "first_token": first}
