"""The decoder: a causal stack with a next-token head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.lm.cache.protocol import KeyValueCache, Transient
from openbook.lm.spec import ModelSpec, require
from openbook.lm.stack import Memory, Stack


class Head(nn.Module):
    """From hidden states to fp32 logits: the embedding again where tied, a matrix of its own where not."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = None if spec.tied else nn.Parameter(torch.empty(spec.vocabulary, spec.width))
        self.bias = nn.Parameter(torch.zeros(spec.vocabulary)) if spec.head_bias else None
        if self.weight is not None and not self.weight.is_meta:
            nn.init.normal_(self.weight, std=spec.width**-0.5)

    def forward(self, hidden_BTM: Tensor, embedding_VM: Tensor) -> Tensor:
        if self.spec.logit_scale != 1.0:
            hidden_BTM = hidden_BTM * self.spec.logit_scale
        logits = F.linear(hidden_BTM, embedding_VM if self.weight is None else self.weight, self.bias).float()
        cap = self.spec.logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap


class Decoder(Stack):
    """Next-token logits for a `ModelSpec` with a head."""

    def __init__(self, spec: ModelSpec, embedding: nn.Embedding | None = None) -> None:
        require(spec.head, "this spec has no next-token head; it describes an encoder (openbook.lm.encoder)")
        super().__init__(spec, embedding)
        self.head = Head(spec)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
        *,
        memory: Memory | None = None,
        keep: slice | Sequence[int] = slice(None),
        tap_BTM: Tensor | None = None,
    ) -> Tensor:
        """fp32 logits `[B, T', V]` of the columns in `keep` (a slice or indices; all by default).

        Without `positions_BT` the tokens follow what the cache holds. Without a cache nothing is kept. `memory` is what
        cross-attention reads (`Stack.remember`). `tap_BTM`: see `Stack.hidden`.
        """
        cache = Transient(self.spec) if cache is None else cache
        if positions_BT is None:
            steps_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
            next_B1 = cache.next_positions_B[:, None].to(tokens_BT.device)
            positions_BT = (next_B1 + steps_T).expand_as(tokens_BT)
        columns = keep if isinstance(keep, slice) else list(keep)
        hidden_BTM = self.hidden(tokens_BT, positions_BT, cache, memory, tap_BTM)[:, columns]
        logits_BTV: Tensor = self.head(hidden_BTM, self.embedding.weight)
        return logits_BTV
