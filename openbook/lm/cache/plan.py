"""Who keeps what: one slot a producing layer, as wide as its widest reader needs.

A layer that reads another's keys (CLA) has no slot of its own, and a slot whose readers all have windows keeps no more
than the widest of them: so sharing and windows shrink what is allocated, not only what is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from openbook.lm.cache.codecs import Codec
from openbook.lm.spec import ModelSpec, require

Retention = tuple[int | None, int]
"""Window and pinned first positions: what of a text is still read later. Window None keeps everything."""


@dataclass(frozen=True)
class Slot:
    """Keys and values of one producing layer: `kv_heads` K of `head_dim` D, read by `readers` layers a forward."""

    producer: int
    kv_heads: int
    head_dim: int
    window: int | None
    pinned: int
    readers: int

    @property
    def retention(self) -> Retention:
        """Slots that agree in it hold the same positions."""
        return self.window, self.pinned

    def kept(self, length: int) -> list[int]:
        """The positions of a text of this length that are kept, in order: the pinned and the last `window`."""
        if self.window is None:
            return list(range(length))
        pinned = min(self.pinned, length)
        return [*range(pinned), *range(max(pinned, length - self.window), length)]

    def columns(self, capacity: int) -> int:
        """Positions a row has to hold at once if it may grow to `capacity`."""
        return capacity if self.window is None else min(capacity, self.pinned + self.window)

    def blocks(self, capacity: int, block: int) -> int:
        """Blocks of `block` positions a row has to hold at once: a window may begin and end inside one."""
        whole = -(-capacity // block)
        return whole if self.window is None else min(whole, -(-self.pinned // block) + -(-self.window // block) + 1)


@dataclass(frozen=True)
class Plan:
    """The slots of a model in the order of their producers, and the slot that each layer reads."""

    slots: tuple[Slot, ...]
    slot_of_layer: tuple[int, ...]

    def columns(self, layout: str, capacity: int, block: int) -> Sequence[int]:
        """Positions a row's storage has in each slot."""
        if layout == "ring":
            return [slot.columns(capacity) for slot in self.slots]
        if layout == "paged":
            return [slot.blocks(capacity, block) * block for slot in self.slots]
        return [capacity] * len(self.slots)

    def bytes(
        self, layout: str, codec: Codec, *, batch: int, capacity: int, dtype: torch.dtype, block: int = 16
    ) -> int:
        """Bytes of keys and values that a cache allocates: `batch · Σ over slots 2 · K · columns · bytes(D)`."""
        columns = self.columns(layout, capacity, block)
        return batch * sum(
            2 * s.kv_heads * n * codec.bytes(s.head_dim, dtype) for s, n in zip(self.slots, columns, strict=True)
        )

    def bytes_per_token(self, codec: Codec, dtype: torch.dtype) -> int:
        """Bytes one token needs while every slot keeps it; `ModelSpec.kv_bytes_per_token` for raw numbers."""
        return sum(2 * s.kv_heads * codec.bytes(s.head_dim, dtype) for s in self.slots)


def plan(spec: ModelSpec) -> Plan:
    """The plan of a spec. Raises `SpecError` for layers whose keys cannot be kept."""
    for index, layer in enumerate(spec.layers):
        require(
            layer.attention.causal, f"layer {index} also looks ahead; only causal attention can go on from kept keys"
        )
    readers = Counter(spec.slot_of_layer)
    slots = []
    for slot, (producer, (window, pinned)) in enumerate(zip(spec.producers, spec.retentions, strict=True)):
        attention, kept = spec.layers[producer].attention, 0 if window is None else pinned
        slots.append(Slot(producer, attention.kv_heads, attention.head_dim, window, kept, readers[slot]))
    return Plan(tuple(slots), spec.slot_of_layer)
