"""What a mixture mixes: anything that gives next-token distributions for the same continuation.

They are given as *scores*, whose softmax is the distribution: logits, or log-probabilities if those are at hand.

Shapes: S sources (one row each), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

Kind = Literal["passage", "closed_book", "neighbours", "faq", "report", "model", "image"]


class Label(NamedTuple):
    """Who a row of a distribution belongs to: `p1`, `p2`, … or `closed`."""

    id: str
    kind: Kind


SHARING: frozenset[Kind] = frozenset({"neighbours"})
"""Kinds that have no prior: at each step such a source says itself what share of the mixture it takes (`Sharing`)."""


@dataclass
class Tap:
    """What the last layer's feed-forward read at the closed book's last token, fp32 `[M]`: the key of kNN-LM.

    `Branches` leaves it here at each step, for the source that stands after it (`openbook.mix.sources.neighbours`).
    """

    state_M: Tensor | None = None


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


@runtime_checkable
class Sharing(Source, Protocol):
    """A source of one row, of a `SHARING` kind, that knows at each step how much it has to say.

    It is started and stepped after the sources that stand before it, so it may look at what their forwards left.
    """

    @property
    def share(self) -> float:
        """λ_t, from 0 to below 1: its weight for the token that comes next; the others have the rest."""
