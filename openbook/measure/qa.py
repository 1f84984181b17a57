"""Question answering: the same questions under every way of mixing, in one run.

All ways of answering one question run as rows of one batch, each row group fed its own tokens: every way gets what
it would get alone (rows do not see each other), for little more than the price of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from openbook.book.retrieve import Hit
from openbook.lm.cache.prefixes import PrefixStore
from openbook.measure import scores
from openbook.measure.machine import processor
from openbook.measure.squad import Question
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.paths import join
from openbook.mix.reading import Believed, Reader, passage_text
from openbook.mix.rerank import rerank
from openbook.mix.source import Label
from openbook.mix.sources.branches import Branch, Branches

SCORES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "contains": scores.contains,
    "f1": scores.f1,
    "exact": scores.exact,
}


@dataclass(frozen=True)
class Read:
    """A question read under every hit: what every way of answering starts from."""

    hits: tuple[Hit, ...]
    believed: Believed

    @property
    def best_dense(self) -> int:
        """The hit nearest in meaning alone."""
        return max(range(len(self.hits)), key=lambda i: self.hits[i].dense)


CONCATENATED, CHOSEN = "passages concatenated", "openbook (chosen τ)"
RANKINGS = ("dense", "fused", "refined")

Way = Callable[[Read], tuple[list[int], Weights]]
"""A way of answering: which rows (hits; −1 is the closed book), under which weights."""
WAYS: dict[str, Way] = {}


def way(name: str) -> Callable[[Way], Way]:
    """Register a way of answering for the table."""

    def register(function: Way) -> Way:
        WAYS[name] = function
        return function

    return register


def alone(row: int) -> tuple[list[int], Weights]:
    """One branch, nothing mixed."""
    return [row], Weights(np.zeros(1))


def mixed(read: Read, tau: float | None) -> tuple[list[int], Weights]:
    """The kept passages and the closed book as `ask` mixes them, at this persistence (None: the chosen one)."""
    return [*read.believed.kept, -1], read.believed.weights(tau)


way("closed book")(lambda read: alone(-1))
way("best dense passage")(lambda read: alone(read.best_dense))
way("best fused passage")(lambda read: alone(0))
way("best refined passage")(lambda read: alone(read.believed.kept[0]))
way("Token (τ = 0)")(lambda read: mixed(read, 0.0))
way("Sequence (τ = 1)")(lambda read: mixed(read, 1.0))
way(CHOSEN)(lambda read: mixed(read, None))

PATHS: dict[str, float | None] = {"paths, τ = 0": 0.0, "paths, τ = 1": 1.0, "paths (chosen τ)": None}
"""Where the settings join passages in paths: the kept paths and the closed book, at these persistences."""


@dataclass(frozen=True)
class Outcome:
    """One question: where the right document ranked, the lift, and each way's answer with its scores."""

    question: Question
    ranks: dict[str, int | None]
    lift_bits: float
    answers: dict[str, str]
    scored: dict[str, dict[str, float]]


def measure(reader: Reader, questions: Iterable[Question], ways: Sequence[str] | None = None) -> Iterator[Outcome]:
    """Ask every question in every way (all by default, and the concatenation)."""
    joined = [] if reader.settings.paths == "single" else [*PATHS]
    chosen = [*WAYS, CONCATENATED, *joined] if ways is None else list(ways)
    for question in questions:
        yield _measure(reader, question, chosen)


def _measure(reader: Reader, question: Question, ways: Sequence[str]) -> Outcome:
    hits = _reranked(reader, question.text)
    rows, believed = reader.read(question.text, hits)
    read = Read(tuple(hits), believed)
    answers = _race(reader, rows, {name: WAYS[name](read) for name in ways if name in WAYS}, len(hits))
    if CONCATENATED in ways:
        together = tuple(passage_text(h) for h in hits[: reader.settings.passages])
        # Kept nowhere: no other question will put these passages together in this order.
        one = replace(reader, kept=PrefixStore(0)).branches(
            question.text, [Branch(Label("p0", "passage"), "together", together)]
        )
        answers |= _race(reader, one, {CONCATENATED: alone(0)}, 1)
    answers |= _joined(reader, question.text, read, {name: PATHS[name] for name in ways if name in PATHS})
    if reader.kept is not None:
        reader.kept.flush()
    ranks = {
        "dense": _rank(sorted(hits, key=lambda h: -h.dense), question),
        "fused": _rank(hits, question),
        "refined": _rank([hits[i] for i in np.argsort(-believed.refined_S, kind="stable")], question),
    }
    scored = {
        name: {score: of(answer, question.golds) for score, of in SCORES.items()} for name, answer in answers.items()
    }
    return Outcome(question, ranks, believed.lift_bits, answers, scored)


