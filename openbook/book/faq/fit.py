"""Weights and a threshold for one knowledge base, from nothing but itself.

**Pseudo-questions.** One of several questions of an entry, taken out of it for the time being, should find it: a
*wording*. Where there are few, so should half the words of its only question, and a sentence of its answer, taken out
likewise. For each the entry it was made of is right, all others are wrong.

**Weights.** w ≥ 0 maximises the mean log of softmax(F w) at the right entry, less p · |w − w₀|²: a knowledge base that
says little about the weights keeps those that suit most; one in a language that the encoder cannot read turns to words.
p is `PULL`, and `PULL_WORDINGS` where there are `ENOUGH` wordings to fit to those alone.

**Threshold.** Each pseudo-question that is most like a question (a wording, else half of one, a sentence only where
there is nothing else) is asked twice: as it is, and with its entry left out, as if it were out of scope.
The confidence is logistic in the best score and its lead over the next question; the threshold is the lowest at which
the asked precision holds on pseudo-questions, `OUTSIDE` of them out of scope.

Shapes: Q pseudo-questions, C candidates, K features.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.book.embedder import Embedder
from openbook.book.faq.entries import Entry
from openbook.book.faq.index import FEATURES, Asked, Found, Index
from openbook.book.faq.pairs import key

Weights = npt.NDArray[np.float64]
Seen = tuple[Found, npt.NDArray[np.bool_]]
"""What a pseudo-question finds, and which of it is right."""
PRIOR = np.array([3.0, 3.0, 3.0, 10.0, 5.0, 10.0])
"""w₀, of `FEATURES`."""
PULL, PULL_WORDINGS = 0.01, 0.001
SAMPLE, KEPT = 800, 64
"""Pseudo-questions, and candidates of each that its entry is told from."""
ENOUGH = 50
OUTSIDE = 0.2
"""Share of questions without an answer on file that the threshold reckons with."""
RIVALS = 16
"""Of the best answers to other questions, those that may ask the same in other words."""
LEAST_WORDS = 4
"""Of a sentence that is to be a question."""
PRECISION = 0.95


@dataclass(frozen=True)
class Calibration:
    """confidence = σ(bias + score · s + lead · l), s the best score and l its lead over the next question.

    Answered from `threshold` on: so many pseudo-questions in scope are (`coverage`), so many of the answers to all
    pseudo-questions, `OUTSIDE` of them out of scope, are right (`precision`); `asked` were in scope.
    """

    bias: float
    score: float
    lead: float
    threshold: float
    precision: float
    coverage: float
    asked: int
    wanted: float = PRECISION

    def confidence(self, score: float, lead: float) -> float:
        """From 0 to 1: how likely the best entry is right, as far as pseudo-questions tell."""
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, self.bias + self.score * score + self.lead * lead))))

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


UNTOLD = Calibration(-6.0, 0.4, 0.2, 0.5, 0.0, 0.0, 0)
"""Of a knowledge base too small to tell: about a cosine of 0.6 and some common words."""


@dataclass(frozen=True)
class Fitted:
    """What a knowledge base says of itself."""

    weights_K: Weights
    calibration: Calibration


@dataclass(frozen=True)
class Pseudo:
    """A pseudo-question: its text, the entry it is of, and what of that entry it is."""

    text: str
    entry: int
    question: int | None = None
    sentence: int | None = None


def fit(
    index: Index, entries: Sequence[Entry], encoder: Embedder, precision: float = PRECISION, seed: int = 0
) -> Fitted:
    """Fit weights, then the confidence, to pseudo-questions of the entries, drawn with a seed."""
    made = pseudo_questions(entries, np.random.default_rng(seed))
    if len(entries) < 2 or not made:
        return Fitted(PRIOR, UNTOLD)
    vectors = _vectors(index, made, encoder)
    asked_N = threads(entries)
    seen = [_seen(index, entries, asked_N, one, v_M) for one, v_M in zip(made, vectors, strict=True)]
    wordings = [told for told, one in zip(seen, made, strict=True) if one.question is not None]
    asked = [told for told, one in zip(seen, made, strict=True) if one.sentence is None]
    many = len(wordings) >= ENOUGH
    weights_K = _weights(wordings if many else seen, PULL_WORDINGS if many else PULL)
    likest = wordings if many else asked if len(asked) >= ENOUGH // 2 else seen
    return Fitted(weights_K, _calibrated(likest, index, asked_N, weights_K, precision))


def threads(entries: Sequence[Entry]) -> npt.NDArray[np.int64]:
    """A number `[N]` for the first question of each entry: answers to the same one share it."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key(entry.questions[0]), len(numbers)) for entry in entries], np.int64)


