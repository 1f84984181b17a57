"""A dense cache seen in fixed shapes at fixed addresses, so that a step over it can be recorded once and replayed.

Shapes: B rows, K key/value heads, C capacity, D head dimension.
`DenseCache` reads the columns it holds, one more at every step. Here the whole rectangle is read at every step, and the
column that is written is a number on the device. Columns that hold nothing have position −1, so the mask, which is
computed from positions, hides them: every rule about who sees whom stays what it is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from openbook.lm.cache.codecs import Codec, Parts


class Storage(NamedTuple):
    """What a dense cache has allocated: the position in every column `[B, C]`, and the parts of every slot."""

    positions_BC: Tensor
    slots: tuple[Parts, ...]

    def alike(self, other: Storage) -> bool:
        """Whether the other, of a cache for the same model, is of the same shapes."""
        return self.positions_BC.shape == other.positions_BC.shape

    def copy_(self, other: Storage, length: int) -> None:
        """Hold what the first `length` columns of the other hold, and nothing else, in the memory that is here."""
        self.positions_BC.copy_(other.positions_BC)
        for parts, others in zip(self.slots, other.slots, strict=True):
            for part, given in zip(parts, others, strict=True):
                part[:, :, :, :length].copy_(given[:, :, :, :length])


class FixedView:
    """A `KeyValueCache` over a storage for one forward of one token a row, written to the column `column_1` says.

    It counts nothing: the `DenseCache` whose storage it is must `claim` the step.
    """

    def __init__(self, storage: Storage, column_1: Tensor, codec: Codec, dtype: torch.dtype) -> None:
        self._storage, self._column_1 = storage, column_1
        self._codec, self._dtype = codec, dtype

    @property
    def next_positions_B(self) -> Tensor:
        return self._storage.positions_BC.amax(1) + 1

    def extend(self, positions_BT: Tensor) -> None:
        self._storage.positions_BC.index_copy_(1, self._column_1, positions_BT)

    def positions(self, slot: int) -> Tensor:
        return self._storage.positions_BC

    def write(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        for side, x_BKTD in enumerate((k_BKTD, v_BKTD)):
            for held, new in zip(self._storage.slots[slot], self._codec.encode(x_BKTD), strict=True):
                held[side].index_copy_(2, self._column_1, new)

    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        k, v = self._codec.decode(self._storage.slots[slot], self._dtype)
        return k, v
