"""Scores in, a mixture out: one function, because it costs as much as a decode step where it is done carelessly.

A source gives *scores*: numbers whose softmax over the vocabulary is its distribution. Logits are scores, and so are
log-probabilities, whose normaliser is 0. So nobody takes logarithms of `[S, V]` numbers of which one column is wanted.

Shapes: S sources, V vocabulary, R rows. Scores are fp32, weights and normalisers float64 logs.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openbook.mix.weights import Array

FAINT = 1e-30
"""Below this a sum of fp32 probabilities has lost digits, or is 0 where its logarithm is a number: taken in logs."""


def mix(scores_SV: Tensor, log_w_S: Array) -> tuple[Tensor, Array]:
    """`log Σ_s w_s softmax(scores_s)`, fp32 `[V]`, and each row's log-normaliser `log Σ_v exp(scores_sv)`.

    A source's log-probability of a token is its score less its normaliser. Of each row at least one score is finite;
    −∞ is a token that cannot be. Rows need not stand side by side in memory.
    """
    k = _kernels()
    if k is not None and scores_SV.device.type == "cpu":
        return _mix_natively(k, scores_SV, log_w_S)
    p_SV = scores_SV.softmax(dim=1)
    log_z_S = _normalisers(scores_SV, p_SV)
    log_mix_V = torch.mv(p_SV.T, torch.from_numpy(np.exp(log_w_S)).to(p_SV))
    faint = torch.nonzero(log_mix_V < FAINT)[:, 0]
    log_mix_V.log_()
    if len(faint):
        shift_S1 = torch.from_numpy(log_w_S - log_z_S)[:, None].to(scores_SV)
        log_mix_V[faint] = torch.logsumexp(scores_SV[:, faint] + shift_S1, dim=0)
    return log_mix_V, log_z_S


def _mix_natively(k: Any, scores_SV: Tensor, log_w_S: Array) -> tuple[Tensor, Array]:
    """In two passes over the scores, by the threads that run native models."""
    from openbook.lm.backends.native import team
    from openbook.lm.backends.threads import threads

    scores_SV = _readable(scores_SV)
    S, V = scores_SV.shape
    log_mix_V, stride = torch.empty(V), scores_SV.stride(0)
    log_z = k.mix(team(threads()), "", scores_SV.data_ptr(), S, V, stride, log_w_S.tolist(), log_mix_V.data_ptr())
    return log_mix_V, np.array(log_z)


@cache
def _kernels() -> Any:
    """The native kernels, looked for once: None where they were not built."""
    from openbook.native import kernels

    return kernels()


def normalisers(scores_RV: Tensor) -> Array:
    """`log Σ_v exp(scores_rv)` of each row, float64 `[R]`."""
    k = _kernels()
    if k is None or scores_RV.device.type != "cpu":
        return _normalisers(scores_RV, scores_RV.softmax(dim=1))
    from openbook.lm.backends.native import team
    from openbook.lm.backends.threads import threads

    scores_RV = _readable(scores_RV)
    at = scores_RV.data_ptr(), *scores_RV.shape, scores_RV.stride(0)
    return np.array(k.normalisers(team(threads()), "", *at))


def _readable(scores_RV: Tensor) -> Tensor:
    """Rows of fp32 that each stand in one piece; copied only where they do not."""
    scores_RV = scores_RV.float()
    return scores_RV if scores_RV.stride(1) == 1 else scores_RV.contiguous()


def _normalisers(scores_RV: Tensor, p_RV: Tensor) -> Array:
    """From the likeliest token: its score less the logarithm of its probability, which is never small."""
    top_R, p_R = scores_RV.amax(dim=1), p_RV.amax(dim=1)
    log_z_R: Array = (top_R.double() - p_R.double().log()).cpu().numpy()
    return log_z_R
