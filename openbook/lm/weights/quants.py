"""Block quantisations of GGML, unpacked to float32.

A quantised tensor is a row of equal blocks; each holds a few weights as small integers and the scale (and minimum)
that turn them back into numbers. A kind is a function from the bytes of N blocks `raw_NB` (uint8) to their weights
`w_NW` (float32), registered with the size of its block; nothing else knows the kinds. Layouts: ggml-common.h.

Letters: N blocks, B bytes of a block, W weights of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openbook.errors import Fault

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

# Weights unpacked at a time: the float32 scratch of a chunk stays in the second-level cache.
CHUNK = 1 << 15

# Numbers of `ggml_type`, so that a kind that is not read can still be named.
KIND_NAMES: dict[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip


@dataclass(frozen=True)
class Quant:
    """One kind: `weights` numbers are stored in `bytes` bytes, and `unpack` turns raw_NB into w_NW."""

    name: str
    weights: int
    bytes: int
    unpack: Callable[[Bytes], Floats]


QUANTS: dict[str, Quant] = {}


def quant(name: str, *, weights: int, bytes: int) -> Callable[[Callable[[Bytes], Floats]], Callable[[Bytes], Floats]]:
    """Register the decorated function as how `name` is unpacked."""

    def register(unpack: Callable[[Bytes], Floats]) -> Callable[[Bytes], Floats]:
        QUANTS[name] = Quant(name, weights, bytes, unpack)
        return unpack

    return register


def kind_of(number: int) -> Quant:
    """The kind with this `ggml_type` number; a `Fault` names one that is not read, and those that are."""
    name = KIND_NAMES.get(number, f"number {number}")
    if name not in QUANTS:
        read = ", ".join(sorted(QUANTS))
        raise Fault(f"tensor kind {name} is not supported; take a file of the model whose kinds are among {read}")
    return QUANTS[name]


def dequantize(kind: Quant, raw: Bytes, out: torch.Tensor) -> None:
    """Unpack the bytes `raw` into the flat tensor `out` of any float dtype, a chunk at a time.

    Besides `out` it needs the memory of a few chunks, however big the tensor.
    """
    raw_NB = raw.reshape(-1, kind.bytes)
    step = max(1, CHUNK // kind.weights)
    with np.errstate(all="ignore"):  # a scale may be inf or NaN in a bad file; that is the file's value, not an error
        for start in range(0, len(raw_NB), step):
            w_NW = kind.unpack(raw_NB[start : start + step])
            first = start * kind.weights
            out[first : first + w_NW.size].copy_(torch.from_numpy(w_NW.reshape(-1)))


def _field(raw_NB: Bytes, start: int, dtype: Any, count: int = 1) -> NDArray[Any]:
    """`count` little-endian numbers at byte `start` of each block, [N, count]."""
    size = np.dtype(dtype).itemsize * count
    return np.ascontiguousarray(raw_NB[:, start : start + size]).view(dtype)


def _half(raw_NB: Bytes, start: int) -> Floats:
    """The half-precision number at byte `start` of each block, as float32 [N, 1]."""
    return _field(raw_NB, start, "<f2").astype(np.float32)


def _nibbles(packed_NP: Bytes, run: int) -> Bytes:
    """Four-bit numbers: of each `run` bytes first all low halves, then all high halves. [N, P] to [N, 2P]."""
    groups = packed_NP.reshape(len(packed_NP), -1, run)
    out = np.empty((*groups.shape[:2], 2, run), np.uint8)
    np.bitwise_and(groups, 15, out=out[:, :, 0])
    np.right_shift(groups, 4, out=out[:, :, 1])
    return out.reshape(len(packed_NP), -1)


def _affine(q_NW: NDArray[Any], scale_N1: Floats, add_N1: Floats | None = None) -> Floats:
    """`q · scale + add`, in float32 throughout and in place."""
    w_NW: Floats = q_NW.astype(np.float32)
    w_NW *= scale_N1
    if add_N1 is not None:
        w_NW += add_N1
    return w_NW


@quant("F32", weights=1, bytes=4)
def _f32(raw_NB: Bytes) -> Floats:
    return _field(raw_NB, 0, "<f4").copy()


@quant("F16", weights=1, bytes=2)
def _f16(raw_NB: Bytes) -> Floats:
    return _half(raw_NB, 0)


@quant("BF16", weights=1, bytes=2)
def _bf16(raw_NB: Bytes) -> Floats:
    wide: NDArray[Any] = _field(raw_NB, 0, "<u2").astype(np.uint32) << 16
    return np.asarray(wide.view(np.float32), np.float32)


@quant("Q4_0", weights=32, bytes=18)
def _q4_0(raw_NB: Bytes) -> Floats:
    return _affine(_nibbles(raw_NB[:, 2:], 16).view(np.int8) - np.int8(8), _half(raw_NB, 0))


@quant("Q4_1", weights=32, bytes=20)
def _q4_1(raw_NB: Bytes) -> Floats:
    return _affine(_nibbles(raw_NB[:, 4:], 16), _half(raw_NB, 0), _half(raw_NB, 2))


def _fifth_bits(raw_NB: Bytes, start: int) -> Bytes:
    """Bit w of the 32 at byte `start` is the fifth bit of weight w; returned as 0 or 16, [N, 32]."""
    bits = np.unpackbits(np.ascontiguousarray(raw_NB[:, start : start + 4]), axis=1, bitorder="little")
    return np.asarray(bits << 4, np.uint8)


@quant("Q5_0", weights=32, bytes=22)
def _q5_0(raw_NB: Bytes) -> Floats:
    q_NW = _nibbles(raw_NB[:, 6:], 16) | _fifth_bits(raw_NB, 2)
    return _affine(q_NW.view(np.int8) - np.int8(16), _half(raw_NB, 0))


@quant("Q5_1", weights=32, bytes=24)
def _q5_1(raw_NB: Bytes) -> Floats:
    q_NW = _nibbles(raw_NB[:, 8:], 16) | _fifth_bits(raw_NB, 4)
    return _affine(q_NW, _half(raw_NB, 0), _half(raw_NB, 2))


@quant("Q8_0", weights=32, bytes=34)
def _q8_0(raw_NB: Bytes) -> Floats:
    return _affine(raw_NB[:, 2:].view(np.int8), _half(raw_NB, 0))


def _six_bit_scales(packed_NC: Bytes) -> tuple[Floats, Floats]:
    """Eight scales and eight minima of six bits each from the 12 bytes of a K block, [N, 8] both.

    Bytes 0–3 hold scales 0–3 and 4–7 minima 0–3 in their low six bits; scales and minima 4–7 have their low four
    bits in the halves of bytes 8–11 and their high two in what bytes 0–7 left over.
    """
    low, middle, rest = packed_NC[:, :4], packed_NC[:, 4:8], packed_NC[:, 8:12]
    scales = np.concatenate([low & 63, (rest & 15) | ((low >> 2) & 48)], axis=1)
    minima = np.concatenate([middle & 63, (rest >> 4) | ((middle >> 2) & 48)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _eight_groups(raw_NB: Bytes, q_NW: Bytes) -> Floats:
    """A K block of 8 groups of 32: `q · (d · scale) − (d_min · minimum)`, headers at bytes 0, 2 and 4–15."""
    scales_NG, minima_NG = _six_bit_scales(raw_NB[:, 4:16])
    w_NGI: Floats = q_NW.reshape(-1, 8, 32).astype(np.float32)
    w_NGI *= (_half(raw_NB, 0) * scales_NG)[:, :, None]
    w_NGI -= (_half(raw_NB, 2) * minima_NG)[:, :, None]
    return w_NGI.reshape(-1, 256)


@quant("Q4_K", weights=256, bytes=144)
def _q4_k(raw_NB: Bytes) -> Floats:
    return _eight_groups(raw_NB, _nibbles(raw_NB[:, 16:], 32))


@quant("Q5_K", weights=256, bytes=176)
def _q5_k(raw_NB: Bytes) -> Floats:
    # Bit g of high byte i is the fifth bit of weight i in group g.
    shifts = np.arange(8, dtype=np.uint8)[None, :, None]
    high_NGI = ((raw_NB[:, None, 16:48] >> shifts) & 1) << 4
    return _eight_groups(raw_NB, _nibbles(raw_NB[:, 48:], 32) | high_NGI.reshape(-1, 256).astype(np.uint8))


def _pairs(packed_NP: Bytes, run: int) -> Bytes:
    """Two-bit numbers: of each `run` bytes first all lowest pairs, then the next. [N, P] to [N, 4P]."""
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[None, None, :, None]
    groups = packed_NP.reshape(len(packed_NP), -1, 1, run)
    return np.asarray((groups >> shifts) & 3, np.uint8).reshape(len(packed_NP), -1)


@quant("Q2_K", weights=256, bytes=84)
def _q2_k(raw_NB: Bytes) -> Floats:
    # 16 groups of 16: a scale in the low half of a byte, a minimum in the high one.
    w_NGI: Floats = _pairs(raw_NB[:, 16:80], 32).reshape(-1, 16, 16).astype(np.float32)
    w_NGI *= (_half(raw_NB, 80) * (raw_NB[:, :16] & 15).astype(np.float32))[:, :, None]
    w_NGI -= (_half(raw_NB, 82) * (raw_NB[:, :16] >> 4).astype(np.float32))[:, :, None]
    return w_NGI.reshape(-1, 256)


@quant("Q3_K", weights=256, bytes=110)
def _q3_k(raw_NB: Bytes) -> Floats:
    # Bit j of high byte i is the third bit of weight i in group j of 32; where it is not set, 4 is taken away.
    shifts = np.arange(8, dtype=np.uint8)[None, :, None]
    high_NW = (((raw_NB[:, None, :32] >> shifts) & 1) << 2).reshape(-1, 256)
    q_NW = (_pairs(raw_NB[:, 32:96], 32) | high_NW).view(np.int8) - np.int8(4)
    # 16 scales of six bits: low four in the halves of eight bytes, high two in the pairs of four.
    low_NG = _nibbles(raw_NB[:, 96:104], 8)
    scales_NG = (low_NG | (_pairs(raw_NB[:, 104:108], 4) << 4)).view(np.int8) - np.int8(32)
    w_NGI: Floats = q_NW.reshape(-1, 16, 16).astype(np.float32)
    w_NGI *= (_half(raw_NB, 108) * scales_NG.astype(np.float32))[:, :, None]
    return w_NGI.reshape(-1, 256)


@quant("Q6_K", weights=256, bytes=210)
def _q6_k(raw_NB: Bytes) -> Floats:
    # Two halves of 128 weights; in each, 64 bytes of low nibbles and 32 bytes of four high bit pairs.
    high_NW = _pairs(raw_NB[:, 128:192], 32) << 4
    q_NW = (_nibbles(raw_NB[:, :128], 64) | high_NW).view(np.int8) - np.int8(32)
    w_NGI: Floats = q_NW.reshape(-1, 16, 16).astype(np.float32)
    scales_NG = raw_NB[:, 192:208].view(np.int8).astype(np.float32)
    w_NGI *= (_half(raw_NB, 208) * scales_NG)[:, :, None]
    return w_NGI.reshape(-1, 256)
