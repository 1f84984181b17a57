"""What the kernels look up by position or distance: rotary tables, position vectors, biases; made here, in fp32.

So every scaling and bias that is registered (openbook/lm/positions.py) works natively. Tables grow with the text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.positions import frequencies, rotary, sinusoids
from openbook.lm.rules import position_bias
from openbook.lm.spec import ModelSpec

if TYPE_CHECKING:
    from openbook.lm.backends.native_build import Builder

LEAST = 512
"""Positions that a table begins with."""


class Tables:
    """The tables of one model, as long as its longest text so far."""

    def __init__(self, spec: ModelSpec, builder: Builder) -> None:
        from openbook.lm.backends.native_build import ropes

        self._spec, self._ropes = spec, ropes(spec)
        self._learned = builder.tensor("positions.weight") if spec.positions == "learned" else None
        self._type = builder.tensor("token_types.weight")[0] if spec.token_types else None
        self._biases = [self._module(index, builder) for index in range(len(spec.biases))]
        scalings = (rope.scaling for rope, _ in self._ropes)
        self._asks_length = any(scaling.name in ("dynamic", "longrope") for scaling in scalings if scaling)
        self._covered = 0
        self._kept: list[Tensor] = []

    def _module(self, index: int, builder: Builder) -> Any:
        rule, heads = self._spec.biases[index]
        module = position_bias.call(rule, heads)
        names = list(module.state_dict())
        module.load_state_dict({name: builder.tensor(f"biases.{index}.{name}") for name in names})
        return module

    def refuse(self, length: int) -> None:
        """Raise a `Fault` for a text of more positions than there are."""
        limit = self._spec.max_positions
        if self._learned is not None and length > limit:
            raise Fault(f"the text is longer than the {limit} positions of this model; shorten it")

    def reach(self, length: int) -> int:
        """What texts must have in common to be run by one set of tables: 0, or their length where that changes them."""
        return length if self._asks_length else 0

    def cover(self, engine: Any, length: int) -> None:
        """Have tables for texts of `length` positions, which are not refused."""
        if length > self._covered or (self._asks_length and length != self._covered):
            self._make(engine, length)

    @torch.inference_mode()
    def _make(self, engine: Any, length: int) -> None:
        limit = self._spec.max_positions
        rows = length if self._asks_length else max(LEAST, 1 << (length - 1).bit_length())
        kept: list[Tensor] = []
        positions_1T = torch.arange(rows)[None]
        for index, (rope, dim) in enumerate(self._ropes):
            f, factor = frequencies(rope, dim, length)
            table = rotary(positions_1T, f, factor, torch.float32)
            half = f.shape[0]
            both = torch.cat((table.cos_BT1D[0, :, 0, :half], table.sin_BT1D[0, :, 0, :half]), dim=-1).contiguous()
            engine.rope(index, both.data_ptr(), rows, 2 * half)
            kept.append(both)
        added = self._added(positions_1T)
        if added is not None:
            engine.added(added.data_ptr(), len(added), self._spec.width)
            kept.append(added)
        distances_11R = torch.arange(-rows, rows + 1)[None, None]
        for index, module in enumerate(self._biases):
            bias_HR = module(distances_11R)[0, :, 0].float().contiguous()
            engine.bias(index, bias_HR.data_ptr(), bias_HR.shape[1], rows)
            kept.append(bias_HR)
        self._kept, self._covered = kept, rows if self._learned is None else min(rows, limit)

    def _added(self, positions_1T: Tensor) -> Tensor | None:
        """What is added to the embedding at each position."""
        spec, added = self._spec, None
        if self._learned is not None:
            added = self._learned[spec.position_offset :]
        elif spec.positions == "sinusoidal":
            added = sinusoids(positions_1T, spec.width)[0]
        if self._type is not None:
            added = self._type.expand(positions_1T.shape[1], -1) if added is None else added + self._type
        return None if added is None else added.contiguous()