def _reranked(reader: Reader, question: str) -> list[Hit]:
    """The hits to read the question under. The likelihood of the question is seen there: of the whole pool at once."""
    settings, hits = reader.settings, reader.find(question)
    if settings.rerank is None or settings.rerank.by == "likelihood":
        return hits
    return rerank(reader, question, hits, settings.retrieved)


def _joined(reader: Reader, question: str, read: Read, taus: dict[str, float | None]) -> dict[str, str]:
    """The same passages as every other mixed way keeps, joined in paths."""
    if not taus:
        return {}
    kept = [read.hits[i] for i in read.believed.kept]
    paths = join(reader.book, kept, reader.settings.paths, reader.settings.hops)
    rows, believed = reader.read_paths(question, paths)
    return _race(reader, rows, {name: mixed(Read((), believed), tau) for name, tau in taus.items()}, len(paths))


def _rank(hits: Sequence[Hit], question: Question) -> int | None:
    documents = list(dict.fromkeys(hit.passage.document for hit in hits))
    names = [document.rsplit("/", 1)[-1] for document in documents]
    return names.index(question.document) + 1 if question.document in names else None


class _Rows:
    """A `Source` whose rows are a slice of a batch that many mixtures share."""

    def __init__(self, count: int, scores_SV: Tensor) -> None:
        self.labels = tuple(Label(f"s{i}", "passage") for i in range(count))
        self.scores_SV = scores_SV

    def start(self) -> Tensor:
        return self.scores_SV

    def step(self, token: int) -> Tensor:
        return self.scores_SV


def _race(reader: Reader, rows: Branches, ways: dict[str, tuple[list[int], Weights]], closed: int) -> dict[str, str]:
    """Greedy answers of every way, run side by side; each way's rows are a group of one batch."""
    order = [closed if row < 0 else row for chosen, _ in ways.values() for row in chosen]
    rows.keep(order)
    scores_RV = rows.start()
    sizes = [len(chosen) for chosen, _ in ways.values()]
    groups = [_Rows(size, part) for size, part in zip(sizes, torch.split(scores_RV, sizes), strict=True)]
    mixtures = [Mixture([group], weights) for group, (_, weights) in zip(groups, ways.values(), strict=True)]
    written: list[list[int]] = [[] for _ in mixtures]
    ended = [False] * len(mixtures)
    for _ in range(reader.settings.max_tokens):
        tokens = [int(mixture.distribution().argmax()) for mixture in mixtures]
        for i, token in enumerate(tokens):
            ended[i] = ended[i] or token in reader.model.tokenizer.eos_ids
            if not ended[i]:
                written[i].append(token)
        if all(ended):
            break
        scores_RV = rows.step_each([t for t, size in zip(tokens, sizes, strict=True) for _ in range(size)])
        for group, mixture, token, part in zip(groups, mixtures, tokens, torch.split(scores_RV, sizes), strict=True):
            group.scores_SV = part
            mixture.advance(token)
    return {name: reader.model.tokenizer.decode(ids).strip() for name, ids in zip(ways, written, strict=True)}


class Table(TypedDict):
    """Means over the questions, in per cent; ratios of the chosen way's share of answers that contain a gold one."""

    questions: int
    book_passages: int
    machine: str
    settings: dict[str, object]
    recall: dict[str, dict[str, float]]
    answers: dict[str, dict[str, float]]
    ratios: dict[str, float]


def table(outcomes: Sequence[Outcome], reader: Reader) -> Table:
    """The outcomes as a table, with what is needed to make it again."""
    recall = {f"R@{k}": {kind: _share([_within(o, kind, k) for o in outcomes]) for kind in RANKINGS} for k in (1, 5)}
    answers = {
        name: {score: _share([o.scored[name][score] for o in outcomes]) for score in SCORES}
        for name in outcomes[0].scored
    }
    best = answers.get(CHOSEN, {}).get("contains")
    rivals = {name: by["contains"] for name, by in answers.items() if name != CHOSEN and by["contains"]}
    ratios = {name: best / value for name, value in rivals.items()} if best is not None else {}
    runner = reader.model.runner
    machine = f"{processor()}, {torch.get_num_threads()} threads, {reader.model.name}, {runner.dtype}"
    return Table(
        questions=len(outcomes),
        book_passages=reader.book.count,
        machine=machine.replace("torch.", ""),
        settings=reader.settings.summary(),
        recall=recall,
        answers=answers,
        ratios=ratios,
    )


def _within(outcome: Outcome, kind: str, k: int) -> float:
    rank = outcome.ranks[kind]
    return float(rank is not None and rank <= k)


def _share(values: Sequence[float]) -> float:
    return 100 * float(np.mean(values))
