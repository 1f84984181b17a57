"""Stored answers in a mixture: a pair as what the model reads before the question, or its answer as it stands.

Shapes: N matches, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openbook.book.documents import MAX_NAME
from openbook.book.faq.knowledge import Match
from openbook.book.passages import Passage, Piece, passage_id
from openbook.book.retrieve import Hit
from openbook.lm.tokenizer import Tokenizer
from openbook.mix.reading import Reader, Reading
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


def pair_hits(matches: Sequence[Match]) -> list[Hit]:
    """Matches as hits: each pair's answer as a passage under its question, at its place in its document; the prior is
    softmax(score). What is kept of them goes with the pairs, as they have no passages' ids."""
    scores_N = np.array([match.score for match in matches])
    priors_N = np.exp(scores_N - scores_N.max()) / np.exp(scores_N - scores_N.max()).sum()
    return [
        Hit(_passage(m), m.score, m.features["meaning"], m.features["words"], float(prior))
        for m, prior in zip(matches, priors_N, strict=True)
    ]


def _passage(match: Match) -> Passage:
    pair = match.entry.pair
    place = Piece(pair.answer, pair.answer_start, pair.answer_end, pair.line, None, pair.questions[0][:MAX_NAME])
    facts = {name: getattr(place, name) for name in ("heading", "text", "start", "end", "page", "line")}
    return Passage(passage_id(pair.document, place), pair.document, pair.title, **facts)


@dataclass
class PairReader(Reader):
    """A `Reader` of a book's pairs instead of its passages: its branches are pairs, and are of the kind `faq`."""

    matches: Sequence[Match] = ()

    def find(self, question: str) -> list[Hit]:
        """The matches, whatever is asked: they were found already."""
        return pair_hits(self.matches[: self.settings.pool])

    def begin(self, question: str, hits: Sequence[Hit]) -> Reading:
        """As any reader, with what the pairs are called."""
        reading = super().begin(question, hits)
        mixture = reading.mixture
        mixture.labels = tuple(
            Label(f"f{label.id[1:]}", "faq") if label.kind == "passage" else label for label in mixture.labels
        )
        return reading


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
