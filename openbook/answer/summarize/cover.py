"""Which texts to read when all cannot be: those that together stand for most of what has to do with the question.

Facility location under a budget of tokens (Lin and Bilmes 2011, "A class of submodular functions for document
summarization"): of texts p that weigh ρ_p, those A are read that make

    F(A) = Σ_p ρ_p max_{a ∈ A} max(0, cos(p, a))

large. F is monotone and submodular. Greedily the text is taken that adds most a token; the result, or the best single
text if that is better, has at least (1 − 1/e)/2 of the best F that the budget allows.

Shapes: P texts, C candidates, M width of a vector.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

SHARP = 0.1
"""Temperature of ρ: a text whose cosine with the question is so much lower weighs 1/e."""
FEW = 10
"""Texts that what is common to them is believed from, half."""
CANDIDATES = 1024
"""Texts that may be read: those that weigh most."""


def middle(vectors_PM: Vectors) -> Vectors:
    """What all texts have in common: their mean, drawn to 0 where they are few."""
    mean_M: Vectors = vectors_PM.sum(axis=0) / np.float32(len(vectors_PM) + FEW)
    return mean_M


def apart(vectors_NM: Vectors, middle_M: Vectors) -> Vectors:
    """Unit vectors of what each text has that not all have (Mu and Viswanath 2018, "All-but-the-top"): of a question
    about interviews, asked of interviews, what it wants to know of them."""
    less_NM = vectors_NM - middle_M
    less_NM /= np.maximum(np.linalg.norm(less_NM, axis=1, keepdims=True), np.float32(1e-6))
    return less_NM


def weights(cosines_P: Array, wide: float | None = None) -> Array:
    """ρ: how much each text has to do with the question, from its cosine; they sum to 1.

    softmax(cosine / T) with T = `SHARP`, or smaller, so that no more than `wide` texts count: e to the entropy of ρ.
    At one temperature the few texts of a long book that have to do with a question weigh less, together, than
    the thousands that have not.
    """
    if not len(cosines_P):
        return np.zeros(0)
    shares_P = _softmax(cosines_P, SHARP)
    if wide is None or _counting(shares_P) <= wide:
        return shares_P
    low, high = 0.0, SHARP
    for _ in range(20):
        middle_T = (low + high) / 2
        low, high = (low, middle_T) if _counting(_softmax(cosines_P, middle_T)) > wide else (middle_T, high)
    return _softmax(cosines_P, max(low, SHARP / 1000))


def _softmax(cosines_P: Array, temperature: float) -> Array:
    raised = np.exp((cosines_P - cosines_P.max()) / temperature)
    shares: Array = raised / raised.sum()
    return shares


def _counting(shares_P: Array) -> float:
    """The number of texts that count: e to the entropy."""
    return float(np.exp(-(shares_P * np.log(np.maximum(shares_P, 1e-300))).sum()))


def cover(vectors_PM: Vectors, weights_P: Array, tokens_P: npt.NDArray[np.int64], budget: int) -> list[int]:
    """The texts to read, in the order they were taken; together they cost at most `budget` tokens.

    `vectors_PM` are unit vectors. Ties fall to the earlier text.
    """
    able = np.flatnonzero((tokens_P <= budget) & (tokens_P > 0))
    heaviest = np.argsort(-weights_P[able], kind="stable")[:CANDIDATES]
    able_C = np.sort(able[heaviest])
    if not len(able_C):
        return []
    like_PC = np.maximum(vectors_PM @ vectors_PM[able_C].T, 0.0)
    cost_C, best_P = tokens_P[able_C].astype(float), np.zeros(len(vectors_PM), dtype=np.float32)
    chosen, left, free_C = list[int](), float(budget), np.ones(len(able_C), dtype=bool)
    alone_C = weights_P @ like_PC
    while (free_C := free_C & (cost_C <= left)).any():
        gain_C = weights_P @ np.maximum(like_PC - best_P[:, None], 0.0)
        c = int(np.where(free_C, gain_C / cost_C, -1.0).argmax())
        if gain_C[c] <= 0:
            break
        chosen.append(c)
        free_C[c] = False
        left -= cost_C[c]
        best_P = np.maximum(best_P, like_PC[:, c])
    single = int(alone_C.argmax())
    if alone_C[single] > float(weights_P @ best_P) + 1e-9:
        chosen = [single]
    return [int(able_C[c]) for c in chosen]


def stands_for(vectors_PM: Vectors, weights_P: Array, points_NM: Vectors) -> Array:
    """The share of the weight of all texts that each point stands for; they sum to 1.

    A text is divided among the points by softmax(cosine / SHARP): many are near to several.
    """
    if not len(points_NM):
        return np.zeros(0)
    near_PN = (vectors_PM @ points_NM.T).astype(float) / SHARP
    near_PN = np.exp(near_PN - near_PN.max(axis=1, keepdims=True))
    total_N: Array = weights_P @ (near_PN / near_PN.sum(axis=1, keepdims=True))
    share_N: Array = total_N / max(float(total_N.sum()), 1e-300)
    return share_N
