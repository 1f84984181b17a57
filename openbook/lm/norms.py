"""RMSNorm and LayerNorm over the last dimension."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.lm.spec import NormSpec


class OffsetRMSNorm(nn.Module):
    """RMSNorm (Zhang 2019) whose stored weight w is used as `offset + w`, in fp32 (Gemma: 1 + w)."""

    def __init__(self, spec: NormSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.full((width,), 1.0 - spec.offset))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.float() + self.spec.offset
        return F.rms_norm(x.float(), weight.shape, weight, self.spec.epsilon).to(x.dtype)


def build_norm(spec: NormSpec, width: int) -> nn.Module:
    """The norm a spec describes, over the last `width` numbers."""
    if spec.kind == "layer":
        return nn.LayerNorm(width, eps=spec.epsilon, bias=spec.bias)
    if spec.offset:
        return OffsetRMSNorm(spec, width)
    return nn.RMSNorm(width, eps=spec.epsilon)
