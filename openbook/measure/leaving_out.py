"""An answer's probability when passages are really left out: the model reads every prompt again.

Two settings. In the mixture every passage has a prompt of its own, so the others are run and weighted anew. Together,
all passages stand in one prompt, as most systems put them and as ContextCite explains them.

Shapes: N choices, P passages; a mask is True where the passage stays. Logs are natural.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from openbook.lm.backends.runner import FEW
from openbook.lm.cache.prefixes import PrefixStore
from openbook.measure.ablation import Masks
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.prompt import Framing
from openbook.mix.reading import Reader
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, Branch, Branches
from openbook.mix.weights import Array

ROWS = 8
"""Prompts of many passages that are read at once."""


@dataclass
class Cost:
    """Prompts that the model read with an answer after them, and the tokens of both that were not kept."""

    passes: int = 0
    tokens: int = 0

    def add(self, rows: int, tokens: int) -> None:
        """So many prompts, of so many tokens in all."""
        self.passes += rows
        self.tokens += tokens


@dataclass
class Apart:
    """The mixture without some of its passages. `branches` are the passages' own, in the order of `weights`, which end
    with the closed book's; what stands before the question comes from the passage cache."""

    reader: Reader
    question: str
    branches: Sequence[Branch]
    weights: Weights
    cost: Cost = field(default_factory=Cost)

    def log_p(self, masks_NP: Masks, answer: Sequence[int]) -> Array:
        """The answer's under each choice of passages and the closed book."""
        return np.array([self._log_p(mask, answer) for mask in masks_NP.tolist()])

    def _log_p(self, mask: list[bool], answer: Sequence[int]) -> float:
        stays = [*(branch for branch, chosen in zip(self.branches, mask, strict=True) if chosen), CLOSED_BOOK]
        rows = self.reader.branches(self.question, stays, room=len(answer))
        suffix = Framing(self.reader.model.tokenizer, self.reader.settings.prompt).suffix(self.question)
        self.cost.add(len(stays), len(stays) * (1 + len(suffix.question) + len(suffix.tail) + len(answer)))
        prior_S = self.weights.log_prior_S[np.array([*mask, True])]
        return forced(Mixture([rows], replace(self.weights, log_prior_S=prior_S)), answer)


def forced(mixture: Mixture, answer: Sequence[int]) -> float:
    """log p of tokens that are given, by the mixture as it would write them; a few are read at once."""
    total = 0.0
    for t, token in enumerate(answer):
        total += float(np.logaddexp.reduce(mixture.log_w_S + mixture.log_p_of(token)))  # `distribution` is in fp32
        if t + 1 < len(answer):
            mixture.expect(answer[t + 1 : t + FEW - 1])  # as many as leave the numbers what they would be one by one
            mixture.advance(token)
    return total


class Together:
    """Passages one after another in one prompt. Nothing of it is kept: no other question joins them in this order."""

    def __init__(self, reader: Reader, question: str, passages: Sequence[str]) -> None:
        self.reader = replace(reader, kept=PrefixStore(0))
        self.question, self.passages = question, passages
        self.cost = Cost()

    def mixture(self) -> Mixture:
        """All passages, ready to write."""
        return Mixture([self._rows(np.ones((1, len(self.passages)), dtype=bool), None)], Weights(np.zeros(1)))

    def log_p(self, masks_NP: Masks, answer: Sequence[int]) -> Array:
        """The answer's behind each choice of passages."""
        parts = [masks_NP[at : at + ROWS] for at in range(0, len(masks_NP), ROWS)]
        return np.concatenate([self._log_p(part, answer) for part in parts])

    def _log_p(self, masks_NP: Masks, answer: Sequence[int]) -> Array:
        rows = self._rows(masks_NP, len(answer))
        self.cost.add(len(masks_NP), sum(len(text) + len(answer) for text in rows.texts))
        total_N: Array = rows.read_given(answer).sum(axis=1)
        return total_N

    def _rows(self, masks_NP: Masks, room: int | None) -> Branches:
        branches = [
            Branch(Label(f"p{i}", "passage"), "together", tuple(np.array(self.passages, dtype=object)[mask]))
            for i, mask in enumerate(masks_NP)
        ]
        return self.reader.branches(self.question, branches, room=room)
