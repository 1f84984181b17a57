"""How many arbitrary bad passages a greedy token withstands (after RobustRAG, arXiv 2405.15556).

A bad passage can move the mixture by at most its weight. With δ_s(y₂) = p_s(y₁) − p_s(y₂), the token y₁ stands against
every set A of j passages if for every other token y₂: `Σ_{s∉A} w_s δ_s(y₂) > Σ_{s∈A} w_s`. Rearranged, the worst A
removes the j passages of largest `w_s (δ_s + 1)`: a sort, no search. Limits: it holds for τ = 0, for weights the bad
passages cannot set, and for the retrieved set as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openbook.mix.source import Label
from openbook.mix.weights import Array


def certify(log_w_S: Array, log_p_SV: Tensor, token: int, labels: Sequence[Label], cap: float | None = None) -> int:
    """The largest j such that no j bad passages can change this greedy choice; 0 if one already could.

    With `cap` the bad passages may earn weight, each at most `cap` (the question's likelihood lets them); the others
    then share what is left in proportion. The condition becomes `Σ_{s∉A} w_s ((1 − jc) δ_s − jc) > 0`. The closed
    book is never bad.
    """
    w_S1 = torch.from_numpy(np.exp(log_w_S)).to(log_p_SV)[:, None]
    p_SV = log_p_SV.exp()
    delta_SV = p_SV[:, token, None] - p_SV
    passage_S = torch.tensor([label.kind == "passage" for label in labels], device=log_p_SV.device)
    best = 0
    for j in range(1, int(passage_S.sum()) + 1):
        reach = 0.0 if cap is None else j * cap
        if reach >= 1:
            break
        kept_SV = w_S1 * ((1 - reach) * delta_SV - reach)
        # Leaving out A costs what its members gave, and, where their weight is as it is, that weight itself.
        cost_SV = kept_SV if cap is not None else w_S1 * (delta_SV + 1)
        worst_V = cost_SV[passage_S].topk(j, dim=0).values.sum(0)
        margin_V = kept_SV.sum(0) - worst_V
        margin_V[token] = float("inf")
        if not bool((margin_V > 0).all()):
            break
        best = j
    return best
