"""How many arbitrary bad passages a greedy token withstands (after RobustRAG, arXiv 2405.15556).

A bad passage can move the mixture by at most its weight. With δ_s(y₂) = p_s(y₁) − p_s(y₂), the token y₁ stands against
every set A of j passages if for every other token y₂: `Σ_{s∉A} w_s δ_s(y₂) > Σ_{s∈A} w_s`. Rearranged, the worst A
removes the j passages of largest `w_s (δ_s + 1)`: a sort, no search. It holds for greedy choices at τ = 0, where no
passage earns weight by what the answer says, for the passages found and their weights as they are (`certify`).

**Equal votes.** A weight from retrieval or from the question is one that a bad passage can set. `equal_votes` leaves
nothing to set: a passage has one vote, or none where it has nothing to do with the question, and nobody's vote depends
on another passage. The worst that a bad passage can do, in the place of one found or beside them, is to vote against:
A then costs `Σ_{s∈A} (u + max(w_s δ_s, 0))`, u the weight of a vote (`certify(…, vote=u)`).

**What must be.** Were everybody else sure of y₁, n votes and the closed book's c against j bad ones stand if
n − j + c > j. So no weight may reach 1/(2j): more than 2j votes are needed, and `check_robust` refuses fewer passages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.mix.mixture import Weights
from openbook.mix.source import Label
from openbook.mix.weights import Array, normalise

ROUNDING = 1e-5
"""A margin below this may be rounding: sums of fp32 probabilities, which two batches may round otherwise."""


def certify(log_w_S: Array, log_p_SV: Tensor, token: int, labels: Sequence[Label], *, vote: float | None = None) -> int:
    """The largest j such that no j bad passages can change this greedy choice; 0 if one already could.

    With a `vote` bad passages may weigh that much each, whatever they replace, and may also stand beside those found;
    without, they have the weights of those whose places they take. The closed book is never bad.
    """
    w_S1 = torch.from_numpy(np.exp(log_w_S)).to(log_p_SV)[:, None]
    p_SV = log_p_SV.exp()
    agrees_SV = w_S1 * (p_SV[:, token, None] - p_SV)
    passage_S = torch.tensor([label.kind == "passage" for label in labels], device=log_p_SV.device)
    # Leaving out A costs what its members gave and, as they turn against the token, their weight.
    cost_SV = agrees_SV + w_S1 if vote is None else agrees_SV.clamp(min=0) + vote
    worst_SV = cost_SV[passage_S].sort(dim=0, descending=True).values
    margin_jV = agrees_SV.sum(0) - worst_SV.cumsum(0)
    margin_jV[:, token] = float("inf")
    stands = (margin_jV > ROUNDING).all(dim=1)
    return int(stands.long().cumprod(0).sum())


def equal_votes(lift_bits_S: Array, margin: float | None, closed_share: float, most: int) -> Weights:
    """Weights that no passage can set but by having a vote or none: of S passages and, last, the closed book.

    `lift_bits_S`: by how many bits each passage makes the question likelier than the closed book does; below the
    `margin` (None: never) it has no vote. The closed book has what makes its share `closed_share` where `most` passages
    vote: a number that those found do not decide, as who adds one could.
    Raises `Fault` for a closed book without a share: where nobody votes, somebody must speak.
    """
    if not 0 < closed_share < 1:
        raise Fault(f"the closed book's share is {closed_share}; robust answers need it above 0 and below 1")
    votes_S = np.ones(len(lift_bits_S)) if margin is None else (lift_bits_S >= margin).astype(float)
    closed = most * closed_share / (1 - closed_share)
    with np.errstate(divide="ignore"):
        return Weights(normalise(np.log([*votes_S, closed])), tau=0.0, cap=1.0)


def vote_of(log_w_S: Array, labels: Sequence[Label]) -> float:
    """The weight of a vote under `equal_votes`; infinite where no passage has one, as any bad passage then decides."""
    voting = max((w for w, label in zip(np.exp(log_w_S), labels, strict=True) if label.kind == "passage"), default=0.0)
    return float(voting) if voting > 0 else float("inf")


def check_robust(robust: int | None, passages: int) -> None:
    """Raise `Fault` for more bad passages than any votes of so many passages could withstand."""
    if robust is None:
        return
    if robust < 0:
        raise Fault(f"robust is {robust}; say how many bad passages an answer must withstand, 0 or more")
    if passages < 2 * robust + 1:
        needed = 2 * robust + 1
        raise Fault(f"{passages} passages cannot withstand {robust} bad ones; ask for {needed} or more")
