"""How two scorings of the same things agree. Ties count as ties: nobody's order decides them."""

from __future__ import annotations

import numpy as np

from openbook.mix.weights import Array


def ranks(scores_P: Array) -> Array:
    """1 for the lowest; equal scores share the mean of their ranks."""
    below_P = (scores_P[:, None] > scores_P).sum(1)
    equal_P = (scores_P[:, None] == scores_P).sum(1)
    shared: Array = below_P + (equal_P + 1) / 2
    return shared


def spearman(one_P: Array, other_P: Array) -> float:
    """Correlation of the ranks; 0 where either orders nothing."""
    a_P, b_P = (r - r.mean() for r in (ranks(one_P), ranks(other_P)))
    size = float(np.sqrt((a_P @ a_P) * (b_P @ b_P)))
    return float(a_P @ b_P) / size if size else 0.0


def kendall(one_P: Array, other_P: Array) -> float:
    """Kendall's τ-b: pairs in the same order less pairs in the other, of those that both order; 0 where one cannot."""
    a_PP, b_PP = (np.sign(s[:, None] - s) for s in (one_P, other_P))
    size = float(np.sqrt((a_PP**2).sum() * (b_PP**2).sum()))
    return float((a_PP * b_PP).sum()) / size if size else 0.0


def pairs_in_order(guessed_P: Array, true_P: Array, least: float) -> tuple[float, int]:
    """Of the pairs that truly differ by at least that much, how many are guessed in their order (a tie is half of one),
    and how many such pairs there are."""
    apart_PP = true_P[:, None] - true_P >= least
    higher_PP = np.sign(guessed_P[:, None] - guessed_P)[apart_PP]
    return float((1 + higher_PP).sum() / 2), int(apart_PP.sum())


def top_agrees(guessed_P: Array, true_P: Array) -> float:
    """Whether the highest is the same one; of several highest guessed, the chance that one of them is."""
    guessed = guessed_P == guessed_P.max()
    return float((guessed & (true_P == true_P.max())).sum() / guessed.sum())


def order(scores_P: Array, chance: np.random.Generator) -> list[int]:
    """Highest first; equal ones by chance."""
    highest: list[int] = np.lexsort((chance.permutation(len(scores_P)), -scores_P)).tolist()
    return highest
