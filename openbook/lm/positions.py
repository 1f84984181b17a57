"""Rotary position embedding (Su 2021, arXiv 2104.09864): pairs are the two halves of a head, tables in fp32.

Shapes: B batch, T positions, H heads, D head dimension.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from openbook.lm.spec import RopeScaling, RopeSpec


class Rotary(NamedTuple):
    """Cosines and sines of one forward's positions, `[B, T, 1, D]`, in the model's dtype."""

    cos_BT1D: Tensor
    sin_BT1D: Tensor


def frequencies(spec: RopeSpec, head_dim: int) -> Tensor:
    """Radians a position for each of the D/2 pairs: `base^(−2i/D)`, scaled. fp32 `[D/2]`."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain = 1.0 / (spec.base**exponents)
    return plain if spec.scaling is None else _scaled(plain, spec.scaling)


def _scaled(f: Tensor, scaling: RopeScaling) -> Tensor:
    if scaling.kind == "linear":
        return f / scaling.factor
    # Llama 3.1: by wavelength, keep the fast pairs, divide the slow ones, blend linearly (in 1/λ) between.
    wavelength = 2 * math.pi / f
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    keep = ((scaling.original_positions / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - keep) * f / scaling.factor + keep * f


def rotary(positions_BT: Tensor, frequencies_d: Tensor, dtype: torch.dtype) -> Rotary:
    """The tables for these absolute positions. Angles are computed in fp32 whatever the model's dtype."""
    angles = positions_BT[..., None].float() * frequencies_d
    angles = torch.cat((angles, angles), dim=-1)[:, :, None]
    return Rotary(angles.cos().to(dtype), angles.sin().to(dtype))


def rotate(x_BTHD: Tensor, table: Rotary) -> Tensor:
    """Turn each pair (x_i, x_{i+D/2}) by its position's angle."""
    first, second = x_BTHD.chunk(2, dim=-1)
    return x_BTHD * table.cos_BT1D + torch.cat((-second, first), dim=-1) * table.sin_BT1D
