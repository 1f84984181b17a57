"""What may be written next, as far as it is being copied: a guess that is read ahead, and kept only where it was right.

An answer quotes. So what follows, in a passage or in the question, the words that were written last is a guess of what
will be written now, at no cost but a look-up (prompt look-up decoding; verification is that of Leviathan 2022, arXiv
2211.17192, with a draft that is certain of itself). The branches read the guess together with the token that was
chosen, in one forward (`Branches.expect`). Tokens are then chosen exactly as without: from the mixture, one after the
other, by the same draws. As long as the choice is what was guessed, the scores for the next one are there already.

**Which guess.** Of all places where the last L ≥ 1 written tokens stand, the one with the largest `min(L, 4) + 3 r`: L
the length of the match, r the share that the row whose text it is had in the last token. The answer itself is such a
text too, with r = 1.

**How sure.** `logit p = 0.15 + log₂ min(L, 8) − κ − 1.3 (1 − r) + b`, with κ = 0 for a token inside a word, 1.1 for one
that begins a word and 2.2 for others: a quotation seldom goes on past a comma. Fitted on 140 answers to questions of
SQuAD's open half. Every written token tells whether the guess was right, also where nothing was read ahead, so b
learns: `b ← b + 0.25 (hit − p)`, within ±2. After some misses nothing is guessed; after hits guesses are longer.

**How long.** A forward of R rows × tokens is taken to cost `1 + c R` of what reading the weights costs. Of n guessed
tokens, n from 0 on, that n is read which gives the most tokens for the cost: `(1 + Σ_i p_1 ⋯ p_i) / (1 + c S (1 + n))`.
Where R rows of others are read in the same forward, they bear their part of it: the weights cost S / (S + R).

Shapes: S rows (branches).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from openbook.mix.weights import Array

ROW_COST = 0.2
"""c: what a token of a row costs beside reading the weights once, on a CPU of two cores."""
MOST = 16
"""Tokens that are read ahead at most: fewer than a batch-invariant runner may be given at once."""
OFTEN = 256
"""Places at most where one token is looked for: a text of one word repeated costs no more than another."""
LEARNING, FARTHEST = 0.25, 2.0
INSIDE, BEGINS, OTHER = 0.0, 1.1, 2.2


class Place(NamedTuple):
    """A place in a text that the written words end at: what comes next there is the guess."""

    text: int
    at: int
    length: int


class Speculation:
    """Guesses for one answer over S rows. `texts` are the rows' tokens, `spelling` gives the bytes of a token.

    `beside` tells how many rows of others are read in the same forwards.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        spelling: Callable[[int], bytes],
        *,
        row_cost: float = ROW_COST,
        beside: Callable[[], int] = lambda: 0,
    ) -> None:
        self.rows, self.row_cost, self._beside = len(texts), row_cost, beside
        self._spelling = spelling
        self._written: list[int] = []
        self._texts: list[Sequence[int]] = [*map(tuple, texts), self._written]
        self._after: dict[int, list[tuple[int, int]]] = {}
        for text, tokens in enumerate(texts):
            for at, token in enumerate(tokens):
                self._note(token, text, at + 1)
        self._lengths: dict[tuple[int, int], int] = {}
        self._guess: tuple[int, float] | None = None
        self._bias = 0.0

    def after(self, token: int, share_S: Array, most: int) -> list[int]:
        """At most `most` tokens to read ahead after `token`, which was just chosen; often none.

        `share_S` are the responsibilities of the rows for that token. To be called with every token that is written.
        """
        self._learn(token)
        self._follow(token)
        place = max(self._places(), key=lambda place: self._rank(place, share_S), default=None)
        if place is None:
            self._guess = None
            return []
        guess = self._texts[place.text][place.at : place.at + MOST]
        rates = [self._rate(next, place, ahead, share_S) for ahead, next in enumerate(guess)]
        self._guess = guess[0], rates[0]
        return list(guess[: self._length(rates[:most])])

    def _learn(self, token: int) -> None:
        if self._guess is not None:
            guessed, rate = self._guess
            bias = self._bias + LEARNING * ((guessed == token) - rate)
            self._bias = max(-FARTHEST, min(FARTHEST, bias))

    def _follow(self, token: int) -> None:
        """Go on with the matches that the token goes on with, and begin one at every other place where it stands."""
        before = self._lengths
        self._lengths = {(text, at): before.get((text, at - 1), 0) + 1 for text, at in self._after.get(token, ())}
        self._written.append(token)
        self._note(token, self.rows, len(self._written))

    def _note(self, token: int, text: int, at: int) -> None:
        places = self._after.setdefault(token, [])
        if len(places) < OFTEN:
            places.append((text, at))

    def _places(self) -> list[Place]:
        """The matches that something follows."""
        found = self._lengths.items()
        return [Place(text, at, length) for (text, at), length in found if at < len(self._texts[text])]

    def _share(self, place: Place, share_S: Array) -> float:
        return float(share_S[place.text]) if place.text < self.rows else 1.0

    def _rank(self, place: Place, share_S: Array) -> tuple[float, int]:
        return min(place.length, 4) + 3 * self._share(place, share_S), place.length

    def _rate(self, token: int, place: Place, ahead: int, share_S: Array) -> float:
        """How probably this token is chosen, if those guessed before it were."""
        doubt = 1.3 * (1 - self._share(place, share_S))
        logit = 0.15 + math.log2(min(place.length + ahead, 8)) - _novelty(self._spelling(token)) - doubt + self._bias
        return 1 / (1 + math.exp(-logit))

    def _length(self, rates: Sequence[float]) -> int:
        """How many of the guessed tokens give the most written tokens for their cost."""
        weights = self.rows / (self.rows + self._beside())
        best, length, expected, all_right = 1 / self._cost(weights, 0), 0, 1.0, 1.0
        for count, rate in enumerate(rates, 1):
            all_right *= rate
            expected += all_right
            if expected / self._cost(weights, count) > best:
                best, length = expected / self._cost(weights, count), count
        return length

    def _cost(self, weights: float, ahead: int) -> float:
        return weights + self.row_cost * self.rows * (1 + ahead)


def _novelty(spelled: bytes) -> float:
    """How freely a token is chosen: least inside a word; letters of any script count."""
    if spelled[:1].isalnum() or spelled[:1] >= b"\x80":
        return INSIDE
    return BEGINS if spelled[:1] == b" " and (spelled[1:2].isalnum() or spelled[1:2] >= b"\x80") else OTHER
