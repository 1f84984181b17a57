"""The model alone: what every other way is measured against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from openbook.measure.lm import ROWS, Row, Subject, Window, lm_way, score
from openbook.mix.weights import Array

PASSAGE = 256


@lm_way("model alone")
def alone(subject: Subject, windows: Sequence[Window]) -> Iterator[Array]:
    """Each window from its first token on."""
    return _read(subject, windows, 0)


@lm_way("alone-256-more", usual=False)
def longer(subject: Subject, windows: Sequence[Window]) -> Iterator[Array]:
    """The model alone with as much more of the text before it as a passage takes at most: the same cost, no book."""
    return _read(subject, windows, PASSAGE)


def _read(subject: Subject, windows: Sequence[Window], more: int) -> Iterator[Array]:
    """A few windows at once, each after `more` tokens before it."""
    for at in range(0, len(windows), ROWS):
        group = windows[at : at + ROWS]
        texts = [window.text[max(0, window.start - more) : window.stop] for window in group]
        rows = [Row([*subject.opening, *text], window.count) for text, window in zip(texts, group, strict=True)]
        yield from score(subject.runner, rows)
