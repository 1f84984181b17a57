"""A stack of layers on an embedding: what decoders and encoders share.

Shapes: B batch, T positions, S keys, H query heads, K key/value heads, Q rows of queries a K/V head, D head dimension,
M model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from openbook.errors import Fault
from openbook.lm.attention import Attention, KeyValue, additive, visible
from openbook.lm.cache.protocol import KeyValueCache
from openbook.lm.feedforward import FeedForward
from openbook.lm.norms import build_norm
from openbook.lm.positions import Rotary, frequencies, rotary, sinusoids
from openbook.lm.rules import position_bias
from openbook.lm.spec import AttentionSpec, ExpertsSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec

if TYPE_CHECKING:
    from openbook.lm.experts import Experts


def build_embedding(count: int, width: int) -> nn.Embedding:
    """A table of vectors. On the meta device it is left without values: drawing them there, only to be replaced by a
    checkpoint's, makes torch import its compiler, 1.2 s of every start."""
    table = torch.empty(count, width)
    if not table.is_meta:
        nn.init.normal_(table)
    return nn.Embedding(count, width, _weight=table)


def build_feed_forward(spec: FeedForwardSpec | ExpertsSpec, width: int) -> nn.Module:
    """One feed-forward, or a mixture of them."""
    if isinstance(spec, ExpertsSpec):
        from openbook.lm.experts import Experts

        return Experts(spec, width)
    return FeedForward(spec, width)


class Memory(NamedTuple):
    """What cross-attention reads: keys and values `[B, K, S, D]` a layer, made once; positions `[B, S]`, −1 padding."""

    keys_values: tuple[tuple[Tensor, Tensor], ...]
    positions_BS: Tensor

    def select(self, rows: Sequence[int]) -> Memory:
        """These rows only, in this order; a row may be taken more than once."""
        index = torch.tensor(list(rows), dtype=torch.long, device=self.positions_BS.device)
        kept = tuple((k.index_select(0, index), v.index_select(0, index)) for k, v in self.keys_values)
        return Memory(kept, self.positions_BS.index_select(0, index))


class Sight:
    """What the layers of one forward share: masks and rotary tables, each made once for all layers that agree.

    `fixed`: no shape and no choice of kernels may depend on the values of tensors. `tap_BTM`: see `Stack.hidden`.
    """

    def __init__(
        self,
        stack: Stack,
        positions_BT: Tensor,
        cache: KeyValueCache,
        memory: Memory | None,
        dtype: torch.dtype,
        fixed: bool = False,
        tap_BTM: Tensor | None = None,
    ) -> None:
        self.cache, self.memory, self.fixed, self.tap_BTM = cache, memory, fixed, tap_BTM
        self._stack, self._positions_BT, self._dtype = stack, positions_BT, dtype
        self._longest = int(positions_BT.max()) + 1 if stack.asks_length else 0
        self._tables: dict[tuple[RopeSpec, int], Rotary] = {}
        self._masks: dict[object, Tensor] = {}

    def table(self, spec: AttentionSpec) -> Rotary | None:
        """The rotary table of these positions, if the attention turns its heads."""
        if spec.rope is None:
            return None
        key = (spec.rope, spec.head_dim)
        if key not in self._tables:
            f, factor = self._stack.frequencies(spec.rope, spec.head_dim, self._longest, self._positions_BT.device)
            self._tables[key] = rotary(self._positions_BT, f, factor, self._dtype)
        return self._tables[key]

    def mask(self, spec: AttentionSpec, slot: int) -> Tensor:
        """The additive mask of these positions over what a slot of the cache holds."""
        shape = (spec.heads, spec.kv_heads) if spec.bias else (spec.groups, 1)
        key = (spec.sees, spec.bias, shape, self._stack.retentions[slot])
        if key not in self._masks:
            k_positions_BS = self.cache.positions(slot)
            seen_BTS = visible(self._positions_BT, k_positions_BS, spec)
            bias_BHTS = None
            if spec.bias is not None:
                distance_BTS = self._positions_BT[:, :, None] - k_positions_BS[:, None, :]
                bias_BHTS = self._stack.bias(spec, distance_BTS)
            self._masks[key] = additive(seen_BTS, bias_BHTS, spec, self._dtype)
        return self._masks[key]

    def memory_mask(self, spec: AttentionSpec) -> Tensor:
        """The additive mask over the memory: everything but its padding."""
        if self.memory is None:
            raise RuntimeError("this stack attends to a memory, and was given none")
        key = ("memory", spec.groups)
        if key not in self._masks:
            seen_BTS = (self.memory.positions_BS >= 0)[:, None].expand(-1, self._positions_BT.shape[1], -1)
            self._masks[key] = additive(seen_BTS, None, spec, self._dtype)
        return self._masks[key]


