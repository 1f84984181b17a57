"""Stored answers in a mixture: a pair as what the model reads before the question, or its answer as it stands.

Shapes: N matches, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openbook.book.faq.knowledge import Match
from openbook.lm.tokenizer import Tokenizer
from openbook.mix.source import Label
from openbook.mix.sources.branches import Branch
from openbook.mix.weights import Array

SURE = 0.98
"""What a stored answer gives its next token; the rest is spread over all others, so that it never rules one out."""


class StoredAnswer:
    """A `Source` of one row: the answer on file, token by token, and then its end.

    It gives the token that comes next in it `sure`, and each other one the same share of what is left. Once another
    token was chosen it knows nothing: every token is as likely. So in a mixture with persistence (τ > 0) it loses its
    weight where the answer leaves it, and at τ = 1 by exactly its likelihood, as any branch does.
    """

    def __init__(self, label: Label, tokens: Sequence[int], vocabulary: int, sure: float = SURE) -> None:
        """`tokens` are the answer's, the one that ends it last."""
        if not tokens or not all(0 <= token < vocabulary for token in tokens) or vocabulary < 2:
            raise ValueError(f"{len(tokens)} tokens are no answer in a vocabulary of {vocabulary}")
        if not 1 / vocabulary < sure < 1:
            raise ValueError(f"sure is {sure}; it must be above chance and below 1")
        self.labels = (label,)
        self._tokens, self._vocabulary, self._sure = tuple(tokens), vocabulary, sure
        self._at: int | None = 0

    @classmethod
    def of(cls, label: Label, tokenizer: Tokenizer, answer: str, vocabulary: int) -> StoredAnswer:
        """An answer's text, ended as the model ends its own."""
        return cls(label, [*tokenizer.encode(answer), min(tokenizer.eos_ids)], vocabulary)

    def start(self) -> Tensor:
        return self._scores()

    def step(self, token: int) -> Tensor:
        if self._at is not None:
            self._at = self._at + 1 if token == self._tokens[self._at] and self._at + 1 < len(self._tokens) else None
        return self._scores()

    def _scores(self) -> Tensor:
        if self._at is None:
            return torch.full((1, self._vocabulary), -math.log(self._vocabulary))
        scores_1V = torch.full((1, self._vocabulary), math.log((1 - self._sure) / (self._vocabulary - 1)))
        scores_1V[0, self._tokens[self._at]] = math.log(self._sure)
        return scores_1V


def pair_branches(matches: Sequence[Match]) -> list[Branch]:
    """A branch for each match: its question and answer before the question that is asked, its keys kept nowhere (a
    pair is part of a passage, whose keys are)."""
    return [
        Branch(Label(f"f{i}", "faq"), "", (f"{m.entry.pair.questions[0]}\n{m.entry.pair.answer}",))
        for i, m in enumerate(matches, 1)
    ]


def log_prior(matches: Sequence[Match], confidence: float, temperature: float = 1.0) -> Array:
    """Natural logs `[N + 1]` of what each match and, last, the closed book is believed: the calibrated confidence is
    shared out over the matches by softmax(score / temperature), the rest is the closed book's."""
    scores_N = np.array([match.score for match in matches]) / temperature
    shares_N = scores_N - scores_N.max() - np.log(np.exp(scores_N - scores_N.max()).sum())
    sure = min(max(confidence, 1e-6), 1 - 1e-6)
    told: Array = np.append(np.log(sure) + shares_N, np.log1p(-sure))
    return told
