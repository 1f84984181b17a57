"""How many arbitrary bad passages a greedy token withstands (after RobustRAG, arXiv 2405.15556).

A bad passage can move the mixture by at most its weight. With δ_s(y₂) = p_s(y₁) − p_s(y₂), the token y₁ stands against
every set A of j passages if for every other token y₂: `Σ_{s∉A} w_s δ_s(y₂) > Σ_{s∈A} w_s`. Rearranged, the worst A
removes the j passages of largest `w_s (δ_s + 1)`: a sort, no search. Limits: it holds for τ = 0 and β = 0, where no
passage can earn weight by what it says; for greedy choices; and for the retrieved set and its prior as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openbook.mix.source import Label
from openbook.mix.weights import Array


def certify(log_w_S: Array, log_p_SV: Tensor, token: int, labels: Sequence[Label]) -> int:
    """The largest j such that no j bad passages can change this greedy choice; 0 if one already could.

    The closed book is never bad.
    """
    w_S1 = torch.from_numpy(np.exp(log_w_S)).to(log_p_SV)[:, None]
    p_SV = log_p_SV.exp()
    agrees_SV = w_S1 * (p_SV[:, token, None] - p_SV)
    passage_S = torch.tensor([label.kind == "passage" for label in labels], device=log_p_SV.device)
    # Leaving out A costs what its members gave and, as they turn against the token, their weight.
    cost_SV = (agrees_SV + w_S1)[passage_S].sort(dim=0, descending=True).values
    margin_jV = agrees_SV.sum(0) - cost_SV.cumsum(0)
    margin_jV[:, token] = float("inf")
    stands = (margin_jV > 0).all(dim=1)
    return int(stands.long().cumprod(0).sum())
