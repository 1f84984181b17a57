"""The reference backend: the modules of this room, in torch, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from openbook.lm.cache.dense import DenseCache, Prefix
from openbook.lm.decoder import Decoder
from openbook.lm.spec import ModelSpec


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bf16 on a GPU and on CPUs that multiply bf16 natively; elsewhere fp32, which is faster there."""
    if device.type == "cuda":
        return torch.bfloat16
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


class TorchRunner:
    """A `Decoder` with its weights, in one precision on one device (see `Runner`)."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder.eval()
        self.spec = decoder.spec
        self.dtype = decoder.embedding.weight.dtype
        self.device = decoder.embedding.weight.device

    @classmethod
    def load(
        cls, spec: ModelSpec, state: Iterable[tuple[str, Tensor]], device: torch.device | None = None
    ) -> TorchRunner:
        """Build the spec and give it these weights, which keep their dtype."""
        with torch.device("meta"):
            decoder = Decoder(spec)
        target = device or default_device()
        decoder.load_state_dict({name: tensor.to(target) for name, tensor in state}, assign=True)
        return cls(decoder)

    def cache(self, prefixes: Sequence[Prefix | None], room: int) -> DenseCache:
        return DenseCache.of_prefixes(self.spec, prefixes, room, self.dtype, self.device)

    @torch.inference_mode()
    def forward(self, tokens_BT: Tensor, cache: DenseCache | None = None, *, keep: slice = slice(None)) -> Tensor:
        tokens_BT = tokens_BT.to(self.device)
        if cache is None:
            logits: Tensor = self.decoder(tokens_BT, keep=keep)
            return logits
        steps = torch.arange(tokens_BT.shape[1], device=self.device)
        positions_BT = cache.next_positions_B[:, None] + steps
        logits = self.decoder(tokens_BT, positions_BT, cache, keep=keep)
        return logits

    @torch.inference_mode()
    def prefill(self, text: Sequence[int]) -> Prefix:
        cache = self.cache([None], room=len(text))
        positions_BT = torch.arange(len(text), device=self.device)[None]
        self.decoder.hidden(torch.tensor([list(text)], device=self.device), positions_BT, cache)
        return cache.prefix(0)
