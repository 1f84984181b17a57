"""A text that goes round in a circle: where it began to, and from where on it says nothing new.

Small models do so under greedy choices: what was just said is the likeliest thing to be said next, the more the more
often it was said (Holtzman 2020, arXiv 1904.09751, figure 4). A penalty on every token that was written also forbids
what an answer should say twice; here nothing is forbidden, and only the circle is withdrawn.

**A run** of period p is an end of the text in which every token is the one p places before it. Its first p tokens are
the unit; the n after them repeat. Tokens are compared as words: without the white space around them and in one case, as
"It" at the beginning of a line and " it" within one say the same.

**Over.** The text is over when n ≥ max(2 p, `CERTAIN`): three whole times at the least, and a short unit more often, so
that a laugh, a million's zeros, a table's rule and a list whose lines begin alike are left alone. Where it ends for
another reason, at the limit or by itself, n ≥ max(p − 1, `ENOUGH`) will do, if the unit holds the end of a sentence or
a line: nothing more can follow that would make sense of it. (The last time often lacks the line break: hence p − 1.)

**What stays** is all up to the first repeated token, and from there to the end of the sentence or line; where the unit
has none, to the end of a word. So the text never ends within a sentence that was whole, and what is withdrawn says
nothing that does not stand before it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
LONGEST = 128
"""The longest unit, in tokens."""
CERTAIN = 32
"""Repeated tokens from which on a text is over."""
ENOUGH = 8
"""Repeated tokens that are withdrawn from the end of a text that is over anyway."""
INSIDE, ANYWHERE, WORD, SENTENCE = range(4)
"""What ends at a place: nothing but a part of a character, a token, a word, a sentence or a line."""
_ENDED = re.compile(r"(\n[ \t]*|[.!?…][\"'”’»)\]*_`]*)\Z")  # `$` would also match before a last line break
_ENDED_WITHOUT_SPACE = re.compile(r"[。！？][”’」』）]*\Z")


@dataclass(slots=True)
class _Run:
    """`repeated` tokens equal those one period before; the text would be cut at `cut`, where a `rank` ends."""

    repeated: int
    cut: int
    rank: int


class Repeats:
    """One growing text, watched for runs. Each token takes a look at `LONGEST` earlier ones.

    Of `count` tokens `stays` are sure to stay; `over` says that the text has gone round in a circle for long enough.
    """

    def __init__(self) -> None:
        self.over = False
        self.count = self.stays = 0
        self._words: list[Hashable] = []
        self._ranks: list[int] = []  # what ends before each token
        self._tail = ""
        self._runs: dict[int, _Run] = {}

    @property
    def withdrawn(self) -> int:
        """How many tokens do not stay, of a text that is over or has ended."""
        return self.count - self.stays

    def push(self, token: int, text: str) -> None:
        """Take the next token and its text (empty within a character). `stays` never falls; no more once it is over."""
        at = self.count
        self.count += 1
        self._ranks.append(_rank(self._tail, text))
        if text:
            self._tail = (self._tail + text)[-16:]
        word = _word(token, text)
        near = self._words[-LONGEST:]
        self._words.append(word)
        self._runs = {len(near) - i: self._longer(len(near) - i, at) for i, before in enumerate(near) if before == word}
        certain = [run.cut for period, run in self._runs.items() if run.repeated >= max(2 * period, CERTAIN)]
        self.over = bool(certain)
        self.stays = min([self.count, *(certain or (run.cut for run in self._runs.values()))])

    def end(self) -> None:
        """Nothing follows: all stays that is not a repetition even so."""
        ending = (
            run.cut
            for period, run in self._runs.items()
            if run.repeated >= max(period - 1, ENOUGH) and run.rank == SENTENCE
        )
        self.stays = min([self.count, *ending])

    def _longer(self, period: int, at: int) -> _Run:
        run = self._runs.get(period)
        if run is not None:
            run.repeated += 1
            return run
        # The first repeated token stands at `at`. What ends later within the repeated unit ends so within the first.
        ranks = [self._ranks[at], *self._ranks[at - period + 1 : at]]
        best = max(ranks)
        return _Run(1, at + ranks.index(best), best)


def unrepeated(items: Iterable[tuple[T, str]], token: Callable[[T], int], repeats: Repeats) -> Iterator[tuple[T, str]]:
    """Items with their tokens' texts (`openbook.lm.decoding.stops.spelled`), without what only repeats.

    An item is held back as long as it may still be withdrawn: while it, and all since, repeat a unit; no other is.
    Ends where the text is over, and asks for no more.
    """
    waiting: deque[tuple[T, str]] = deque()
    given = 0
    for item, text in items:
        waiting.append((item, text))
        repeats.push(token(item), text)
        while given < repeats.stays:
            yield waiting.popleft()
            given += 1
        if repeats.over:
            return
    repeats.end()
    while given < repeats.stays:
        yield waiting.popleft()
        given += 1


def _word(token: int, text: str) -> Hashable:
    """What a token is compared by."""
    if not text:
        return token
    return text.strip().casefold() or ("\n" if "\n" in text else " ")


def _rank(before: str, text: str) -> int:
    """What ends between the text so far and the next token's."""
    if not before or not text:
        return INSIDE
    if text[0] == "\n" or _ENDED_WITHOUT_SPACE.search(before):
        return SENTENCE
    if (ended := _ENDED.search(before)) and (text[0].isspace() or ended[0][0] == "\n"):
        return SENTENCE
    return WORD if text[0].isspace() or before[-1].isspace() else ANYWHERE
