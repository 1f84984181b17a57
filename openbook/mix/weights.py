"""Who is trusted how much: priors, what the question taught, what the answer so far taught, and a cap.

All weights are natural logs over S sources, float64: a product of many likelihoods must not underflow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from openbook.errors import Fault

Array = npt.NDArray[np.float64]


def normalise(log_u_S: Array) -> Array:
    """Log-weights that sum to 1 along the last axis."""
    top = log_u_S.max(axis=-1, keepdims=True)
    total: Array = top + np.log(np.exp(log_u_S - top).sum(axis=-1, keepdims=True))
    return log_u_S - total


def log_prior(passages_log_S: Array, closed_share: float) -> Array:
    """Passages' log-weights and, last, the closed book's fixed share of the whole."""
    if not 0 <= closed_share < 1:
        raise Fault(f"the closed book's share is {closed_share}; it must be from 0 to below 1")
    with np.errstate(divide="ignore"):
        closed = np.log([closed_share])
    return np.concatenate([normalise(passages_log_S) + np.log1p(-closed_share), closed])


def refine(log_prior_S: Array, question_log_p_S: Array, beta: float) -> Array:
    """The question as the first evidence: `w_s ∝ π_s · p(x|z_s)^β`."""
    return normalise(log_prior_S + beta * question_log_p_S)


def persist(log_prior_S: Array, log_likelihood_S: Array, tau: float) -> Array:
    """`w_s(t) ∝ π_s · (Π_{i<t} p_s(y_i))^τ`: τ = 0 is RAG-Token, τ = 1 RAG-Sequence exactly, between joins them."""
    if tau == 0:  # 0 · −∞ would be NaN where a source found a token impossible
        return normalise(log_prior_S)
    return normalise(log_prior_S + tau * log_likelihood_S)


def cap_weights(log_w_S: Array, cap: float) -> Array:
    """No weight above `cap`; what is cut goes to the others in proportion (the largest entropy that keeps order).

    A cap below 1/S cannot be met by S weights; all are then 1/S.
    """
    if not 0 < cap <= 1:
        raise Fault(f"the weight cap is {cap}; it must be above 0 and at most 1")
    w = np.exp(normalise(log_w_S))
    cap = max(cap, 1 / len(w))
    capped = np.zeros(len(w), dtype=bool)
    while (over := (w > cap * (1 + 1e-12)) & ~capped).any():
        capped |= over
        free = w[~capped].sum()
        w = np.where(capped, cap, w * ((1 - cap * capped.sum()) / free if free > 0 else 0.0))
        if free == 0 and not capped.all():  # nobody else had any weight: share the rest evenly
            w[~capped] = (1 - cap * capped.sum()) / (~capped).sum()
    with np.errstate(divide="ignore"):
        return normalise(np.log(w))