def best_and_lead(
    scores_C: Weights, threads_C: npt.NDArray[np.int64], same: Callable[[int, Any], Any] | None = None
) -> tuple[float, float]:
    """The best score and its lead over the best answer to another question; without one it leads by its whole score.

    `same(best, candidates)` says which candidates (places) ask the same as the best in other words: a bool for each.
    """
    best = int(scores_C.argmax())
    others = np.flatnonzero(threads_C != threads_C[best])
    if same is not None and len(others):
        rivals = others[np.argsort(-scores_C[others], kind="stable")[:RIVALS]]
        others = np.setdiff1d(others, rivals[same(best, rivals)])
    lead = scores_C[best] - (scores_C[others].max() if len(others) else 0.0)
    return float(scores_C[best]), float(lead)


def pseudo_questions(entries: Sequence[Entry], chance: np.random.Generator) -> list[Pseudo]:
    """At most `SAMPLE` pseudo-questions: of each kind the same share, if there are as many."""
    drawn = np.sort(chance.permutation(len(entries))[:SAMPLE]).tolist()
    kinds: tuple[list[Pseudo], ...] = ([], [], [])
    for at in drawn:
        entry = entries[at]
        if len(entry.questions) > 1:
            kinds[0].extend(Pseudo(question, at, question=i) for i, question in enumerate(entry.questions))
        elif _units(entry.questions[0]) >= LEAST_WORDS:
            kinds[1].append(Pseudo(_half(entry.questions[0], chance), at))
        said = [i for i, text in enumerate(entry.sentences) if _units(text) >= LEAST_WORDS]
        if len(entry.sentences) > 1 and said:
            chosen = said[int(chance.integers(len(said)))]
            kinds[2].append(Pseudo(entry.sentences[chosen], at, sentence=chosen))
    if len(kinds[0]) >= ENOUGH:
        kinds = (kinds[0], [], [])
    share = SAMPLE // max(1, sum(map(bool, kinds)))
    return [kind[i] for kind in kinds for i in np.sort(chance.permutation(len(kind))[:share]).tolist()]


def _vectors(index: Index, made: Sequence[Pseudo], encoder: Embedder) -> list[Any]:
    """Their vectors: what is an entry's own is there already."""
    halves = [one.text for one in made if one.question is None and one.sentence is None]
    fresh = iter(np.asarray(encoder.embed(halves), np.float32) if halves else ())
    found = []
    for one in made:
        if one.question is not None:
            found.append(index.questions_VM[index.questions_N1[one.entry] + one.question])
        elif one.sentence is not None:
            found.append(index.sentences_SM[index.sentences_N1[one.entry] + one.sentence])
        else:
            found.append(next(fresh))
    return found


_UNIT = re.compile(r"[\u2e80-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]{1,2}|\S[^\s\u2e80-\ud7af]*")


def _units(text: str) -> int:
    return len(_UNIT.findall(text))