class Layer(nn.Module):
    """Attention, cross-attention if there is a memory, feed-forward; norms and residuals where the spec says."""

    def __init__(self, spec: LayerSpec, width: int, memory_width: int | None, index: int, slot: int) -> None:
        super().__init__()
        self.spec, self.index, self.slot = spec, index, slot
        self.attention_norm = build_norm(spec.norm, width)
        self.key_value = KeyValue(spec.attention, width) if spec.attention.kv_from is None else None
        self.attention = Attention(spec.attention, width)
        if spec.cross is not None and memory_width is not None:
            self.cross_norm = build_norm(spec.norm, width)
            self.cross_key_value = KeyValue(spec.cross, memory_width)
            self.cross = Attention(spec.cross, width)
        if spec.place != "parallel_one_norm":
            self.feed_forward_norm = build_norm(spec.norm, width)
        self.feed_forward = build_feed_forward(spec.feed_forward, width)
        if spec.place == "sandwich":
            self.attention_post_norm = build_norm(spec.norm, width)
            self.feed_forward_post_norm = build_norm(spec.norm, width)

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        place, cross = self.spec.place, self.spec.cross is not None
        n = x if place == "post" else self.attention_norm(x)
        attended = self._attend(n, sight)
        if place == "post":
            x = self.attention_norm(x + attended)
            x = self.cross_norm(x + self._cross(x, sight)) if cross else x
            x = self.feed_forward_norm(x + self._feed(x, sight))
        elif place == "sandwich":
            x = x + self.attention_post_norm(attended)
            x = x + self.feed_forward_post_norm(self._feed(self.feed_forward_norm(x), sight))
        elif place == "pre":
            x = x + attended
            x = x + self._cross(self.cross_norm(x), sight) if cross else x
            x = x + self._feed(self.feed_forward_norm(x), sight)
        else:
            m = n if place == "parallel_one_norm" else self.feed_forward_norm(x)
            x = x + attended + self._feed(m, sight)
        return x

    def _attend(self, n: Tensor, sight: Sight) -> Tensor:
        spec, table = self.spec.attention, sight.table(self.spec.attention)
        if self.key_value is not None:
            sight.cache.write(self.slot, *self.key_value(n, table))
        mask = sight.mask(spec, self.slot)  # before its keys are read, as caches ask
        out: Tensor = self.attention(n, sight.cache.read(self.slot), mask, table)
        return out

    def _feed(self, n: Tensor, sight: Sight) -> Tensor:
        if sight.tap_BTM is not None:
            sight.tap_BTM.copy_(n)  # each layer writes over the one before: the last one's stays
        if sight.fixed and isinstance(self.spec.feed_forward, ExpertsSpec):
            return cast("Experts", self.feed_forward).fixed(n)
        out: Tensor = self.feed_forward(n)
        return out

    def _cross(self, n: Tensor, sight: Sight) -> Tensor:
        if sight.memory is None or self.spec.cross is None:
            raise RuntimeError("this stack attends to a memory, and was given none")
        out: Tensor = self.cross(n, sight.memory.keys_values[self.index], sight.memory_mask(self.spec.cross))
        return out


