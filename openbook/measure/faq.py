"""Stored answers, measured: how often a question finds its own, and what abstaining leaves out.

Questions of a knowledge base come as threads (StackFAQ: JSON lines with `question`, `answers` and `paraphrases`, which
are the queries) or as intents (banking77: CSV of `text` and `category`, some of each stored, others asked).

* MAP: the mean over queries of the average precision of the pairs, of which those of the query's thread are right.
* MRR and hit@1: of threads. Equal scores share their mean rank: nobody's order decides them.
* AUROC: of telling queries from foreign ones, by the best score, or by the confidence where there is one.
* Coverage and precision: of what is answered at the threshold that the knowledge base set itself.

Shapes: Q queries, N entries, G threads.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.book.embedder import Embedder
from openbook.book.faq.entries import Entry, fold
from openbook.book.faq.fit import PRECISION, PRIOR, best_and_lead, same_in, threads
from openbook.book.faq.index import FEATURES, Asked
from openbook.book.faq.knowledge import Knowledge, knowledge_of
from openbook.book.faq.pairs import Draft, key, sort_out, stored, written
from openbook.errors import Fault
from openbook.measure.machine import processor
from openbook.measure.ranks import ranks

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Task:
    """A knowledge base, queries with what they should find (`key` of a question or an answer), and foreign ones."""

    entries: tuple[Entry, ...]
    queries: tuple[str, ...]
    golds: tuple[str, ...]
    by_answer: bool = False
    foreign: tuple[str, ...] = field(default=())


def of_threads(path: Path) -> Task:
    """A file of threads: pairs of each question with each of its answers; its paraphrases are the queries."""
    drafts, queries, golds = [], [], []
    for number, row in enumerate(_rows(path), 1):
        try:
            question, answers, paraphrases = row["question"], list(row["answers"]), list(row["paraphrases"])
        except (KeyError, TypeError) as error:
            raise Fault(f"{path}, line {number}: a thread needs question, answers and paraphrases") from error
        drafts += [Draft((question,), str(answer), number) for answer in answers]
        queries += [str(paraphrase) for paraphrase in paraphrases]
        golds += [key(question)] * len(paraphrases)
    return _task(drafts, queries, golds, by_answer=False)


def of_intents(stored_path: Path, asked_path: Path, shots: int, seed: int) -> Task:
    """Two CSV files of `text` and `category`: `shots` drawn examples of each category are stored, all others asked."""
    rows, asked = list(_rows(stored_path)), list(_rows(asked_path))
    if not all("text" in row and "category" in row for row in (*rows[:1], *asked[:1])):
        raise Fault(f"{stored_path} and {asked_path} need the columns text and category")
    chance, drafts = np.random.default_rng(seed), []
    for name in sorted({row["category"] for row in rows}):
        texts = [row["text"] for row in rows if row["category"] == name]
        drawn = sorted(chance.permutation(len(texts))[:shots].tolist())
        drafts.append(Draft(tuple(texts[i] for i in drawn), name.replace("_", " "), 1))
    golds = [key(row["category"].replace("_", " ")) for row in asked]
    return _task(drafts, [row["text"] for row in asked], golds, by_answer=True)


def foreign(path: Path) -> tuple[str, ...]:
    """Questions of a file, in whatever column they are: the last of `question_2`, `paraphrases`, `question`, `text`."""
    found: list[str] = []
    for row in _rows(path):
        value: Any = next(
            (row[name] for name in ("question_2", "paraphrases", "question", "text") if row.get(name)), []
        )
        found += [value] if isinstance(value, str) else [str(one) for one in value]
    if not found:
        raise Fault(f"{path} holds no questions: question, question_2, paraphrases or text is looked for")
    return tuple(found)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                return [{k: v for k, v in row.items() if k} for row in csv.DictReader(file)]
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise Fault(f"{path} cannot be read as CSV or lines of JSON ({error})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise Fault(f"{path} holds lines that are no JSON objects")
    return rows


def _task(drafts: Sequence[Draft], queries: list[str], golds: list[str], by_answer: bool) -> Task:
    """Through the very form in which a book holds pairs."""
    pairs = list(stored("eval", "eval", written(sort_out(drafts).pairs).text))
    asked = [(q, g) for q, g in zip(queries, golds, strict=True) if q.strip()]
    if not pairs or not asked:
        raise Fault("there is nothing to measure: no pairs, or no queries")
    return Task(tuple(fold(pairs)), tuple(q for q, _ in asked), tuple(g for _, g in asked), by_answer)


def measure(
    task: Task, encoder: Embedder, precision: float = PRECISION, progress: Progress | None = None
) -> dict[str, Any]:
    """Every way of scoring on the task, as JSON."""
    knowledge = knowledge_of(task.entries, encoder, progress, precision)
    named = [key(e.pair.answer if task.by_answer else e.questions[0]) for e in task.entries]
    names = list(dict.fromkeys(named))
    group_N = np.array([names.index(name) for name in named])
    unknown = [gold for gold in task.golds if gold not in names]
    if unknown:
        raise Fault(f"{len(unknown)} queries are of questions that are not stored, such as {unknown[0][:60]!r}")
    gold_Q = np.array([names.index(gold) for gold in task.golds])
    inside, outside = (_features(knowledge, texts, progress) for texts in (task.queries, task.foreign))
    ways: dict[str, Any] = {}
    for name, weights_K in _ways(knowledge).items():
        scores_QN = inside @ weights_K
        row = _ranking(scores_QN, group_N, gold_Q)
        if task.foreign:
            row["auroc"] = auroc(scores_QN.max(1), (outside @ weights_K).max(1))
        ways[name] = row
    told = _abstaining(knowledge, inside, outside, group_N, gold_Q)
    counts = {"pairs": len(task.entries), "threads": len(names), "queries": len(gold_Q), "foreign": len(task.foreign)}
    weights = dict(zip(FEATURES, knowledge.fitted.weights_K.round(2).tolist(), strict=True))
    calibration = knowledge.fitted.calibration.to_dict()
    facts = {**counts, "machine": processor(), "weights": weights, "calibration": calibration}
    return {**facts, "ways": ways, "abstaining": told}


def _ways(knowledge: Knowledge) -> dict[str, Array]:
    """Each feature by itself, then all of them, as most suit and as this knowledge base says."""
    one = np.eye(len(FEATURES))
    alone = {
        "BM25, question": one[0], "BM25, question and answer": one[1], "parts of words": one[2],
        "cosine, question": one[3], "cosine, answer": one[4], "cosine, question and answer": one[5],
    }  # fmt: skip
    return {**alone, "fused, prior weights": PRIOR, "fused, fitted": knowledge.fitted.weights_K}


def _features(knowledge: Knowledge, texts: Sequence[str], progress: Progress | None) -> Array:
    features_QNK = np.zeros((len(texts), len(knowledge.index), len(FEATURES)), np.float32)
    for at in range(0, len(texts), 64):
        if progress is not None:
            progress(at, len(texts), "queries")
        some = list(texts[at : at + 64])
        for row, (text, vector_M) in enumerate(zip(some, knowledge.encoder.embed(some), strict=True), at):
            found = knowledge.index.find(Asked.of(text, vector_M), PRIOR, len(knowledge.index))
            features_QNK[row] = found.features_CK
    if texts and progress is not None:
        progress(len(texts), len(texts), "queries")
    return features_QNK  # type: ignore[return-value]


def _best_of(scores_QN: Array, group_N: npt.NDArray[np.int64]) -> Array:
    """Each thread's best `[Q, G]`."""
    best_QG = np.full((len(scores_QN), int(group_N.max()) + 1), -np.inf)
    for entry, group in enumerate(group_N.tolist()):
        best_QG[:, group] = np.maximum(best_QG[:, group], scores_QN[:, entry])
    return best_QG


