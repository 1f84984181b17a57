"""The model alone: what every other way is measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from openbook.measure.lm import ROWS, Row, Subject, Window, lm_way, score
from openbook.mix.weights import Array


@lm_way("model alone")
def alone(subject: Subject, windows: Sequence[Window]) -> Iterator[Array]:
    """Each window from its first token on, a few windows at once."""
    for at in range(0, len(windows), ROWS):
        rows = [Row([*subject.opening, *window.tokens], window.count) for window in windows[at : at + ROWS]]
        yield from score(subject.runner, rows)
