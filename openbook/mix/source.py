"""What a mixture mixes: anything that gives next-token distributions for the same continuation.

They are given as *scores*, whose softmax is the distribution: logits, or log-probabilities if those are at hand.

Shapes: S sources (one row each), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

Kind = Literal["passage", "closed_book", "neighbours", "faq", "report", "model", "image"]


class Label(NamedTuple):
    """Who a row of a distribution belongs to: `p1`, `p2`, … or `closed`."""

    id: str
    kind: Kind


class Source(Protocol):
    """One or more rows of next-token distributions, advanced together by the token that was chosen."""

    labels: tuple[Label, ...]

    def start(self) -> Tensor:
        """fp32 scores `[S, V]` of the continuation's first token."""

    def step(self, token: int) -> Tensor:
        """The same for the next token, after `token` was appended to the continuation of every row."""


@runtime_checkable
class Expecting(Source, Protocol):
    """A source that can read several tokens for little more than one."""

    def expect(self, tokens: Sequence[int]) -> None:
        """Tokens that may come after the next: the next `step`, if it must read at all, may read them too.

        What it gives does not change by that.
        """