def _half(question: str, chance: np.random.Generator) -> str:
    """Half of a question's words, in order: as much as another wording of it might share."""
    found = list(_UNIT.finditer(question))
    kept = sorted(chance.permutation(len(found))[: max(2, len(found) // 2)].tolist())
    return "".join(found[i][0] if found[i][0] > "\u2e80" else f" {found[i][0]}" for i in kept).strip()


def _seen(index: Index, entries: Sequence[Entry], asked_N: npt.NDArray[np.int64], one: Pseudo, vector_M: Any) -> Seen:
    """What a pseudo-question finds, its own entry (as `without`) among it, and which of it is right."""
    asked = Asked.of(one.text, vector_M)
    found = index.find(asked, PRIOR)
    best = np.argsort(-found.scores(PRIOR), kind="stable")[:KEPT]
    others = [i for i in best.tolist() if found.entries_C[i] != one.entry]
    own_K = index.without(asked, entries[one.entry], one.entry, one.question, one.sentence)
    numbers = np.append(found.entries_C[others], one.entry)
    told = Found(
        numbers,
        np.concatenate([found.features_CK[others], own_K[None]]),
        np.append(found.held_C[others], np.float32(0)),
    )
    # Other answers to the very question are no mistakes, nor is the same from another source.
    return told, (asked_N[numbers] == asked_N[one.entry]) | index.doubles(one.entry, numbers)


def _weights(seen: Sequence[Seen], pull: float) -> Weights:
    from scipy.optimize import minimize

    longest = max(len(one.entries_C) for one, _ in seen)
    features_QCK = np.zeros((len(seen), longest, len(FEATURES)))
    there_QC, right_QC = (np.zeros((len(seen), longest), bool) for _ in range(2))
    for row, (one, of_it) in enumerate(seen):
        count = len(one.entries_C)
        features_QCK[row, :count], there_QC[row, :count], right_QC[row, :count] = one.features_CK, True, of_it

    def loss(w_K: Weights) -> tuple[float, Weights]:
        scores_QC = np.where(there_QC, features_QCK @ w_K, -np.inf)
        scores_QC = np.exp(scores_QC - scores_QC.max(1, keepdims=True))
        all_Q, right_Q = scores_QC.sum(1), (scores_QC * right_QC).sum(1) + 1e-30
        pushed_QC = scores_QC / all_Q[:, None] - scores_QC * right_QC / right_Q[:, None]
        slope_K = np.einsum("qc,qck->k", pushed_QC, features_QCK) / len(seen)
        away_K = w_K - PRIOR
        return float(np.log(all_Q / right_Q).mean() + pull * away_K @ away_K), slope_K + 2 * pull * away_K

    found = minimize(loss, PRIOR, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(PRIOR))
    weights_K: Weights = np.asarray(found.x, np.float64)
    return weights_K


def same_in(index: Index, entries_C: npt.NDArray[np.int64]) -> Callable[[int, Any], Any]:
    """`best_and_lead`'s `same` for candidates that are these entries."""
    return lambda best, some: index.doubles(int(entries_C[best]), entries_C[some])


def _calibrated(
    seen: Sequence[Seen], index: Index, asked_N: npt.NDArray[np.int64], weights_K: Weights, precision: float
) -> Calibration:
    rows, truth, inside = [], [], []
    for found, right_C in seen:
        scores_C, asked_C = found.scores(weights_K), asked_N[found.entries_C]
        rows.append(best_and_lead(scores_C, asked_C, same_in(index, found.entries_C)))
        truth.append(bool(right_C[scores_C.argmax()]))
        inside.append(True)
        if not right_C.all():
            rest = found.entries_C[~right_C]
            rows.append(best_and_lead(scores_C[~right_C], asked_C[~right_C], same_in(index, rest)))
            truth.append(False)
            inside.append(False)
    X, right_R, inside_R = np.array(rows), np.array(truth), np.array(inside)
    weights_R = np.where(inside_R, 1 - OUTSIDE, OUTSIDE)
    made = Calibration(*_logistic(X, right_R, weights_R), 0.5, 0.0, 0.0, int(inside_R.sum()), precision)
    sure_R = np.array([made.confidence(*row) for row in rows])
    return _threshold(made, sure_R, right_R, inside_R, weights_R)


def _logistic(X: Weights, right_R: Any, weights_R: Weights) -> tuple[float, float, float]:
    """Bias and two slopes ≥ 0 by likelihood, held a little towards 0: what can be parted would be parted for ever."""
    from scipy.optimize import minimize

    middle, spread = X.mean(0), X.std(0) + 1e-9
    Z = (X - middle) / spread

    def loss(w: Weights) -> float:
        z = w[0] + Z @ w[1:]
        lost_R = np.logaddexp(0, np.where(right_R, -z, z))
        return float(lost_R @ weights_R / weights_R.sum() + 1e-3 * (w[1:] ** 2).sum())

    found = minimize(loss, np.array([0.0, 1.0, 1.0]), method="L-BFGS-B", bounds=[(-20, 20), (0, None), (0, None)])
    slopes = found.x[1:] / spread
    return float(found.x[0] - slopes @ middle), float(slopes[0]), float(slopes[1])


def _threshold(made: Calibration, sure_R: Weights, right_R: Any, inside_R: Any, weights_R: Weights) -> Calibration:
    """The lowest confidence from which on the precision holds; where none does, the highest there is."""
    order = np.argsort(-sure_R, kind="stable")
    held_R = np.cumsum((right_R * weights_R)[order]) / np.cumsum(weights_R[order])
    last_R = np.append(np.diff(sure_R[order]) != 0, True)  # equal confidences are answered together
    enough = np.flatnonzero((held_R >= made.wanted) & last_R)
    at = int(enough[-1] if len(enough) else np.flatnonzero(last_R)[0])
    covered = float(inside_R[order[: at + 1]].sum() / max(1, inside_R.sum()))
    return replace(made, threshold=float(sure_R[order[at]]), precision=float(held_R[at]), coverage=covered)
