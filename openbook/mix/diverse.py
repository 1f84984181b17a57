"""Several answers that differ, of one mixture: diverse beam search (Vijayakumar 2016, arXiv 1610.02424), B' = 1.

Groups of one hypothesis go on side by side, a batched forward a step for all. At each step a group chooses after those
before it, and pays λ for a token as often as they chose it in that step:

    y_g(t) = argmax_v  log Σ_s w_s p_s(v | y_g,<t) − λ · |{h < g : y_h(t) = v}|

The first group pays nothing: it writes the greedy answer. The penalty steers what is chosen; the evidence is of what
the sources gave. Groups that came to say the same in other letters are one answer, so a few more run than are asked
for.

Shapes: N groups, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from openbook.lm.decoding.draft import Draft
from openbook.mix.beam import MixtureRows, Written
from openbook.mix.decode import Step
from openbook.mix.mixture import Mixture

STRENGTH = 2.0
"""λ, natural: a token that one group before chose is chosen again where it is e² times as likely as the next."""
SPARE = 2
"""Groups beyond the answers that are asked for."""
MOST = 16

_WORD = re.compile(r"\w+")


@dataclass
class _Group:
    draft: Draft
    row: int = 0
    steps: list[Step] = field(default_factory=list)
    ended: bool = False


def diverse(
    mixture: Mixture, draft: Draft, groups: int, max_tokens: int, *, penalty: float = 1.0, strength: float = STRENGTH
) -> list[Written]:
    """An answer a group, in their order; the mixture's sources are used up. `draft` has the rules of each text."""
    rows = MixtureRows(mixture)
    made = [_Group(draft.fork()) for _ in range(groups)]
    log_p_NV = rows.start()
    for length in range(1, max_tokens + 1):
        live = [group for group in made if not group.ended]
        chosen: list[int] = []
        for group in live:
            chosen.append(_choose(group, log_p_NV[group.row], chosen, penalty, strength))
        for group, token in zip(live, chosen, strict=True):
            step = rows.note(group.row, token)
            group.draft.add(token)
            if group.draft.reason != "end":
                group.steps.append(step)
            if group.draft.reason is None and length == max_tokens:
                group.draft.reason = "limit"
            group.ended = group.draft.reason is not None
        going = [(group, token) for group, token in zip(live, chosen, strict=True) if not group.ended]
        if not going:
            break
        log_p_NV = rows.step([group.row for group, _ in going], [token for _, token in going])
        for row, (group, _) in enumerate(going):
            group.row = row
    return [_written(group) for group in made]


def _choose(group: _Group, log_p_V: torch.Tensor, before: Sequence[int], penalty: float, strength: float) -> int:
    scores_V = group.draft.allow(log_p_V, penalty)
    if before:
        scores_V = scores_V.clone()
        tokens = torch.tensor(before, device=scores_V.device)
        scores_V.index_add_(0, tokens, torch.full((len(before),), -strength, device=scores_V.device).to(scores_V))
    return int(scores_V.argmax())


def _written(group: _Group) -> Written:
    log_p = sum(step.log_p for step in group.steps)
    reason = group.draft.reason or "limit"
    return Written(tuple(group.steps), log_p, log_p / max(1, len(group.steps)), reason, group.draft.fits)


def distinct(texts: Sequence[str], count: int) -> list[int]:
    """Which of the texts to give: the first, then those that differ from all before in their words; at most `count`."""
    seen: set[tuple[str, ...]] = set()
    kept: list[int] = []
    for i, text in enumerate(texts):
        words = tuple(_WORD.findall(text.casefold())) or (text.strip(),)
        if words not in seen and text.strip():
            seen.add(words)
            kept.append(i)
    return kept[:count]


def distinctness(texts: Sequence[str], n: int = 2) -> float:
    """distinct-n (Li 2016, arXiv 1510.03055): different runs of n words over all of them, in all texts together."""
    runs = [run for text in texts for run in _runs(_WORD.findall(text.casefold()), n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
