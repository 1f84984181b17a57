"""Outcomes of `openbook.measure.evidence` as one table of plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import torch

from openbook.measure.evidence import Judged, Outcome
from openbook.measure.grounding import Bin, Calibration
from openbook.measure.leaving_out import Cost
from openbook.measure.machine import processor
from openbook.mix.reading import Reader

ADDED = 1.0
"""Bits from which on a token is one that the book added."""


class Row(TypedDict):
    """Means over the questions of a scoring's `Judged` (`pairs`: in per cent of all of them), one standard error of the
    first, and per question what the scores took beyond the answer itself."""

    spearman: float
    error: float
    kendall: float
    top: float
    pairs: float
    drops: list[float]
    passes: float
    tokens: float


class Table(TypedDict):
    """`mixture` and `one_prompt`: rows by the scores' names. `rerun`: how far necessity was from a run without the
    passage at most, in nats, and what such runs took, per question."""

    questions: int
    unanswered: int
    in_one_prompt: int
    passages: float
    answer_tokens: float
    book_passages: int
    machine: str
    settings: dict[str, object]
    mixture: dict[str, Row]
    rerun: dict[str, float]
    one_prompt: dict[str, Row]
    calibration: list[Bin]
    calibration_added: list[Bin]


def table(outcomes: Sequence[Outcome | None], reader: Reader) -> Table:
    """The outcomes, with what is needed to make them again. At least one question was answered."""
    made = [outcome for outcome in outcomes if outcome is not None]
    together = [outcome.one_prompt for outcome in made if outcome.one_prompt is not None]
    words = Calibration([pair for outcome in made for pair in outcome.words])
    runner = reader.model.runner
    machine = f"{processor()}, {torch.get_num_threads()} threads, {reader.model.name}, {runner.dtype}"
    return Table(
        questions=len(made),
        unanswered=len(outcomes) - len(made),
        in_one_prompt=len(together),
        passages=_mean([len(outcome.passages) for outcome in made]),
        answer_tokens=_mean([outcome.tokens for outcome in made]),
        book_passages=reader.book.count,
        machine=machine.replace("torch.", ""),
        settings=reader.settings.summary(),
        mixture=rows([outcome.judged for outcome in made], [{}] * len(made)),
        rerun={
            "largest_difference": max(outcome.difference for outcome in made),
            "passes": _mean([outcome.rerun.passes for outcome in made]),
            "tokens": _mean([outcome.rerun.tokens for outcome in made]),
        },
        one_prompt=rows([one.judged for one in together], [one.took for one in together]),
        calibration=words.bins(),
        calibration_added=words.bins(ADDED),
    )


def rows(judged: Sequence[Mapping[str, Judged]], took: Sequence[Mapping[str, Cost]]) -> dict[str, Row]:
    """By the scores' names, over the questions."""
    names = judged[0] if judged else ()
    return {name: _row([by[name] for by in judged], [by.get(name, Cost()) for by in took]) for name in names}


def _row(judged: Sequence[Judged], took: Sequence[Cost]) -> Row:
    spearmans = [one.spearman for one in judged]
    deepest = min(len(one.drops) for one in judged)
    return Row(
        spearman=_mean(spearmans),
        error=float(np.std(spearmans) / np.sqrt(len(spearmans))),
        kendall=_mean([one.kendall for one in judged]),
        top=100 * _mean([one.top for one in judged]),
        pairs=100 * sum(one.pairs[0] for one in judged) / max(1, sum(one.pairs[1] for one in judged)),
        drops=[_mean([one.drops[k] for one in judged]) for k in range(deepest)],
        passes=_mean([cost.passes for cost in took]),
        tokens=_mean([cost.tokens for cost in took]),
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
