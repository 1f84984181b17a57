"""Where a token stands: rotary embedding and its scalings, sinusoids, and what a distance adds (ALiBi, T5).

Shapes: B batch, T queries or positions, S keys, H heads, D head dimension, d = half of the dimensions that turn, M
model width. Tables are made in fp32 whatever the model's dtype.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openbook.lm.rules import SpecError, mask_rule, position_bias, require, rope_scaling
from openbook.lm.spec import RopeSpec


class Rotary(NamedTuple):
    """Cosines and sines of one forward's positions, `[B, T, 1, 2d]`, in the model's dtype."""

    cos_BT1D: Tensor
    sin_BT1D: Tensor


def frequencies(rope: RopeSpec, head_dim: int, longest: int) -> tuple[Tensor, float]:
    """Radians a position for each of the d pairs, `base^(−2i/D)` scaled, fp32 `[d]`; and a factor of the tables.

    `longest` is how many positions the text has so far: only dynamic and longrope ask (Su 2021, arXiv 2104.09864).
    """
    dims = head_dim if rope.dims is None else rope.dims
    if rope.scaling is None:
        return plain(rope.base, dims), 1.0
    scaled: tuple[Tensor, float] = rope_scaling.call(rope.scaling, rope, dims, longest)
    return scaled


MOST_DIMS = 1 << 16  # of a head; a scaling of more is not tried before the weights say that it is so


@lru_cache(maxsize=256)
def check_scaling(rope: RopeSpec, head_dim: int) -> None:
    """Refuse a scaling that does not give every pair of a head a frequency, short text or long."""
    dims, scaling = head_dim if rope.dims is None else rope.dims, rope.scaling
    if scaling is None or dims > MOST_DIMS:
        return
    for longest in (1, 1 << 20):
        try:
            with torch.device("cpu"):
                f, factor = frequencies(rope, head_dim, longest)
        except SpecError:
            raise
        except (ArithmeticError, ValueError) as error:
            raise SpecError(f"rope scaling {scaling.name} of {dims} dimensions cannot be computed: {error}") from error
        require(
            f.shape == (dims // 2,) and bool(f.isfinite().all()) and math.isfinite(factor),
            f"rope scaling {scaling.name} does not give each pair of {dims} dimensions a finite frequency",
        )


def plain(base: float, dims: int, device: torch.device | None = None) -> Tensor:
    """`base^(−2i/dims)`, fp32 `[dims/2]`."""
    exponents = torch.arange(0, dims, 2, dtype=torch.float32, device=device) / dims
    return 1.0 / (base**exponents)


def rotary(positions_BT: Tensor, frequencies_d: Tensor, factor: float, dtype: torch.dtype) -> Rotary:
    """The tables for these absolute positions, times `factor`."""
    angles = positions_BT[..., None].float() * frequencies_d
    angles = torch.cat((angles, angles), dim=-1)[:, :, None]
    return Rotary((angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype))


def rotate(x_BTHD: Tensor, table: Rotary) -> Tensor:
    """Turn each pair (x_i, x_{i+d}) by its position's angle; dimensions past 2d stay."""
    dims = table.cos_BT1D.shape[-1]
    turned, rest = x_BTHD[..., :dims], x_BTHD[..., dims:]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * table.cos_BT1D + torch.cat((-second, first), dim=-1) * table.sin_BT1D
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def sinusoids(positions_BT: Tensor, width: int) -> Tensor:
    """`sin(p·f_i)` at even dimensions, `cos(p·f_i)` at odd ones, fp32 `[B, T, M]` (Vaswani 2017, section 3.5)."""
    angles = positions_BT[..., None].float() * plain(10_000.0, width, positions_BT.device)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def _positive(**numbers: float | bool | tuple[float, ...]) -> None:
    for name, number in numbers.items():
        least = min(number, default=0) if isinstance(number, tuple) else number
        require(isinstance(number, bool) or least > 0, f"rope scaling has {name} {number}; it must be above 0")


@rope_scaling("linear", check=_positive)
def linear(rope: RopeSpec, dims: int, longest: int, *, factor: float) -> tuple[Tensor, float]:
    """Positions interpolated: every frequency divided by `factor` (Chen 2023, arXiv 2306.15595)."""
    return plain(rope.base, dims) / factor, 1.0


@rope_scaling("dynamic", check=_positive)
def dynamic(rope: RopeSpec, dims: int, longest: int, *, factor: float, original: int) -> tuple[Tensor, float]:
    """NTK-aware scaling of the base, only as far as the text is longer than `original` positions.

    Past `original` the frequencies change as the text grows, while cached keys keep those they were turned by.
    """
    if dims == 2:  # one pair, which turns at 1 whatever the base
        return plain(rope.base, dims), 1.0
    stretch = factor * max(longest, original) / original - (factor - 1)
    return plain(rope.base * stretch ** (dims / (dims - 2)), dims), 1.0


def _llama3_bands(*, factor: float, low: float, high: float, original: int) -> None:
    _positive(factor=factor, original=original)
    require(high > low, f"llama3 rope scaling needs high ({high}) above low ({low})")


@rope_scaling("llama3", check=_llama3_bands)
def llama3(
    rope: RopeSpec, dims: int, longest: int, *, factor: float, low: float, high: float, original: int
) -> tuple[Tensor, float]:
    """Llama 3.1: by wavelength λ, keep the fast pairs (λ < original/high), divide the slow ones (λ > original/low)
    by `factor`, and blend linearly in 1/λ between."""
    f = plain(rope.base, dims)
    turns = original * f / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - keep) * f / factor + keep * f, 1.0


