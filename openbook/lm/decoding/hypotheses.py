"""What may follow several texts at once: what a search asks of a model.

Shapes: N rows (hypotheses of one or several texts), T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.backends.runner import Runner
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.encoder import pad


class Hypotheses(Protocol):
    """Rows that go on, stop or part. `log_p_NV` are fp32 log-probabilities of each row's next token (or logits).

    A decoder's are `Text`, an encoder–decoder's `openbook.lm.seq2seq.Continuations`, a mixture's
    `openbook.mix.beam.MixtureRows`.
    """

    def start(self) -> Tensor:
        """What may come first: `[texts, V]`, a row a text."""

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """What may follow, `[N, V]`: row n goes on from the row `parents[n]` of before, with `tokens[n]`."""


class Text:
    """A decoder going on from texts of any lengths, in a cache of any kind (`None`: as the runner keeps them).

    `limit` is the most tokens that will be asked for after each text.
    """

    def __init__(
        self, runner: Runner, texts: Sequence[Sequence[int]], limit: int, kind: CacheSpec | None = None
    ) -> None:
        longest, most = max(map(len, texts), default=0), runner.spec.max_positions
        if not texts or not all(texts):
            raise Fault("there is nothing to go on from: give texts of one token or more")
        if limit < 1 or longest + limit > most:
            raise Fault(
                f"{limit} tokens are asked for after a text of {longest}; it must be 1 or more, "
                f"and the two no more than this model's context of {most}"
            )
        self._runner = runner
        self._tokens_NT, self._positions_NT = pad([list(text) for text in texts], left=True)
        self._cache = self._made(kind, longest + limit)

    def _made(self, kind: CacheSpec | None, capacity: int) -> Cache:
        runner, count = self._runner, len(self._tokens_NT)
        if kind is None:
            return runner.cache([None] * count, capacity)
        return make_cache(runner.spec, kind, count, capacity, runner.dtype, runner.device)

    def start(self) -> Tensor:
        """See `Hypotheses`; reads the texts, in one batch. Once only."""
        logits_NV = self._runner.read(self._tokens_NT, self._cache, positions_BT=self._positions_NT)
        if not bool(torch.isfinite(logits_NV).all()):
            raise Fault("the model's numbers are not finite; its file is damaged: fetch or convert it again")
        return logits_NV

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See `Hypotheses`."""
        if list(parents) != list(range(len(self._cache.next_positions_B))):
            self._cache.select(parents)
        tokens_N1 = torch.tensor(list(tokens), dtype=torch.long)[:, None]
        return self._runner.forward(tokens_N1, self._cache)[:, -1]
