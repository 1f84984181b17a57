"""A matrix as a GGUF file packs it: rows of blocks, which may be permuted and cut without being unpacked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openbook.lm.weights.quants import QUANTS, dequantize


@dataclass(frozen=True)
class Blocks:
    """`raw` uint8 `[..., rows, bytes of a row]` of one kind; `columns` numbers a row."""

    kind: str
    raw: Tensor
    columns: int

    def numbers(self) -> Tensor:
        """fp32 `[..., rows, columns]`."""
        out = torch.empty(*self.raw.shape[:-1], self.columns)
        dequantize(QUANTS[self.kind], self.raw.contiguous().numpy().reshape(-1), out.view(-1))
        return out

    def __getitem__(self, index: int) -> Blocks:
        """One matrix of a bank."""
        return Blocks(self.kind, self.raw[index], self.columns)
