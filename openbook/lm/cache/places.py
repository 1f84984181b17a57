"""Where a cache keeps what it has, for who reads and writes its memory by itself.

`Cache.held` before a forward's `extend`, `Cache.places` after it: between them lies everything that a backend needs
which reads keys where they are and puts new ones there when it is done. Shapes: B rows, T new tokens, S columns, J
blocks a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

if TYPE_CHECKING:
    from openbook.lm.cache.prefixes import Prefix


class Begun(NamedTuple):
    """A row's first positions where they lie in somebody else's memory: `length` of them from `position` on, from
    `column` on in the prefix's tensors."""

    row: int
    prefix: Prefix
    column: int
    length: int
    position: int


class Held(NamedTuple):
    """What slots that hold the same positions have: `positions_BS`, −1 where there is nothing.

    Column s of row b lies at `[:, b, :, s]` of a part; with blocks at `[:, blocks_BJ[b, s // block], :, s % block]`.
    What rows have in front of that is `begun`, in the order of positions.
    """

    slots: tuple[int, ...]
    positions_BS: Tensor
    blocks_BJ: Tensor | None = None
    block: int = 0
    begun: Sequence[Begun] = ()


class Places(NamedTuple):
    """Where the new tokens of a forward belong: one after the other from column `start` on, or token t of row b in
    `columns_BT` (−1: it is not kept; with blocks `block · P + offset`). First the blocks `copies` (from, to) are
    copied."""

    start: int
    columns_BT: Tensor | None = None
    copies: tuple[Tensor, Tensor] | None = None
