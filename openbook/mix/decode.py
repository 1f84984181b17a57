"""Choosing tokens from a mixture, one evidence row a token.

Shapes: S sources, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from openbook.errors import Fault
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.sampling import Sampling
from openbook.mix.certificate import certify, vote_of
from openbook.mix.mixture import Mixture
from openbook.mix.speculation import Speculation
from openbook.mix.weights import Array


@dataclass(frozen=True)
class Step:
    """One token's evidence: who said it how loudly, how much each was trusted, natural logs over S sources.

    `likeliest` are the tokens the mixture gave most and its natural log p of each, where they were asked for.
    """

    token: int
    log_p: float
    log_p_S: Array
    log_w_S: Array
    certified: int | None
    likeliest: tuple[tuple[int, float], ...] = ()

    @property
    def share_S(self) -> Array:
        """Each source's responsibility for the token; they sum to 1."""
        log_r_S = self.log_w_S + self.log_p_S
        share_S: Array = np.exp(log_r_S - np.logaddexp.reduce(log_r_S))
        return share_S


def generate(
    mixture: Mixture,
    sampling: Sampling,
    draft: Draft,
    max_tokens: int,
    *,
    fixed_prior: bool = False,
    speculation: Speculation | None = None,
    robust: int | None = None,
    likeliest: int = 0,
) -> Iterator[Step]:
    """Tokens until the draft is over, at most `max_tokens`; the draft says why. An end token is not given out.

    A repetition penalty and a constraint change what is chosen from the mixture, not the evidence: a step says what the
    sources gave the token. The penalty counts what is written, not the prompts: they differ from source to source, and
    hold the words an answer needs. With `fixed_prior` (no passage earned its weight by what it says), τ = 0 and nothing
    but greedy choices, tokens are certified. With `robust`, under `equal_votes`, the text ends before the first token,
    also an end token, that does not withstand so many bad passages. `speculation` guesses what may be read ahead; what
    is chosen, and its evidence, do not change by that. Each step says which `likeliest` tokens there were, so many.
    """
    generator, penalty = sampling.generator(), sampling.repetition_penalty
    greedy = sampling.temperature == 0 and penalty == 1 and draft.guide is None
    # Of neighbours one bad document can be all: no certificate speaks for them.
    known = all(label.kind in ("passage", "closed_book") for label in mixture.labels)
    certifiable = fixed_prior and mixture.weights.tau == 0 and greedy and known
    if robust is not None and not certifiable:
        raise Fault(
            "only greedy choices from passages under fixed weights can be robust; leave out what else decides words"
        )
    for length in range(1, max_tokens + 1):
        log_mix_V = mixture.distribution()
        token = sampling.pick(draft.allow(log_mix_V, penalty), generator)
        certified = None
        if certifiable:
            vote = None if robust is None else vote_of(mixture.log_w_S, mixture.labels)
            certified = certify(mixture.log_w_S, mixture.log_p_SV, token, mixture.labels, vote=vote)
        if robust is not None and (certified or 0) < robust:
            draft.reason = "robust"
            return
        draft.add(token)
        if draft.reason == "end":
            return
        if draft.reason is None and length == max_tokens:
            draft.reason = "limit"
        best = tuple(zip(*(t.tolist() for t in log_mix_V.topk(likeliest)[::-1]), strict=True)) if likeliest else ()
        step = Step(token, float(log_mix_V[token]), mixture.log_p_of(token), mixture.log_w_S, certified, best)
        yield step
        if draft.reason is not None:
            return
        if speculation is not None:  # the last token that may be written is read by nobody
            mixture.expect(speculation.after(token, step.share_S, max_tokens - length - 1))
        mixture.advance(token)
