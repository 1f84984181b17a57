"""What every layout shares: slots stored as a codec's parts, rows that are kept as prefixes and restored from them.

Shapes: B rows, T new tokens, S keys, K key/value heads, D head dimension, n positions of one row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.cache.codecs import Codec, Parts, codec_named
from openbook.lm.cache.places import Held, Places
from openbook.lm.cache.plan import Plan, Slot
from openbook.lm.cache.prefixes import Prefix


class Cache(ABC):
    """Keys and values of a batch of texts that go on (`KeyValueCache`); `capacity` bounds how far.

    A layout says where a position is kept: it allocates `self._slots`, and gives the methods below. Rows may differ in
    length; padding (−1) is never seen.
    """

    def __init__(
        self, plan: Plan, codec: Codec, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.plan, self.codec, self.capacity = plan, codec, capacity
        self.dtype, self.device = dtype, device
        self.next_positions_B = torch.zeros(batch, dtype=torch.long, device=device)
        self._slots: list[Parts] = []

    @abstractmethod
    def extend(self, positions_BT: Tensor) -> None:
        """See `KeyValueCache`. Raises `Fault` if the context is full."""

    @abstractmethod
    def positions(self, slot: int) -> Tensor:
        """See `KeyValueCache`."""

    @abstractmethod
    def write(self, slot: int, k_BKTD: Tensor, v_BKTD: Tensor) -> None:
        """See `KeyValueCache`."""

    @abstractmethod
    def read(self, slot: int) -> tuple[Tensor, Tensor]:
        """See `KeyValueCache`."""

    @abstractmethod
    def held(self) -> list[Held]:
        """Where all is that the rows hold, a group of slots each; only positions before `next_positions_B` count."""

    @abstractmethod
    def places(self, columns: int) -> list[Places]:
        """Where the new tokens that `extend` announced last belong, `columns` a row; in the order of `held`."""

    @property
    def parts(self) -> list[Parts]:
        """The memory of each slot."""
        return self._slots

    @abstractmethod
    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows only, in this order; a row may be taken more than once (beams, branches)."""

    @torch.inference_mode()
    def retract(self, count: int) -> None:
        """Forget the `count` latest positions of every row, as if they had never been read.

        Raises `ValueError`, and forgets nothing, where a row is shorter, or where they pushed tokens out of a window
        that would be seen again (`evicts` foretells it).
        """
        lengths_B = self.next_positions_B - count
        if count < 0 or bool((lengths_B < 0).any()):
            raise ValueError(f"{count} tokens cannot be taken back from rows of {self.next_positions_B.tolist()}")
        if count:
            self._cut(lengths_B)
            self.next_positions_B = lengths_B

    def evicts(self, count: int) -> bool:
        """Whether reading `count` more tokens a row gives up what `retract` would have to bring back."""
        return False

    @abstractmethod
    def _cut(self, lengths_B: Tensor) -> None:
        """Forget each row's positions from its length on; or raise `ValueError` and forget nothing."""

    @abstractmethod
    def _take(self, slot: int, row: int, positions: Sequence[int]) -> Parts | None:
        """A copy of these positions of a row, a tensor `[2, K, n, width]` a part; None if one is not there."""

    @abstractmethod
    def _place(self, slot: int, row: int, positions: Sequence[int], parts: Parts) -> None:
        """Put such a copy into an empty row."""

    @property
    def batch(self) -> int:
        """B, the rows."""
        return self.next_positions_B.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values, as `Plan.bytes` foretells."""
        return sum(part.nbytes for parts in self._slots for part in parts)

    def prefix(self, row: int) -> Prefix:
        """A copy of one row, from position 0 on without gaps, to be kept and restored elsewhere."""
        length = int(self.next_positions_B[row])
        slots = []
        for index, slot in enumerate(self.plan.slots):
            parts = self._take(index, row, slot.kept(length))
            if parts is None:
                raise RuntimeError("only a row without gaps, from position 0 on, can be kept as a prefix")
            slots.append(parts)
        return Prefix(length, self.codec.name, tuple(slots))

    def restore(self, row: int, prefix: Prefix) -> None:
        """Begin an empty row with a prefix, written anew if it was kept under another codec."""
        if int(self.next_positions_B[row]):
            raise RuntimeError(f"row {row} holds a text; only an empty row can begin with a prefix")
        if prefix.length > self.capacity:
            raise Fault(f"a prefix of {prefix.length} tokens does not fit in a context of {self.capacity}")
        for index, (slot, parts) in enumerate(zip(self.plan.slots, prefix.whole().slots, strict=True)):
            self._place(index, row, slot.kept(prefix.length), self._recoded(parts, prefix.codec))
        self.next_positions_B[row] = prefix.length

    def _recoded(self, parts: Parts, name: str) -> Parts:
        parts = tuple(part.to(self.device) for part in parts)
        if name == self.codec.name and name != "raw":
            return parts
        return self.codec.encode(codec_named(name).decode(parts, self.dtype))

    def _allocate(self, slot: Slot, *lead: int) -> Parts:
        """Zeros `[2, *lead, width]` (keys, values) a part."""
        return tuple(
            torch.zeros(2, *lead, width, dtype=kind, device=self.device)
            for width, kind in self.codec.widths(slot.head_dim, self.dtype)
        )

    def _decoded(self, parts: Parts) -> tuple[Tensor, Tensor]:
        """Keys and values of parts `[2, ...]`, in the model's dtype."""
        k, v = self.codec.decode(parts, self.dtype)
        return k, v

    def _passed(self, x: Tensor) -> tuple[Parts, Tensor]:
        """New keys or values as they are stored, and as they are read back."""
        parts = self.codec.encode(x)
        return parts, self.codec.decode(parts, self.dtype)

    def _advance(self, positions_BT: Tensor) -> None:
        if positions_BT.shape[1]:
            self.next_positions_B = torch.maximum(self.next_positions_B, positions_BT.amax(1) + 1)

    def _refuse_beyond(self, top: int) -> None:
        if top > self.capacity:
            raise Fault(
                f"the context is full: {top} tokens do not fit in {self.capacity}; "
                "ask for fewer tokens or shorter passages"
            )