class Stack(nn.Module):
    """Embeddings, layers and the last norm. The cache decides what earlier text is seen; nothing is hidden here.

    Another stack's `embedding` may be given, to be shared.
    """

    def __init__(self, spec: ModelSpec, embedding: nn.Embedding | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = build_embedding(spec.vocabulary, spec.width) if embedding is None else embedding
        rows = spec.max_positions + spec.position_offset
        self.positions = build_embedding(rows, spec.width) if spec.positions == "learned" else None
        self.token_types = build_embedding(spec.token_types, spec.width) if spec.token_types else None
        self.embedding_norm = build_norm(spec.embedding_norm, spec.width) if spec.embedding_norm else None
        self.biases = nn.ModuleList(position_bias.call(rule, heads) for rule, heads in spec.biases)
        self.layers = nn.ModuleList(
            Layer(layer, spec.width, spec.memory_width, index, slot)
            for index, (layer, slot) in enumerate(zip(spec.layers, spec.slot_of_layer, strict=True))
        )
        self.norm = build_norm(spec.final_norm, spec.width) if spec.final_norm else None
        self.retentions = spec.retentions
        scalings = (layer.attention.rope.scaling for layer in spec.layers if layer.attention.rope)
        self.asks_length = any(scaling.name in ("dynamic", "longrope") for scaling in scalings if scaling)
        self._frequencies: dict[object, tuple[Tensor, float]] = {}

    def frequencies(self, rope: RopeSpec, head_dim: int, longest: int, device: torch.device) -> tuple[Tensor, float]:
        """As `openbook.lm.positions.frequencies`, on that device.

        Kept there, unless they change as a text grows: a copy from the host makes it wait for the device.
        """
        key = (rope, head_dim, device)
        found = self._frequencies.get(key)
        if found is None:
            with torch.inference_mode(False):
                f, factor = frequencies(rope, head_dim, longest)
                found = f.to(device), factor
            if not self.asks_length:
                self._frequencies[key] = found
        return found

    def bias(self, spec: AttentionSpec, distance_BTS: Tensor) -> Tensor:
        """What these distances add, `[B, H, T, S]`; layers that agree share one table."""
        index = next(i for i, found in enumerate(self.spec.biases) if found == (spec.bias, spec.heads))
        added: Tensor = self.biases[index](distance_BTS)
        return added

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor,
        cache: KeyValueCache,
        memory: Memory | None = None,
        tap_BTM: Tensor | None = None,
    ) -> Tensor:
        """Hidden states `[B, T, M]` of these tokens after what the cache holds; their keys are added to it.

        A position of −1 marks padding: it is embedded as position 0, seen by nobody, and its output means nothing.
        Into `tap_BTM` goes what the last layer's feed-forward reads, 0 where there is padding.
        """
        cache.extend(positions_BT)
        given_BT, positions_BT = positions_BT, positions_BT.clamp(min=0)
        if self.positions is not None and positions_BT.numel():
            self.refuse_beyond(int(positions_BT.max()))
        hidden_BTM = self.run(tokens_BT, positions_BT, cache, memory, tap_BTM=tap_BTM)
        if tap_BTM is not None:
            tap_BTM.masked_fill_((given_BT < 0)[..., None], 0)
        return hidden_BTM

    def refuse_beyond(self, position: int) -> None:
        """Raise a `Fault` if the table of learned positions has no such position."""
        if self.positions is not None and position >= self.spec.max_positions:
            raise Fault(f"the text is longer than the {self.spec.max_positions} positions of this model; shorten it")

    def run(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor,
        cache: KeyValueCache,
        memory: Memory | None = None,
        *,
        fixed: bool = False,
        tap_BTM: Tensor | None = None,
    ) -> Tensor:
        """As `hidden`, of tokens that the cache was told of, at positions from 0 on that were found to be in range.

        `fixed`: with no shape and no choice of kernels that depends on the values of tensors.
        """
        x = self._embed(tokens_BT, positions_BT)
        sight = Sight(self, positions_BT, cache, memory, x.dtype, fixed, tap_BTM)
        for layer in self.layers:
            x = layer(x, sight)
        return x if self.norm is None else self.norm(x)

    def remember(self, encoded_BSM: Tensor, positions_BS: Tensor) -> Memory:
        """The keys and values that each layer's cross-attention reads, of an encoder's output."""
        layers = (cast("Layer", layer) for layer in self.layers)
        return Memory(tuple(layer.cross_key_value(encoded_BSM) for layer in layers), positions_BS)

    def _embed(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        x: Tensor = self.embedding(tokens_BT)
        if self.spec.embedding_scale != 1.0:
            # Rounded to the model's dtype, as Gemma was trained; on the CPU, so that no device is waited for.
            x = x * float(torch.tensor(self.spec.embedding_scale, dtype=x.dtype, device="cpu"))
        if self.positions is not None:
            x = x + self.positions(positions_BT + self.spec.position_offset)
        elif self.spec.positions == "sinusoidal":
            x = x + sinusoids(positions_BT, self.spec.width).to(x.dtype)
        if self.token_types is not None:
            x = x + self.token_types.weight[0]
        return x if self.embedding_norm is None else self.embedding_norm(x)
