"""The native backend: the same specs and the same caches as torch's, on a CPU, with weights as the file packs them.

One call runs all layers (kernels/ in C++). A cache's memory is read where it lies, and written when the forward is
done: a forward that fails leaves it as it was. Rows of different length and padding cost nothing: tokens are run as
one list. Shapes: B rows, T new tokens, V vocabulary, M width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.backends.native_build import Builder, Weight, unsupported
from openbook.lm.backends.native_forward import STORES, Forwards, Job
from openbook.lm.backends.native_tables import Tables
from openbook.lm.backends.runner import CHUNK, Hidden, Part
from openbook.lm.backends.threads import threads as meant_threads
from openbook.lm.backends.threads import torch_rests
from openbook.lm.cache.branched import branched_cache
from openbook.lm.cache.codecs import codec_named
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import AUTO, CacheSpec, make_cache, restore_cache
from openbook.lm.cache.plan import plan
from openbook.lm.cache.prefixes import Prefix
from openbook.lm.spec import ModelSpec, SpecError
from openbook.native import kernels

CPU = torch.device("cpu")


class NativeRunner:
    """A spec with packed weights on a CPU (see `Runner`). fp32 in and between layers, keys and values in `dtype`.

    Numbers do not depend on how many rows or (below `FEW` a row) new tokens stand in a batch, to the last bit.
    """

    batch_invariant = True

    def __init__(
        self,
        spec: ModelSpec,
        state: Iterable[tuple[str, Weight]],
        caching: CacheSpec = AUTO,
        *,
        precision: str = "auto",
        threads: int | None = None,
        isa: str = "",
    ) -> None:
        k, reason = kernels(), unsupported(spec)
        if k is None:
            raise Fault("the native kernels are not installed; build them (pip install ./kernels) or use backend torch")
        if reason is not None:
            raise SpecError(f"the native backend cannot run this model: {reason}; use backend torch")
        if caching.codec not in {name for name, _ in STORES}:
            raise SpecError(f"no native kernel reads keys under the codec {caching.codec}; use backend torch")
        self.spec, self.caching, self.device = spec, caching, CPU
        self.dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        if spec.head:
            make_cache(spec, caching, 1, 1, self.dtype, torch.device("meta"))  # refuses now what it cannot keep
        self.isa = isa or k.isas()[0]
        self.arithmetic = f"native-{k.__version__}-{self.isa}"  # what the bits of a prefix depend on
        with self.alone():  # weights are turned by torch a few rows at a time, too few to share
            builder = Builder(spec, state, precision)
            tables = Tables(spec, builder)
            self._engine = k.Engine(builder.model(), team(threads or meant_threads()), self.isa)
        self._forwards = Forwards(self._engine, tables, plan(spec) if spec.head else None, self.dtype)

    def alone(self) -> AbstractContextManager[None]:
        return torch_rests()

    def read_weights(self) -> tuple[int, float]:
        """Bytes of the weights that a token needs, and the seconds in which these threads only read them: no step can
        be quicker."""
        read: tuple[int, float] = self._engine.read_weights()
        return read

    def cache(self, prefixes: Sequence[Prefix | None], room: int) -> Cache:
        if self.caching.layout == "auto" and any(prefix is not None for prefix in prefixes):
            codec = codec_named(self.caching.codec)  # beginnings are read where they lie
            return branched_cache(plan(self.spec), codec, prefixes, room, self.dtype, CPU)
        return restore_cache(self.spec, self.caching, prefixes, room, self.dtype, CPU)

    def forward(
        self,
        tokens_BT: Tensor,
        cache: Cache | None = None,
        *,
        positions_BT: Tensor | None = None,
        keep: slice | Sequence[int] = slice(None),
        tap_BTM: Tensor | None = None,
    ) -> Tensor:
        made = self.together([Part(tokens_BT, cache, positions_BT, keep, tap_BTM)])[0]
        if isinstance(made, Exception):
            raise made
        return made

    def together(self, parts: Sequence[Part]) -> list[Tensor | Exception]:
        jobs: list[Job] = []
        made: list[Tensor | Exception] = []
        asked: list[Job | None] = []
        for part in parts:
            try:
                job, logits_BTV = self._job(part)
            except (Fault, ValueError, IndexError) as error:
                asked.append(None)
                made.append(error)
                continue
            jobs.append(job)
            asked.append(job)
            made.append(logits_BTV)
        self._forwards.run(jobs)
        return [one if job is None else job.error or one for job, one in zip(asked, made, strict=True)]

    def hidden(self, tokens_BT: Tensor, cache: Cache | None = None, *, positions_BT: Tensor | None = None) -> Hidden:
        """Hidden states of these tokens, whose keys are added to the cache; where a position is −1 they are 0."""
        found = Hidden(torch.zeros(*tokens_BT.shape, self.spec.width), torch.zeros(*tokens_BT.shape, self.spec.width))
        self._run(Job(tokens_BT, positions_BT, cache, [], None, found.last_BTM, found.feed_forward_BTM))
        return found

    def encode(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        """What an encoder makes of these texts, fp32 `[B, T, M]`; 0 where a position is −1."""
        hidden_BTM = torch.zeros(*tokens_BT.shape, self.spec.width)
        self._run(Job(tokens_BT, positions_BT, None, [], None, hidden_BTM))
        return hidden_BTM

    def read(self, tokens_BT: Tensor, cache: Cache, *, positions_BT: Tensor | None = None) -> Tensor:
        if positions_BT is None:
            positions_BT = cache.next_positions_B[:, None] + torch.arange(tokens_BT.shape[1])
        last = (tokens_BT.shape[1] - 1) // CHUNK * CHUNK
        for start in range(0, last, CHUNK):
            chunk = slice(start, start + CHUNK)
            self._run(Job(tokens_BT[:, chunk], positions_BT[:, chunk], cache, [], None))
        return self.forward(tokens_BT[:, last:], cache, positions_BT=positions_BT[:, last:], keep=slice(-1, None))[:, 0]

    def prefill(self, text: Sequence[int]) -> Prefix:
        cache = make_cache(self.spec, replace(self.caching, layout="auto"), 1, len(text), self.dtype, CPU)
        tokens_1T = torch.tensor([list(text)])
        for start in range(0, len(text), CHUNK):
            self._run(Job(tokens_1T[:, start : start + CHUNK], None, cache, [], None))
        return cache.prefix(0)

    def _job(self, part: Part) -> tuple[Job, Tensor]:
        if not self.spec.head:
            raise ValueError("an encoder has no logits; ask for its hidden states")
        (B, T), keep = part.tokens_BT.shape, part.keep
        kept = list(range(T)[keep]) if isinstance(keep, slice) else [range(T)[int(column)] for column in keep]
        logits_BTV = torch.empty(B, len(kept), self.spec.vocabulary)
        return Job(part.tokens_BT, part.positions_BT, part.cache, kept, logits_BTV, tapped=part.tap_BTM), logits_BTV

    def _run(self, job: Job) -> None:
        self._forwards.run([job])
        if job.error is not None:
            raise job.error


@lru_cache(maxsize=8)
def team(threads: int) -> Any:
    """The threads that all native models of a process share, one team a count: they sleep while nobody calls."""
    return kernels().Team(threads)
