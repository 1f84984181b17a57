"""A stack of layers on an embedding: what decoders and encoders share.

Shapes: B batch, T positions, S keys, M model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openbook.lm.attention import Attention, KeyValue, additive, visible
from openbook.lm.cache.dense import KeyValueCache
from openbook.lm.feedforward import FeedForward
from openbook.lm.positions import Rotary, frequencies, rotary
from openbook.lm.spec import LayerSpec, ModelSpec, NormSpec, RopeSpec


def build_norm(spec: NormSpec, width: int) -> nn.Module:
    """RMSNorm or LayerNorm over the last dimension."""
    if spec.kind == "rms":
        return nn.RMSNorm(width, eps=spec.epsilon)
    return nn.LayerNorm(width, eps=spec.epsilon)


def build_embedding(count: int, width: int) -> nn.Embedding:
    """A table of vectors. On the meta device it is left without values: drawing them there, only to be replaced by a
    checkpoint's, makes torch import its compiler, 1.2 s of every start."""
    table = torch.empty(count, width)
    if not table.is_meta:
        nn.init.normal_(table)
    return nn.Embedding(count, width, _weight=table)


class Layer(nn.Module):
    """Attention and feed-forward, each with its residual and its norm before or after."""

    def __init__(self, spec: LayerSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.key_value = KeyValue(spec.attention, width) if spec.attention.kv_from is None else None
        self.attention = Attention(spec.attention, width)
        self.feed_forward = FeedForward(spec.feed_forward, width)
        self.attention_norm = build_norm(spec.norm, width)
        self.feed_forward_norm = build_norm(spec.norm, width)

    def forward(self, x: Tensor, slot: int, cache: KeyValueCache, mask: Tensor, table: Rotary | None) -> Tensor:
        pre = self.spec.norm.place == "pre"
        inner = self.attention_norm(x) if pre else x
        if self.key_value is not None:
            cache.write(slot, *self.key_value(inner, table))
        x = x + self.attention(inner, cache.read(slot), mask, table)
        if pre:
            out: Tensor = x + self.feed_forward(self.feed_forward_norm(x))
            return out
        x = self.attention_norm(x)
        out = self.feed_forward_norm(x + self.feed_forward(x))
        return out


class Stack(nn.Module):
    """Embeddings, layers and the last norm. The cache decides what earlier text is seen; nothing is hidden here."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = build_embedding(spec.vocabulary, spec.width)
        self.positions = build_embedding(spec.max_positions, spec.width) if spec.learned_positions else None
        self.token_types = build_embedding(spec.token_types, spec.width) if spec.token_types else None
        self.embedding_norm = build_norm(spec.embedding_norm, spec.width) if spec.embedding_norm else None
        self.layers = nn.ModuleList(Layer(layer, spec.width) for layer in spec.layers)
        self.norm = build_norm(spec.final_norm, spec.width) if spec.final_norm else None
        # Layer → slot of the cache: a reader uses its producer's.
        slots = {layer: slot for slot, layer in enumerate(spec.producers)}
        sources = (layer.attention.kv_from for layer in spec.layers)
        self.slots = [slots[index if source is None else source] for index, source in enumerate(sources)]

    def hidden(self, tokens_BT: Tensor, positions_BT: Tensor, cache: KeyValueCache) -> Tensor:
        """Hidden states `[B, T, M]` of these tokens after what the cache holds; their keys are added to it.

        A position of −1 marks padding: it is embedded as position 0, seen by nobody, and its output means nothing.
        """
        k_positions_BS = cache.extend(positions_BT)
        # Padding is treated as a query at position 0: a row that sees no key at all would be NaN, and spread.
        positions_BT = positions_BT.clamp(min=0)
        x = self._embed(tokens_BT, positions_BT)
        masks: dict[tuple[bool, int | None, int], Tensor] = {}
        tables: dict[tuple[RopeSpec, int], Rotary] = {}
        for layer, spec, slot in zip(self.layers, self.spec.layers, self.slots, strict=True):
            attention = spec.attention
            groups = attention.heads // attention.kv_heads
            rule = (*attention.rule, groups)
            if rule not in masks:
                seen = visible(positions_BT, k_positions_BS, causal=attention.causal, window=attention.window)
                masks[rule] = additive(seen, groups, like=x)
            table = None
            if attention.rope is not None:
                key = (attention.rope, attention.head_dim)
                if key not in tables:
                    tables[key] = rotary(positions_BT, frequencies(*key).to(x.device), x.dtype)
                table = tables[key]
            x = layer(x, slot, cache, masks[rule], table)
        return x if self.norm is None else self.norm(x)

    def _embed(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        x: Tensor = self.embedding(tokens_BT)
        if self.positions is not None:
            x = x + self.positions(positions_BT)
        if self.token_types is not None:
            x = x + self.token_types.weight[0]
        return x if self.embedding_norm is None else self.embedding_norm(x)
