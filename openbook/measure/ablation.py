"""What an answer loses without some of its passages: left out one by one, or estimated as ContextCite does.

ContextCite (Cohen-Wang et al. 2024, arXiv 2409.00729) leaves each passage out with chance ½, many times, and fits a
sparse linear model to the logit of the answer's probability; its coefficients are the passages' scores. This is that
method, for whatever can say an answer's probability under some of its passages.

Shapes: N ablations, P passages, O orders of them, K of them there; a mask is True where a passage stays. Logs are
natural.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import numpy.typing as npt

from openbook.mix.weights import Array

Masks = npt.NDArray[np.bool_]
KEPT = 0.5
"""The chance of a passage to stay (§3 of the paper)."""
ALPHA = 0.01
"""The penalty of the package `context-cite`, on the logit a token of the answer."""
ORDERS = 120
SWEEPS, CONVERGED = 10_000, 1e-12
CERTAIN = -1e-12
"""No answer is surer: the logit of probability 1 is no number."""


class Ablations:
    """log p(answer) under any choice of P passages; a choice is run once, however often it is asked for.

    `read` says it of several choices `[N, P]` at once. `tokens` is the answer's length.
    """

    def __init__(self, passages: int, tokens: int, read: Callable[[Masks], Array]) -> None:
        self.passages, self.tokens = passages, tokens
        self._read = read
        self._known: dict[tuple[bool, ...], float] = {}

    @property
    def run(self) -> int:
        """How many choices were run."""
        return len(self._known)

    def log_p(self, masks_NP: Masks) -> Array:
        """Of each choice."""
        wanted = [tuple(mask) for mask in masks_NP.tolist()]
        missing = [mask for mask in dict.fromkeys(wanted) if mask not in self._known]
        if missing:
            self._known |= dict(zip(missing, self._read(np.array(missing)).tolist(), strict=True))
        return np.array([self._known[mask] for mask in wanted])

    def drop(self, without: list[int]) -> float:
        """By how much log p(answer) falls without these passages."""
        masks_NP = np.ones((2, self.passages), dtype=bool)
        masks_NP[1, without] = False
        whole, less = self.log_p(masks_NP)
        return float(whole - less)

    def leave_one_out(self) -> Array:
        """`[P]`: what the answer loses without each passage."""
        masks = np.concatenate([np.ones((1, self.passages), dtype=bool), ~np.eye(self.passages, dtype=bool)])
        log_p = self.log_p(masks)
        lost_P: Array = log_p[0] - log_p[1:]
        return lost_P

    def shapley(self) -> Array:
        """`[P]`: what each passage adds to log p(answer) when it comes, in the mean over the orders in which passages
        can come (Shapley 1953); of more than five, over `ORDERS` drawn ones. They sum to what all add to none.
        """
        P, chance = self.passages, np.random.default_rng(self.passages)
        orders = list(permutations(range(P))) if P <= 5 else [chance.permutation(P) for _ in range(ORDERS)]
        place_OP = np.argsort(orders, axis=1)
        masks_OKP = place_OP[:, None] < np.arange(P + 1)[:, None]
        log_p_OK = self.log_p(masks_OKP.reshape(-1, P)).reshape(len(orders), P + 1)
        added_P: Array = np.take_along_axis(np.diff(log_p_OK, axis=1), place_OP, axis=1).mean(axis=0)
        return added_P

    def context_cite(self, count: int) -> Array:
        """ContextCite's scores `[P]` from that many random ablations."""
        masks_NP = draw(count, self.passages)
        return surrogate(masks_NP, logit(self.log_p(masks_NP)), self.tokens)


def draw(count: int, passages: int) -> Masks:
    """Random choices `[N, P]`: those that the package draws, so that both can be compared."""
    draws = [np.random.RandomState(n).choice([False, True], passages, p=[1 - KEPT, KEPT]) for n in range(count)]
    return np.array(draws).reshape(count, passages)


def logit(log_p: Array) -> Array:
    """`log p − log(1 − p)`."""
    log_p = np.minimum(log_p, CERTAIN)
    odds: Array = log_p - np.log(-np.expm1(log_p))
    return odds


def surrogate(masks_NP: Masks, logits_N: Array, tokens: int) -> Array:
    """Coefficients `[P]` of the sparse linear model; the penalty is a token's, so long answers are not scored finer."""
    return lasso(masks_NP.astype(np.float64), logits_N / tokens, ALPHA)[0] * tokens


def lasso(x_NP: Array, y_N: Array, alpha: float) -> tuple[Array, float]:
    """The w `[P]` and b that make `‖y − Zw' − b'‖² / 2N + α‖w'‖₁` least, Z being x with each column standardised, and
    w, b the same model of x itself. By coordinate descent (Friedman 2010); a column that never changes gets 0.
    """
    mean_P, scale_P = x_NP.mean(0), x_NP.std(0)
    varies = np.flatnonzero(scale_P > 0)
    z_NP = (x_NP[:, varies] - mean_P[varies]) / scale_P[varies]
    rest_N, w_P = y_N - y_N.mean(), np.zeros(len(varies))
    for _ in range(SWEEPS):
        moved = 0.0
        for p, z_N in enumerate(z_NP.T):
            pull = float(z_N @ rest_N) / len(y_N) + w_P[p]
            step = np.sign(pull) * max(abs(pull) - alpha, 0.0) - w_P[p]
            rest_N -= step * z_N
            w_P[p] += step
            moved = max(moved, abs(step))
        if moved < CONVERGED:
            break
    weights_P = np.zeros(x_NP.shape[1])
    weights_P[varies] = w_P / scale_P[varies]
    return weights_P, float(y_N.mean() - mean_P @ weights_P)
