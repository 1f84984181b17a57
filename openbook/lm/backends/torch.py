"""The reference backend: the modules of this room, in torch, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from openbook.lm.backends.runner import CHUNK, Hidden, Part
from openbook.lm.backends.static import StaticSteps
from openbook.lm.cache.dense import DenseCache
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import AUTO, CacheSpec, make_cache, restore_cache
from openbook.lm.cache.prefixes import Prefix
from openbook.lm.cache.protocol import Transient
from openbook.lm.decoder import Decoder
from openbook.lm.device import default_device as default_device
from openbook.lm.device import default_dtype as default_dtype
from openbook.lm.spec import ModelSpec

COLUMNS = 256
"""A cache that static steps read has a multiple of this many columns, so that texts of nearly one length can go on in
each other's recorded steps."""


class TorchRunner:
    """A `Decoder` with its weights, in one precision on one device (see `Runner`).

    `static` decodes in steps of fixed shape, on CUDA as recorded graphs (`openbook.lm.backends.static`); by default
    where the device is CUDA. It needs dense caches, so `auto` is dense then. `compiled` runs those steps through
    `torch.compile`.
    """

    batch_invariant = False  # the order in which torch adds up follows the shape of the batch

    def __init__(
        self, decoder: Decoder, caching: CacheSpec = AUTO, *, static: bool | None = None, compiled: bool = False
    ) -> None:
        self.decoder = decoder.eval()
        self.spec = decoder.spec
        self.dtype = decoder.embedding.weight.dtype
        self.device = decoder.embedding.weight.device
        self.caching = caching
        make_cache(self.spec, caching, 1, 1, self.dtype, torch.device("meta"))  # refuses now what it cannot keep
        self.steps: StaticSteps | None = None
        if static or compiled or (static is None and self.device.type == "cuda"):
            self.steps = StaticSteps(decoder, compiled=compiled)

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        state: Iterable[tuple[str, Tensor]],
        device: torch.device | None = None,
        caching: CacheSpec = AUTO,
        *,
        static: bool | None = None,
        compiled: bool = False,
    ) -> TorchRunner:
        """Build the spec and give it these weights, which keep their dtype."""
        with torch.device("meta"):
            decoder = Decoder(spec)
        target = device or default_device()
        decoder.load_state_dict({name: tensor.to(target) for name, tensor in state}, assign=True)
        return cls(decoder, caching, static=static, compiled=compiled)

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def cache(self, prefixes: Sequence[Prefix | None], room: int) -> Cache:
        kind = self.caching
        if self.steps is not None and self.steps.refused is None:
            longest = max((prefix.length for prefix in prefixes if prefix is not None), default=0)
            room += -(longest + room) % COLUMNS
            kind = replace(kind, layout="dense") if kind.layout == "auto" else kind
        return restore_cache(self.spec, kind, prefixes, room, self.dtype, self.device)

    @torch.inference_mode()
    def forward(
        self,
        tokens_BT: Tensor,
        cache: Cache | None = None,
        *,
        positions_BT: Tensor | None = None,
        keep: slice | Sequence[int] = slice(None),
        tap_BTM: Tensor | None = None,
    ) -> Tensor:
        if self.steps is not None and tap_BTM is None and positions_BT is None and isinstance(cache, DenseCache):
            logits_B1V = self.steps.step(tokens_BT, cache)
            if logits_B1V is not None:
                return logits_B1V[:, keep if isinstance(keep, slice) else list(keep)]
        at_BT = None if positions_BT is None else positions_BT.to(self.device)
        logits: Tensor = self.decoder(tokens_BT.to(self.device), at_BT, cache, keep=keep, tap_BTM=tap_BTM)
        return logits

    def together(self, parts: Sequence[Part]) -> list[Tensor | Exception]:
        """One after the other."""
        made: list[Tensor | Exception] = []
        for part in parts:
            at = {"positions_BT": part.positions_BT, "keep": part.keep, "tap_BTM": part.tap_BTM}
            try:
                made.append(self.forward(part.tokens_BT, part.cache, **at))  # type: ignore[arg-type]
            except Exception as error:
                made.append(error)
        return made

    @torch.inference_mode()
    def hidden(self, tokens_BT: Tensor, cache: Cache | None = None, *, positions_BT: Tensor | None = None) -> Hidden:
        held = Transient(self.spec) if cache is None else cache
        if positions_BT is None:
            positions_BT = held.next_positions_B[:, None].cpu() + torch.arange(tokens_BT.shape[1])
        at_BT = positions_BT.expand_as(tokens_BT).to(self.device)
        tap_BTM = torch.zeros(*tokens_BT.shape, self.spec.width, device=self.device)
        last_BTM = self.decoder.hidden(tokens_BT.to(self.device), at_BT, held, tap_BTM=tap_BTM).float()
        return Hidden(last_BTM.masked_fill_((at_BT < 0)[..., None], 0), tap_BTM)

    @torch.inference_mode()
    def read(self, tokens_BT: Tensor, cache: Cache, *, positions_BT: Tensor | None = None) -> Tensor:
        if positions_BT is None:
            positions_BT = cache.next_positions_B[:, None] + torch.arange(tokens_BT.shape[1], device=self.device)
        tokens_BT, positions_BT = tokens_BT.to(self.device), positions_BT.to(self.device)
        last = (tokens_BT.shape[1] - 1) // CHUNK * CHUNK
        for start in range(0, last, CHUNK):
            chunk = slice(start, start + CHUNK)
            self.decoder.hidden(tokens_BT[:, chunk], positions_BT[:, chunk], cache)
        logits: Tensor = self.decoder(tokens_BT[:, last:], positions_BT[:, last:], cache, keep=slice(-1, None))
        return logits[:, 0]

    @torch.inference_mode()
    def prefill(self, text: Sequence[int]) -> Prefix:
        # In one layout whatever `caching` says: sums in another order of columns differ in their last bits.
        cache = make_cache(self.spec, replace(self.caching, layout="auto"), 1, len(text), self.dtype, self.device)
        tokens_1T = torch.tensor([list(text)], device=self.device)
        positions_1T = torch.arange(len(text), device=self.device)[None]
        for start in range(0, len(text), CHUNK):
            chunk = slice(start, start + CHUNK)
            self.decoder.hidden(tokens_1T[:, chunk], positions_1T[:, chunk], cache)
        return cache.prefix(0)
