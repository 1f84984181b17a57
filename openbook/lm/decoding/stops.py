"""Tokens as text, up to a stop string: what is given out is sure to stay.

A stop string may begin in one token and end in another, and a character too. So a token is held back as long as its
text may still become part of a stop string, or ends within a character; no other token is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from openbook.errors import Fault

T = TypeVar("T")
MOST, LONGEST = 64, 1024
"""Stop strings that are taken, and characters of one."""


def check_stops(stops: Sequence[str]) -> None:
    """Raise a `Fault` for stop strings that cannot be."""
    if isinstance(stops, str):
        raise Fault(f"stop strings are a list; give [{stops!r}]")
    if not all(isinstance(stop, str) and 0 < len(stop) <= LONGEST for stop in stops) or len(stops) > MOST:
        raise Fault(f"stop strings are texts of 1 to {LONGEST} characters, at most {MOST} of them")


class Growing(Protocol):
    """A text that grows by ids: `openbook.lm.tokenizer.Stream`."""

    def push(self, index: int, /) -> str: ...
    def flush(self) -> str: ...
    def fork(self) -> Growing: ...

    @property
    def pending(self) -> bool: ...


class Speller(Protocol):
    """What turns ids into text: a tokenizer, or bytes (`openbook.mix.sources.member.ByteText`)."""

    def stream(self) -> Growing: ...


class Spelling:
    """The text of one growing sequence of tokens, cut before the first stop string (which is not given out)."""

    def __init__(self, tokenizer: Speller, stops: Sequence[str] = ()) -> None:
        check_stops(stops)
        self.stops = tuple(stops)
        self.stopped = False
        self._stream = tokenizer.stream()
        self._held: list[str] = []

    def fork(self) -> Spelling:
        """The same text so far, to be continued otherwise."""
        other = object.__new__(Spelling)
        other.stops, other.stopped = self.stops, self.stopped
        other._stream, other._held = self._stream.fork(), list(self._held)
        return other

    def push(self, token: int) -> list[str]:
        """The texts of the tokens that are now sure, in their order from the first that was held back."""
        if self.stopped:
            return []
        self._held.append(self._stream.push(token))
        text = "".join(self._held)
        if (cut := self._found(text)) is not None:
            return self._cut(cut)
        sure = len(text) - self._begun(text)
        count = self._until(sure)
        if count == len(self._held) and self._stream.pending:
            count = self._whole(count - 1)
        return self._give(count)

    def flush(self) -> list[str]:
        """The texts of the tokens still held back, when nothing follows: half a character becomes U+FFFD."""
        rest = "" if self.stopped else self._stream.flush()
        if not self._held:
            return []
        self._held[-1] += rest
        cut = self._found("".join(self._held))
        return self._give(len(self._held)) if cut is None else self._cut(cut)

    def _found(self, text: str) -> int | None:
        """Where the stop string that is whole first begins; of several, the longest."""
        ends = ((place + len(stop), place) for stop in self.stops if (place := text.find(stop)) >= 0)
        return min(ends, default=(0, None))[1]

    def _begun(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = max(map(len, self.stops), default=0) - 1
        ends = (n for n in range(min(longest, len(text)), 0, -1) if any(s.startswith(text[-n:]) for s in self.stops))
        return next(ends, 0)

    def _until(self, place: int) -> int:
        """How many held tokens end at or before this place."""
        count = end = 0
        while count < len(self._held) and end + len(self._held[count]) <= place:
            end += len(self._held[count])
            count += 1
        return self._whole(count)

    def _whole(self, count: int) -> int:
        """Without the tokens at the end that are only a part of the next one's first character."""
        while count and count < len(self._held) and not self._held[count - 1]:
            count -= 1
        return count

    def _cut(self, place: int) -> list[str]:
        self.stopped = True
        texts: list[str] = []
        for text in self._held:
            if place <= 0:
                break
            texts.append(text[:place])
            place -= len(text)
        self._held = []
        return texts

    def _give(self, count: int) -> list[str]:
        given, self._held = self._held[:count], self._held[count:]
        return given


def spelled(items: Iterable[T], token: Callable[[T], int], spelling: Spelling) -> Iterator[tuple[T, str]]:
    """Each item with its token's text, as soon as that is sure; ends before a stop string, and asks for no more."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        for text in spelling.push(token(item)):
            yield waiting.popleft(), text
        if spelling.stopped:
            return
    for text in spelling.flush():
        yield waiting.popleft(), text