@rope_scaling("yarn", check=_positive)
def yarn(
    rope: RopeSpec,
    dims: int,
    longest: int,
    *,
    factor: float,
    original: int,
    table_factor: float,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
) -> tuple[Tensor, float]:
    """YaRN (Peng 2023, arXiv 2309.00071): pairs that turn more than `fast` times within `original` positions are
    kept, those under `slow` turns divided by `factor`, with a ramp between; the tables are multiplied."""

    def pair_turning(times: float) -> float:
        return dims * math.log(original / (times * 2 * math.pi)) / (2 * math.log(rope.base))

    low, high = pair_turning(fast), pair_turning(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    high = high + 0.001 if high == low else high  # a step where the ramp has no length
    divide = ((torch.arange(dims // 2, dtype=torch.float32) - low) / (high - low)).clamp(0.0, 1.0)
    f = plain(rope.base, dims)
    return f / factor * divide + f * (1 - divide), table_factor


@rope_scaling("longrope", check=_positive)
def longrope(
    rope: RopeSpec,
    dims: int,
    longest: int,
    *,
    short: tuple[float, ...],
    long: tuple[float, ...],
    original: int,
    table_factor: float,
) -> tuple[Tensor, float]:
    """LongRoPE (Ding 2024, arXiv 2402.13753): a divisor a pair, `long` once the text has more than `original`
    positions. Keys cached before keep the short ones, as everywhere this scaling is used with a cache."""
    factors = torch.tensor(long if longest > original else short, dtype=torch.float32)
    require(len(factors) == dims // 2, f"longrope has {len(factors)} factors for {dims // 2} pairs")
    return plain(rope.base, dims) / factors, table_factor


@mask_rule("chunked", check=lambda *, size: require(size >= 1, f"chunks of {size}; a chunk has 1 position or more"))
def chunked(q_BT1: Tensor, k_B1S: Tensor, *, size: int) -> Tensor:
    """Only keys of the query's own chunk of `size` positions (Llama 4's local layers)."""
    return q_BT1.div(size, rounding_mode="floor") == k_B1S.div(size, rounding_mode="floor")


class Alibi(nn.Module):
    """`−m_h · |q − k|`, slopes m_h a geometric series over the heads (Press 2022, arXiv 2108.12409)."""

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.slopes = [slope * scale for slope in alibi_slopes(heads)]
        self._slopes_H11: dict[torch.device, Tensor] = {}  # no buffer: what is built on meta never gets one's values

    def forward(self, distance_BTS: Tensor) -> Tensor:
        device = distance_BTS.device
        if device not in self._slopes_H11:  # once: a copy from the host makes it wait for the device
            with torch.inference_mode(False):
                self._slopes_H11[device] = torch.tensor(self.slopes, device=device)[:, None, None]
        return -self._slopes_H11[device] * distance_BTS[:, None].abs().float()


def alibi_slopes(heads: int) -> list[float]:
    """`2^(−8h/H)` for h = 1…H where H is a power of two; else those of the next lower power, then every other one of
    the next higher."""
    power = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8 * h / power) for h in range(1, power + 1)]
    return slopes + [2.0 ** (-4 * h / power) for h in range(1, 2 * (heads - power) + 1, 2)]


@position_bias("alibi")
def alibi(heads: int, *, scale: float = 1.0) -> nn.Module:
    """ALiBi; `scale` multiplies the slopes (Falcon adds them before it divides by √D)."""
    return Alibi(heads, scale)


class RelativeBias(nn.Module):
    """T5's learned bias a head and bucket of distance (Raffel 2020, arXiv 1910.10683, section 2.1).

    Half of the buckets are exact distances, the others grow logarithmically up to `max_distance`; `both_ways` gives
    one half of all buckets to keys after the query.
    """

    def __init__(self, heads: int, buckets: int, max_distance: int, both_ways: bool) -> None:
        super().__init__()
        self.buckets, self.max_distance, self.both_ways = buckets, max_distance, both_ways
        self.weight = nn.Parameter(torch.zeros(buckets, heads))

    def forward(self, distance_BTS: Tensor) -> Tensor:
        return self.weight[self.bucket(distance_BTS)].movedim(-1, 1).float()

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance q − k."""
        count = self.buckets // 2 if self.both_ways else self.buckets
        after = (distance < 0).long() * count if self.both_ways else 0
        away = distance.abs() if self.both_ways else distance.clamp(min=0)
        exact = count // 2
        grown = torch.log(away.float() / exact) / math.log(self.max_distance / exact) * (count - exact)
        far = (exact + grown.clamp(min=0).long()).clamp(max=count - 1)
        return after + torch.where(away < exact, away, far)


def _buckets(*, buckets: int, max_distance: int, both_ways: bool) -> None:
    least = 4 if both_ways else 2
    require(buckets >= least and buckets % least == 0, f"{buckets} buckets; give a multiple of {least}")
    exact = buckets // least
    require(max_distance > exact, f"max_distance is {max_distance}; it must be above the {exact} exact distances")


@position_bias("relative", check=_buckets)
def relative(heads: int, *, buckets: int = 32, max_distance: int = 128, both_ways: bool) -> nn.Module:
    """T5's relative bias."""
    return RelativeBias(heads, buckets, max_distance, both_ways)
