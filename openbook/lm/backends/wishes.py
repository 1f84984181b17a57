"""What threads ask of a shared runner, and whose turn it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from openbook.lm.backends.runner import FEW, Part

if TYPE_CHECKING:
    from openbook.lm.backends.shared import Seat


@dataclass(eq=False)
class Wish:
    """What a seat asks for: a part of a forward, or else a call that must be alone. It is done when `ready` is free."""

    seat: Seat
    part: Part | None = None
    call: Callable[[], Any] | None = None
    made: Any = None
    error: Exception | None = None
    taken: bool = False
    ready: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.ready.acquire()

    @property
    def rows(self) -> int:
        """Rows of it."""
        return 0 if self.part is None else self.part.tokens_BT.shape[0]

    @property
    def width(self) -> int:
        """Tokens a row."""
        return 0 if self.part is None else self.part.tokens_BT.shape[1]


def choose(waiting: Sequence[Wish], rows: int, chunk: int) -> list[Wish]:
    """The wishes of the next forward, of those that wait, in the order in which they came.

    The first is always among them, so everybody's turn comes. Who writes (fewer than `FEW` tokens a row) is taken up to
    `rows` rows, who reads up to `chunk` tokens; a call when it is the first, and nothing beside it.
    """
    chosen: list[Wish] = []
    writing = reading = 0
    for wish in waiting:
        if wish.part is None:
            if not chosen:
                return [wish]
            continue
        tokens = wish.rows * wish.width
        if wish.width < FEW and (not writing or writing + wish.rows <= rows):
            chosen.append(wish)
            writing += wish.rows
        elif wish.width >= FEW and (not reading or reading + tokens <= chunk):
            chosen.append(wish)
            reading += tokens
    return chosen
