"""One text while it is written: what may come next, and whether it is over.

Shapes: V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Literal

from torch import Tensor

from openbook.lm.decoding.constrain import Guide, Unwritable
from openbook.lm.decoding.sampling import penalise
from openbook.lm.decoding.stops import Spelling

Reason = Literal["end", "stop", "complete", "limit", "repetition", "robust"]
"""Why a text is over; "repetition" (it went round in a circle) is found by who spells it, not by its draft, "robust"
(what would come next does not withstand the bad passages asked for) by who certifies it."""


class Draft:
    """The rules of one text and where it stands under them. A draft serves one text; `fork` it for another.

    `ends` are the tokens that end it, `seen` those that a repetition penalty counts besides what is written. The
    penalty pulls scores towards `zero`: 0 for logits; −log V, an even chance, for log-probabilities, of which a likely
    token's is nearly 0 already. `guide` narrows what may come next; `spelling` finds stop strings. `reason` says why it
    is over: "end" (an end token), "stop" (a stop string), "complete" (the constraint allows nothing more), "limit";
    None while it is not.
    """

    def __init__(
        self,
        ends: Collection[int] = (),
        *,
        seen: Collection[int] = (),
        zero: float = 0.0,
        guide: Guide | None = None,
        spelling: Spelling | None = None,
    ) -> None:
        self.ends = frozenset(ends)
        self.seen = frozenset(seen)
        self.zero = zero
        self.guide, self.spelling = guide, spelling
        self.reason: Reason | None = None

    @property
    def fits(self) -> bool:
        """Whether the text as it stands satisfies the constraint, if there is one."""
        return self.guide is None or self.guide.accepting

    def allow(self, scores_V: Tensor, penalty: float = 1.0) -> Tensor:
        """The scores of what may come next: tokens seen before penalised, what the constraint forbids at −∞."""
        if penalty != 1:
            scores_V = penalise(scores_V - self.zero, self.seen, penalty) + self.zero
        if self.guide is None:
            return scores_V
        allowed_V = self.guide.mask(len(scores_V)).to(scores_V.device)
        if not bool((scores_V[allowed_V] > float("-inf")).any()):
            raise Unwritable(
                "no token of this model can go on as the constraint demands; loosen the schema or the regex"
            )
        return scores_V.masked_fill(~allowed_V, float("-inf"))

    def add(self, token: int) -> None:
        """Append a token that was allowed."""
        if token in self.ends:
            self.reason = "end"
            return
        self.seen |= {token}
        if self.guide is not None:
            self.guide.add(token)
            if self.guide.complete:
                self.reason = "complete"
        if self.spelling is not None:
            self.spelling.push(token)
            if self.spelling.stopped:
                self.reason = "stop"

    def fork(self) -> Draft:
        """The same text so far, to be continued otherwise."""
        other = copy.copy(self)
        other.guide = None if self.guide is None else self.guide.fork()
        other.spelling = None if self.spelling is None else self.spelling.fork()
        return other
