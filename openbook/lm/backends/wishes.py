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
    """What a seat asks for: a part of a forward (`rows` of `width` tokens), or else a call that must be alone. It is
    done when `ready` is free."""

    seat: Seat
    part: Part | None = None
    call: Callable[[], Any] | None = None
    made: Any = None
    error: Exception | None = None
    taken: bool = False
    ready: threading.Lock = field(default_factory=threading.Lock)

    rows: int = field(init=False, default=0)
    width: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.ready.acquire()
        if self.part is not None:  # what has no rows is refused here, in the thread that asks
            self.rows, self.width = self.part.tokens_BT.shape


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