def _ranking(scores_QN: Array, group_N: npt.NDArray[np.int64], gold_Q: npt.NDArray[np.int64]) -> dict[str, float]:
    best_QG = _best_of(scores_QN, group_N)
    own_Q1 = best_QG[np.arange(len(gold_Q)), gold_Q][:, None]
    rank_Q = (best_QG > own_Q1).sum(1) + ((best_QG == own_Q1).sum(1) + 1) / 2
    precision = []
    for scores_N, best_G, gold in zip(scores_QN, best_QG, gold_Q.tolist(), strict=True):
        # Answers to one question are listed together, where its best stands: as `Knowledge.find` lists them.
        order = np.lexsort((-scores_N, group_N, -best_G[group_N]))
        right = np.flatnonzero(group_N[order] == gold)
        precision.append(float((np.arange(1, len(right) + 1) / (right + 1)).mean()))
    return {"map": float(np.mean(precision)), "mrr": float((1 / rank_Q).mean()), "hit1": float((rank_Q == 1).mean())}


def auroc(inside: Array, outside: Array) -> float:
    """The chance that one of the first is above one of the second; equal ones count half."""
    ranked = ranks(np.concatenate([inside, outside]).astype(np.float64))[: len(inside)]
    return float((ranked.sum() - len(inside) * (len(inside) + 1) / 2) / (len(inside) * len(outside)))


def _abstaining(
    knowledge: Knowledge, inside: Array, outside: Array, group_N: npt.NDArray[np.int64], gold_Q: npt.NDArray[np.int64]
) -> dict[str, float]:
    """What the knowledge base's own threshold does, and what the best one for these queries would. An answer is right
    where it is the thread's; it is `shown` too where the thread's stands beside it, as that of another source."""
    calibration = knowledge.fitted.calibration
    every_N, same = np.arange(len(knowledge.entries)), same_in(knowledge.index, np.arange(len(knowledge.entries)))
    asked_N = threads(knowledge.entries)
    sure, best = [], []
    for features in (inside, outside):
        scores_QN = features @ knowledge.fitted.weights_K
        found = [calibration.confidence(*best_and_lead(row, asked_N, same)) for row in scores_QN]
        sure.append(np.array(found, np.float64))
        best.append(scores_QN.argmax(1) if len(scores_QN) else np.zeros(0, np.int64))
    correct_Q = group_N[best[0]] == gold_Q
    shown_Q = np.array(
        [right or gold in group_N[every_N[same(at, every_N)]]
         for at, gold, right in zip(best[0].tolist(), gold_Q.tolist(), correct_Q.tolist(), strict=True)], bool
    )  # fmt: skip
    answered_Q, foreign_Q = (one >= calibration.threshold for one in sure)
    every = np.concatenate(sure)
    order = np.argsort(-every, kind="stable")
    held = np.cumsum(np.append(correct_Q, np.zeros(len(foreign_Q), bool))[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(held >= calibration.wanted)
    most = order[: enough[-1] + 1] if len(enough) else order[:0]
    told = {
        "threshold": calibration.threshold,
        "coverage": float(answered_Q.mean()),
        "precision": _share(correct_Q[answered_Q].sum(), answered_Q.sum()),
        "precision_shown": _share(shown_Q[answered_Q].sum(), answered_Q.sum()),
        "best_coverage": float((most < len(gold_Q)).sum() / len(gold_Q)),
    }
    if len(foreign_Q):
        told["precision_with_foreign"] = _share(correct_Q[answered_Q].sum(), answered_Q.sum() + foreign_Q.sum())
        told["foreign_answered"] = float(foreign_Q.mean())
        told["auroc"] = auroc(*sure)
    return told


def _share(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else 0.0
