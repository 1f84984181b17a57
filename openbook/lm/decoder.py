"""The decoder: a causal stack with a next-token head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.lm.cache.dense import KeyValueCache, Transient
from openbook.lm.spec import ModelSpec, require
from openbook.lm.stack import Stack


class Decoder(Stack):
    """Next-token logits for a `ModelSpec` with a head."""

    def __init__(self, spec: ModelSpec) -> None:
        require(spec.head, "this spec has no next-token head; it describes an encoder (openbook.lm.encoder)")
        super().__init__(spec)
        self.head = None if spec.tied else nn.Linear(spec.width, spec.vocabulary, bias=False)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
        *,
        keep: slice = slice(None),
    ) -> Tensor:
        """fp32 logits `[B, T', V]` of the positions in `keep` (all by default).

        Without `positions_BT` the tokens follow what the cache holds. Without a cache nothing is kept.
        """
        cache = Transient(self.spec) if cache is None else cache
        if positions_BT is None:
            start = cache.length
            positions_BT = torch.arange(start, start + tokens_BT.shape[1], device=tokens_BT.device)[None]
            positions_BT = positions_BT.expand_as(tokens_BT)
        hidden_BTM = self.hidden(tokens_BT, positions_BT, cache)[:, keep]
        weight = self.embedding.weight if self.head is None else self.head.weight
        return F.linear(hidden_BTM, weight).float()
