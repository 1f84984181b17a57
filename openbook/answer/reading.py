"""The question read under every passage and under none: who is kept, how much each is believed, whether to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from openbook.answer.settings import Settings
from openbook.book.passages import in_place
from openbook.book.retrieve import Hit
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.model import LanguageModel
from openbook.mix.mixture import Mixture, Weights, log_prior
from openbook.mix.prompt import Framing
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, Branch, Branches
from openbook.mix.weights import Array, normalise, refine


@dataclass(frozen=True)
class Reading:
    """The kept passages best first, their share of the retrieval prior, and the mixture ready to write.

    `lift_bits` is how much likelier the best kept passage made the question than the model alone:
    log2 p(question | passage) − log2 p(question | closed book).
    """

    hits: tuple[Hit, ...]
    log_retrieved_S: Array
    mixture: Mixture
    lift_bits: float


def read(
    model: LanguageModel, question: str, hits: Sequence[Hit], settings: Settings, kept: PrefixStore | None = None
) -> Reading:
    """Read the question under each hit and the closed book in one batch; keep the best `settings.passages` hits."""
    branches = [Branch(Label(f"p{i}", "passage"), hit.passage.id, (passage_text(hit),)) for i, hit in enumerate(hits)]
    source = Branches(
        model,
        Framing(model.tokenizer, settings.prompt),
        [*branches, CLOSED_BOOK],
        question,
        room=settings.max_tokens,
        store=kept,
    )
    asked_S, asked_closed = source.question_log_p_S[:-1], source.question_log_p_S[-1]
    retrieved_S = np.log([hit.prior for hit in hits])
    refined_S = refine(retrieved_S, asked_S, settings.beta)
    best = np.argsort(-refined_S, kind="stable")[: settings.passages].tolist()
    labels = [Label(f"p{rank}", "passage") for rank in range(1, len(best) + 1)]
    source.keep([*best, len(hits)], labels=[*labels, CLOSED_BOOK.label])
    weights = Weights(log_prior(refined_S[best], settings.closed_share), settings.persistence, settings.cap)
    lift_bits = float((asked_S[best].max() - asked_closed) / np.log(2))
    log_retrieved_S = log_prior(normalise(retrieved_S[best]), settings.closed_share)
    return Reading(tuple(hits[i] for i in best), log_retrieved_S, Mixture([source], weights), lift_bits)


def passage_text(hit: Hit) -> str:
    """A passage as it is put before the question: its document's title and section, then its text."""
    return in_place(hit.passage.title, hit.passage.heading, hit.passage.text)
