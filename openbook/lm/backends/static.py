"""Steps of decoding in fixed shapes and fixed memory: on CUDA recorded once as a graph, then replayed.

Shapes: B rows, V vocabulary.
An eager step is some thousand small kernels, each launched from Python; on a GPU the launches take longer than the
arithmetic. A CUDA graph launches them all at once, but always the same ones, over the same memory. So a step reads its
inputs from buffers (tokens, positions, the column to be written) and the cache as a whole rectangle
(`openbook.lm.cache.fixed`). Without a GPU the same step runs as it is, nothing recorded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from weakref import ref

import torch
from torch import Tensor

from openbook.lm.cache.dense import DenseCache
from openbook.lm.cache.fixed import FixedView
from openbook.lm.decoder import Decoder

logger = logging.getLogger(__name__)

WARM = 2
"""Steps that run before one is recorded: in its first runs a library chooses kernels and takes its workspaces, and a
batch that soon ends is not worth recording."""

IDLE = 2
"""Recorded steps that are kept, with the memory of their caches, after the caches have gone. The next text of as many
rows and columns is copied there: to record a step takes as long as to write some tokens."""

Forward = Callable[[Tensor, Tensor, FixedView], Tensor]
Body = Callable[[], Tensor]
Record = Callable[[Body], Body]
"""Takes a step, which it may run, and gives back what repeats it: reads the same inputs, writes the same output."""


class CudaGraphs:
    """Records steps as CUDA graphs. What is on the way of one may be overwritten by the next: they share a pool."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            # Held for as long as there are graphs: a pool whose last graph is gone takes no other (pytorch#133600).
            self._pool = torch.cuda.MemPool()
        self._recording = threading.Lock()

    def __call__(self, body: Body) -> Body:
        """Raises `RuntimeError` where something in the step cannot be recorded; the stream is then as it was."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        # The inner context does not leave the stream where recording ends in an error; the outer one does.
        with self._recording, torch.cuda.stream(self._stream):
            body()  # what libraries keep for each stream, they take now
            pool = self._pool.id
            with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):  # type: ignore[arg-type]
                out = body()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


class StaticStep:
    """One step of a batch: its inputs, in memory that stays where it is, and how it is run.

    `body` runs it; `replay`, once there is one, repeats what was recorded of it. Each writes the cache's keys in the
    same column, so that a step may be run more than once until the next one is loaded.
    """

    def __init__(self, cache: DenseCache, forward: Forward) -> None:
        self.storage = cache.storage
        self.owner: Callable[[], DenseCache | None] = ref(cache)
        self._kind = cache.codec.name, cache.dtype
        self.tokens_B1 = torch.zeros(cache.batch, 1, dtype=torch.long, device=cache.device)
        self.positions_B1 = torch.zeros_like(self.tokens_B1)
        self.column_1 = torch.zeros(1, dtype=torch.long, device=cache.device)
        self.view = FixedView(self.storage, self.column_1, cache.codec, cache.dtype)
        self.forward = forward
        self.replay: Body | None = None
        self.runs = 0
        self._longest = -1
        self._next_B: Tensor | None = None

    def load(self, tokens_B1: Tensor, cache: DenseCache) -> None:
        """Put the inputs where the step reads them. The device is not waited for."""
        self.tokens_B1.copy_(tokens_B1, non_blocking=True)
        self.positions_B1.copy_(cache.next_positions_B[:, None])
        self.column_1.fill_(cache.length)

    def body(self) -> Tensor:
        """fp32 logits `[B, 1, V]`."""
        return self.forward(self.tokens_B1, self.positions_B1, self.view)

    def run(self, cache: DenseCache) -> Tensor:
        """As `body`, in memory that later steps leave alone; counted by the cache, which may raise `Fault`."""
        cache.claim(self.positions_B1)
        self._next_B = cache.next_positions_B
        self.runs += 1
        return self.body() if self.replay is None else self.replay().clone()

    def latest(self, cache: DenseCache) -> int:
        """The latest position that this step takes. The device is asked only where something came between steps."""
        followed = self._next_B is cache.next_positions_B
        self._longest = self._longest + 1 if followed else int(cache.next_positions_B.max())
        return self._longest

    def fits(self, cache: DenseCache) -> bool:
        """Whether what the cache holds could stand where this step reads."""
        return self._kind == (cache.codec.name, cache.dtype) and self.storage.alike(cache.storage)

    def adopt(self, cache: DenseCache) -> None:
        """Have the cache keep what it holds where this step reads it."""
        self.storage.copy_(cache.storage, cache.length)
        cache.storage, self.owner = self.storage, ref(cache)


class StaticSteps:
    """The steps of one decoder over dense caches: one a cache, and a few that were recorded for caches now gone.

    `record` makes steps repeatable (None: as CUDA graphs on CUDA, elsewhere not at all). `compiled` runs them through
    `torch.compile`, which takes seconds to minutes at the second step. `refused` says why steps run eagerly, if so.
    """

    def __init__(self, decoder: Decoder, *, compiled: bool = False, record: Record | None = None) -> None:
        device = decoder.embedding.weight.device
        self._decoder = decoder
        self._record = CudaGraphs(device) if record is None and device.type == "cuda" else record
        self._tuned: Forward = torch.compile(self._forward) if compiled else self._forward
        self._steps: list[StaticStep] = []
        self._choosing = threading.Lock()
        self.refused: str | None = None
        if decoder.asks_length:
            self._refuse("its rope scaling changes as a text grows, so no step is like another")

    @torch.inference_mode()
    def step(self, tokens_B1: Tensor, cache: DenseCache) -> Tensor | None:
        """fp32 logits `[B, 1, V]` of each row's next token. None, and nothing done, where steps are refused.

        Raises `Fault` if the context is full.
        """
        if self.refused is not None or tokens_B1.shape != (cache.batch, 1):
            return None
        step = self._step_of(cache)
        if cache.length < cache.capacity:  # else it is refused when it is counted
            if self._decoder.positions is not None:
                self._decoder.refuse_beyond(step.latest(cache))
            step.load(tokens_B1, cache)
            if not self._prepared(step):
                return None
        return step.run(cache)

    def _step_of(self, cache: DenseCache) -> StaticStep:
        """The step over what the cache holds now.

        A new cache's keys, and those of rows selected since the last step, stand where no step reads. If a recorded one
        has room for just as many they are copied there, which takes far less than to record another.
        """
        with self._choosing:
            mine = next((step for step in self._steps if step.owner() is cache), None)
            if mine is not None and mine.storage.positions_BC is cache.storage.positions_BC:
                return mine
            recorded = [step for step in self._steps if step.replay is not None and step.fits(cache)]
            free = [step for step in recorded if step is mine or step.owner() is None]
            if free:
                step = mine if mine in free else free[-1]
                step.adopt(cache)
            else:
                step = StaticStep(cache, self._forward)
                step.runs = mine.runs if mine is not None and mine.fits(cache) else 0
            self._keep(step, cache)
            return step

    def _keep(self, step: StaticStep, cache: DenseCache) -> None:
        """Have this step for the cache, and forget what is of no more use; the latest used of the idle ones stay."""
        for other in self._steps:
            if other is not step and other.owner() is cache:
                other.owner = _nobody
        others = [other for other in self._steps if other is not step]
        in_use = [other for other in others if other.owner() is not None]
        idle = [other for other in others if other.owner() is None and other.replay is not None]
        self._steps = [*idle[-IDLE:], *in_use, step]

    def _prepared(self, step: StaticStep) -> bool:
        """Record the step if its time has come. False where that fails: from then on all steps are refused."""
        if step.runs:  # the first run is as it is: it makes what is made once and kept
            step.forward = self._tuned
        if self._record is None or step.replay is not None or step.runs < WARM:
            return True
        try:
            step.replay = self._record(step.body)
        except RuntimeError as error:
            self._refuse(f"a step could not be recorded: {error}")
            return False
        return True

    def _refuse(self, reason: str) -> None:
        logger.info("decoding runs eagerly: %s", reason)
        self.refused = reason
        self._steps.clear()

    def _forward(self, tokens_B1: Tensor, positions_B1: Tensor, view: FixedView) -> Tensor:
        view.extend(positions_B1)
        hidden_B1M = self._decoder.run(tokens_B1, positions_B1, view, fixed=True)
        logits_B1V: Tensor = self._decoder.head(hidden_B1M, self._decoder.embedding.weight)
        return logits_B1V


def _nobody() -> None:
    """The owner of what no cache uses."""
