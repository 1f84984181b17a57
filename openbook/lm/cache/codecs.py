"""How a head's key or value is written down: as it is, or in 8 or 4 bits a number.

A codec turns vectors `[..., D]` into parts with the same leading dimensions, so every layout stores any codec without
knowing it. Scales are bf16: they have fp32's range, so no key is too large for them, and cost two bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.spec import require

Parts = tuple[Tensor, ...]
LEAST = torch.finfo(torch.bfloat16).tiny
"""The smallest scale, so that a vector of zeros divides by something."""
UP = 1 + 2.0**-7
"""bf16 rounds by at most 2⁻⁸ of a number: what is raised by this first is not rounded below what it was."""


class Codec(Protocol):
    """One way of writing down vectors of D numbers. Registered by `@codec(name)`."""

    name: ClassVar[str]

    def widths(self, head_dim: int, dtype: torch.dtype) -> tuple[tuple[int, torch.dtype], ...]:
        """Last dimension and dtype of each part. Raises `SpecError` for a D that it cannot write."""

    def encode(self, x: Tensor) -> Parts:
        """`[..., D]` to parts `[..., width]`."""

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        """Parts to `[..., D]` in this dtype."""

    def bound(self, x: Tensor) -> Tensor:
        """`[..., 1]`: how far any number of a vector may come back from where it was, decoded to fp32."""

    def bytes(self, head_dim: int, dtype: torch.dtype) -> int:
        """Bytes of one vector."""

    def finite(self, parts: Parts, dtype: torch.dtype) -> bool:
        """Whether parts of unknown origin decode to numbers: neither infinite nor undefined, nor close to overflow."""


class _Sized:
    """What a codec's `bytes` and `finite` follow from, unless it knows a faster way."""

    name: ClassVar[str]

    def widths(self, head_dim: int, dtype: torch.dtype) -> tuple[tuple[int, torch.dtype], ...]:
        raise NotImplementedError

    def bytes(self, head_dim: int, dtype: torch.dtype) -> int:
        return sum(width * kind.itemsize for width, kind in self.widths(head_dim, dtype))

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        raise NotImplementedError

    def finite(self, parts: Parts, dtype: torch.dtype) -> bool:
        return _largest(self.decode(parts, dtype)) < math.inf


def _largest(x: Tensor) -> float:
    """The largest magnitude of `x`; infinite where an element is no number."""
    if not x.numel():
        return 0.0
    low, high = x.aminmax()  # both are NaN if any element is; thirty times as fast as `isfinite` on bf16
    largest = max(-float(low), float(high))
    return math.inf if math.isnan(largest) else largest


_codecs: dict[str, Codec] = {}
Kind = TypeVar("Kind", bound=Callable[[], Codec])


def codec(name: str) -> Callable[[Kind], Kind]:
    """Register the decorated class (no arguments) under a name."""

    def register(kind: Kind) -> Kind:
        kind.name = name  # type: ignore[attr-defined]
        _codecs[name] = kind()
        return kind

    return register


def codec_named(name: str) -> Codec:
    """The codec of this name. Raises `Fault` for an unknown one."""
    if name not in _codecs:
        raise Fault(f"no codec of keys and values is called {name!r}; known are {', '.join(sorted(_codecs))}")
    return _codecs[name]


def codec_names() -> tuple[str, ...]:
    """What is registered."""
    return tuple(sorted(_codecs))


@codec("raw")
class Raw(_Sized):
    """The numbers themselves, in the model's dtype."""

    def widths(self, head_dim: int, dtype: torch.dtype) -> tuple[tuple[int, torch.dtype], ...]:
        return ((head_dim, dtype),)

    def encode(self, x: Tensor) -> Parts:
        return (x,)

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        return parts[0].to(dtype)

    def bound(self, x: Tensor) -> Tensor:
        return x.new_zeros((*x.shape[:-1], 1))

    def finite(self, parts: Parts, dtype: torch.dtype) -> bool:
        return _largest(parts[0]) < math.inf


@codec("int8")
class Int8(_Sized):
    """Whole numbers from −127 to 127 times a scale a head and token, `max|x| / 127`: off by half a scale at most."""

    def widths(self, head_dim: int, dtype: torch.dtype) -> tuple[tuple[int, torch.dtype], ...]:
        return (head_dim, torch.int8), (1, torch.bfloat16)

    def encode(self, x: Tensor) -> Parts:
        x = x.float()
        scale = self._scale(x)
        return (x / scale.float()).round().to(torch.int8), scale

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        return parts[0].to(dtype).mul_(parts[1].to(dtype))  # in place: a slot is as large as a text is long

    def bound(self, x: Tensor) -> Tensor:
        return self._scale(x.float()).float() * (0.5 + 1e-4)

    def finite(self, parts: Parts, dtype: torch.dtype) -> bool:
        return _largest(parts[1]) * 129 < torch.finfo(dtype).max  # a step may be -128, and the product is rounded

    @staticmethod
    def _scale(x: Tensor) -> Tensor:
        return (x.abs().amax(-1, keepdim=True) * (UP / 127)).clamp(min=LEAST).to(torch.bfloat16)


@codec("int4")
class Int4(_Sized):
    """Whole numbers from 0 to 15, two a byte (the first half of D low, the second high), times a scale, plus a minimum.

    Scale `(max − min) / 15` and minimum are a head's and token's own: off by half a scale, or at the lowest numbers by
    what bf16 rounds off the minimum.
    """

    def widths(self, head_dim: int, dtype: torch.dtype) -> tuple[tuple[int, torch.dtype], ...]:
        require(
            head_dim % 2 == 0, f"the codec int4 packs two numbers a byte: an even head_dim, not {head_dim}; use int8"
        )
        return (head_dim // 2, torch.uint8), (1, torch.bfloat16), (1, torch.bfloat16)

    def encode(self, x: Tensor) -> Parts:
        x = x.float()
        scale, low = self._scale(x)
        steps = ((x - low.float()) / scale.float()).round().clamp(0, 15).to(torch.uint8)
        first, second = steps.chunk(2, dim=-1)
        return first | (second << 4), scale, low

    def decode(self, parts: Parts, dtype: torch.dtype) -> Tensor:
        packed, scale, low = parts
        steps = torch.cat((packed & 15, packed >> 4), dim=-1).to(dtype)
        return steps.mul_(scale.to(dtype)).add_(low.to(dtype))

    def bound(self, x: Tensor) -> Tensor:
        scale, low = self._scale(x.float())
        missed = (low.float() - x.float().amin(-1, keepdim=True)).clamp(min=0)
        rounded = 1e-6 * x.float().abs().amax(-1, keepdim=True)
        return torch.maximum(scale.float() * (0.5 + 1e-4), missed) + rounded

    def finite(self, parts: Parts, dtype: torch.dtype) -> bool:
        return _largest(parts[1]) * 16 + _largest(parts[2]) < torch.finfo(dtype).max

    @staticmethod
    def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
        low = x.amin(-1, keepdim=True).to(torch.bfloat16)
        span = x.amax(-1, keepdim=True) - low.float()
        return (span * (UP / 15)).clamp(min=LEAST).to(torch.bfloat16), low
