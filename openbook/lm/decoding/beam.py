"""Beam search: the likeliest whole text instead of the likeliest next token.

    score(y) = Σ_t log p(y_t | y_<t) / |y|^α          α: `length_penalty` (cf. Wu 2016, arXiv 1609.08144, eq. 14)

Shapes: N hypotheses of all texts, V vocabulary. A text's end token counts in its score and its length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.decoding.draft import Draft, Reason
from openbook.lm.decoding.hypotheses import Hypotheses

WIDEST = 64
STEEPEST = 10.0
"""The largest length penalty, either way: a power that no length of text makes too large a number."""


@dataclass(frozen=True)
class Beams:
    """`width` hypotheses are kept; each step looks at 2·width continuations, so that as many go on as end.

    A search is over once `width` texts have ended and `early_stopping` says so: True, at once; False, when the best
    hypothesis, at its length now, scores no higher than the worst of them; "never", when it would not at the limit's
    length either (only with α > 0 that differs from False). One beam is greedy: over with the first that ends.
    """

    width: int = 4
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        if not 1 <= self.width <= WIDEST:
            raise Fault(f"{self.width} beams; it must be from 1 to {WIDEST}")
        if not abs(self.length_penalty) <= STEEPEST:
            raise Fault(
                f"the length penalty is {self.length_penalty}; it must be from {-STEEPEST:g} to {STEEPEST:g}; 0 is none"
            )
        if self.early_stopping not in (True, False, "never"):
            raise Fault(f"early stopping is {self.early_stopping!r}; it must be True, False or 'never'")


@dataclass(frozen=True)
class Found:
    """A text that a search found: its tokens, the end token not among them, and log p of each.

    `log_p` has one number more where an end token was written. `notes` are what `note` said of each number.
    """

    tokens: tuple[int, ...]
    log_p: tuple[float, ...]
    score: float
    reason: Reason
    fits: bool
    notes: tuple[Any, ...]


@dataclass(frozen=True)
class _Live:
    """A hypothesis: `sum` is its log-probability, after penalties if there are any."""

    draft: Draft
    sum: float = 0.0
    tokens: tuple[int, ...] = ()
    log_p: tuple[float, ...] = ()
    notes: tuple[Any, ...] = ()


def beam_search(
    hypotheses: Hypotheses,
    drafts: Sequence[Draft],
    beams: Beams,
    limit: int,
    *,
    penalty: float = 1.0,
    note: Callable[[int, int], Any] | None = None,
) -> list[list[Found]]:
    """The best texts of at most `limit` tokens for each of the texts that `hypotheses` starts, best first.

    `drafts` are their rules. Each step runs the hypotheses of all texts at once. `note(row, token)` is asked about
    every continuation that is kept, while the scores of that row are the latest.
    """
    if limit < 1:
        raise Fault(f"at most {limit} tokens are asked for; it must be 1 or more")
    searches = [_Search(draft, beams, limit, penalty) for draft in drafts]
    scores_NV = hypotheses.start()
    if len(scores_NV) != len(searches):
        raise ValueError(f"{len(scores_NV)} texts begin, {len(searches)} drafts are given")
    for length in range(1, limit + 1):
        log_p_NV = scores_NV.log_softmax(-1)
        parents: list[int] = []
        row = 0
        for search in searches:
            rows = row + len(search.live)
            parents += [row + parent for parent in search.go_on(log_p_NV[row:rows], length, row, note)]
            row = rows
        live = [hypothesis for search in searches for hypothesis in search.live]
        if not live:
            break
        scores_NV = hypotheses.step(parents, [hypothesis.tokens[-1] for hypothesis in live])
    if not all(search.ended for search in searches):
        raise Fault("the model's numbers are not finite; its file is damaged: fetch or convert it again")
    return [search.ended for search in searches]


class _Search:
    """The search for one text: hypotheses that go on, and those that have ended, the best first."""

    def __init__(self, draft: Draft, beams: Beams, limit: int, penalty: float) -> None:
        self.beams, self.limit, self.penalty = beams, limit, penalty
        self.live = [_Live(draft)]
        self.ended: list[Found] = []

    def go_on(self, log_p_NV: Tensor, length: int, row: int, note: Callable[[int, int], Any] | None) -> list[int]:
        """Replace the hypotheses by their best continuations, of `length` tokens: the parent of each.

        `row` is the first of their rows among all.
        """
        width = self.beams.width
        if not self.live:
            return []
        # fp64: a sum of many steps must not make equal what one step tells apart.
        sums = [
            live.draft.allow(p_V, self.penalty).double() + live.sum
            for live, p_V in zip(self.live, log_p_NV, strict=True)
        ]
        best = _best(torch.stack(sums), max(2, 1 + len(self.live[0].draft.ends)) * width)
        live: list[_Live] = []
        parents: list[int] = []
        for rank, (total, parent, token) in enumerate(best):
            was = self.live[parent]
            if rank >= width and (token in was.draft.ends or len(live) >= width):
                continue
            draft = was.draft.fork()
            draft.add(token)
            if draft.reason is None and length == self.limit:
                draft.reason = "limit"
            # Beyond the best `width` a continuation is only a reserve in place of those that ended.
            if (rank >= width) if draft.reason else (len(live) >= width):
                continue
            noted = (*was.notes, note(row + parent, token)) if note else ()
            log_p = (*was.log_p, float(log_p_NV[parent, token]))
            grown = _Live(draft, total, (*was.tokens, token), log_p, noted)
            if draft.reason:
                self._end(grown, length)
            else:
                live.append(grown)
                parents.append(parent)
        self.live = live
        if self._over(length):
            self.live, parents = [], []
        return parents

    def _end(self, text: _Live, length: int) -> None:
        """Keep an ended text if it is among the best: those that satisfy the constraint before those that do not."""
        reason = text.draft.reason or "limit"
        tokens = text.tokens[:-1] if reason == "end" else text.tokens
        score = self._score(text.sum, length)
        found = Found(tokens, text.log_p, score, reason, text.draft.fits, text.notes)
        self.ended.append(found)
        self.ended.sort(key=lambda found: (not found.fits, -found.score))
        del self.ended[self.beams.width :]

    def _score(self, total: float, length: int) -> float:
        """What ended texts are compared by."""
        score: float = total / float(length) ** self.beams.length_penalty
        return score

    def _over(self, length: int) -> bool:
        """Whether no hypothesis can, or by `early_stopping` should, still be among the best.

        Log-probabilities only fall: no continuation of a hypothesis scores above its sum of now over the length that
        flatters it most, for α > 0 the longest. Only "never" takes that bound; the others take the length of now.
        """
        if not self.live:
            return True
        if len(self.ended) < self.beams.width or not self.ended[-1].fits:
            return False
        # With one beam what ends first is what greedy choices end with.
        if self.beams.early_stopping is True or self.beams.width == 1:
            return True
        longest = self.limit if self.beams.early_stopping == "never" and self.beams.length_penalty > 0 else length
        return self._score(self.live[0].sum, longest) <= self.ended[-1].score


def _best(sums_NV: Tensor, count: int) -> list[tuple[float, int, int]]:
    """The highest possible sums, each with its row and its token. Raises `Fault` for sums that are not numbers."""
    vocabulary = sums_NV.shape[1]
    top = sums_NV.flatten().topk(min(count, sums_NV.numel()))
    if bool(top.values.isnan().any()):
        raise Fault("the model's numbers are not finite; its file is damaged: fetch or convert it again")
    found = zip(top.values.tolist(), top.indices.tolist(), strict=True)
    return [(total, *divmod(index, vocabulary)) for total, index in found if total > float("-inf")]
