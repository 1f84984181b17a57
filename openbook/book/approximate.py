"""An index over many keys: lists of keys about centres, a bit for each number of a key, which names candidates only.

Whoever asks computes the distances of the candidates again from the keys themselves (`openbook.book.neighbours`), so
what the index rounds away can lose a neighbour but never give one a wrong weight (Khandelwal 2020, section 3: exact
distances 16.12, quantised ones 16.65 perplexity on WikiText-103).

    r = key − centre,   s = ±1 by the signs of r,   x = query − centre
    |query − key|² = |r|² + |x|² − 2 r·x,   r·x ≈ |r|² / |r|₁ · s·x

(RaBitQ, Gao 2024, arXiv 2405.12497, without its rotation.) x is taken in sixteen steps, so that s·x is bits counted.
The centres are searched in the same way, then exactly. The native kernels do it (kernels/src/lists.cpp); without them
numpy does the same arithmetic, some fifty times slower.

Shapes: N keys, M width, L lists, W 64-bit words of a code, Q queries, C candidates.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.book.manifest import sync
from openbook.native import kernels

Float = npt.NDArray[np.float32]
Half = npt.NDArray[np.float16]
Codes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

LISTS = 4
"""Lists, in square roots of the number of keys."""
TRAINED_A_LIST = 32
"""Keys that each list is trained on; k-means gains little from more."""
ROUNDS = 10
"""Of k-means."""
ASSIGNED = 8_192
"""Keys whose nearest centre is looked for at once."""
STEPS = 15
"""Of a query's numbers less a centre's, from the least to the largest."""
SHORTLIST = 4
"""Centres whose distance is computed exactly, for each list that is looked into."""
SEED = 1234


@dataclass(frozen=True)
class Index:
    """Keys in lists. `starts_L` has one number more than there are lists; `sizes` are |r|² and |r|² / |r|₁."""

    centres_LM: Half
    starts_L: Rows
    rows_N: Rows
    codes_NW: Codes
    sizes_N2: Float

    def __post_init__(self) -> None:
        lists, width = self.centres_LM.shape
        rows, words = len(self.rows_N), (width + 63) // 64
        kinds: list[tuple[npt.NDArray[Any], type, tuple[int, ...]]] = [
            (self.centres_LM, np.float16, (lists, width)), (self.starts_L, np.int64, (lists + 1,)),
            (self.rows_N, np.int64, (rows,)), (self.codes_NW, np.uint64, (rows, words)),
            (self.sizes_N2, np.float32, (rows, 2)),
        ]  # fmt: skip
        starts = self.starts_L
        sound = lists and len(starts) and starts[0] == 0 and starts[-1] == rows and (np.diff(starts) >= 0).all()
        if not sound or any(part.dtype != kind or part.shape != shape for part, kind, shape in kinds):
            raise ValueError("the parts of an index do not fit together")

    @cached_property
    def _of_centres(self) -> tuple[Half, Codes, Float]:
        """The mean of the centres, and the centres' own codes about it."""
        mean_1M = self.centres_LM.astype(np.float32).mean(0, keepdims=True).astype(np.float16)
        centres_LM = self.centres_LM.astype(np.float32)
        return mean_1M, *encode(centres_LM, np.broadcast_to(mean_1M, centres_LM.shape))

    @cached_property
    def _native(self) -> Any:
        k = kernels()
        if k is None:
            return None
        mean_1M, codes_LW, sizes_L2 = self._of_centres
        lists, width = self.centres_LM.shape
        return k.Lists(
            width, lists, _at(mean_1M), _at(self.centres_LM), (_at(codes_LW), _at(sizes_L2)), _at(self.starts_L),
            _at(self.rows_N), (_at(self.codes_NW), _at(self.sizes_N2)),
        )  # fmt: skip

    def candidates(self, q_QM: Float, count: int, probes: int, live_N: npt.NDArray[np.bool_] | None = None) -> Rows:
        """Rows `[Q, C]` that may be among the nearest, −1 where there are no more; only `live_N` ones if given."""
        found_QC = np.full((len(q_QM), count), -1, np.int64)
        if self._native is not None:
            live = 0 if live_N is None else _at(live_N)
            self._native.candidates(_at(q_QM), len(q_QM), probes, count, live, _at(found_QC))
            return found_QC
        for q_M, found_C in zip(q_QM, found_QC, strict=True):
            rows = self._named(q_M, count, probes, live_N)
            found_C[: len(rows)] = rows
        return found_QC

    def _named(self, q_M: Float, count: int, probes: int, live_N: npt.NDArray[np.bool_] | None) -> Rows:
        """What the native kernels do, for one query."""
        mean_1M, codes_LW, sizes_L2 = self._of_centres
        about_L = estimate(q_M - mean_1M[0].astype(np.float32), codes_LW, sizes_L2)
        some = np.argsort(about_L, kind="stable")[: SHORTLIST * probes]
        apart = ((q_M - self.centres_LM[some].astype(np.float32)) ** 2).sum(1)
        rows, about = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for at in some[np.argsort(apart, kind="stable")[:probes]]:
            part = slice(int(self.starts_L[at]), int(self.starts_L[at + 1]))
            centre_M = self.centres_LM[at].astype(np.float32)
            rows.append(self.rows_N[part])
            about.append(estimate(q_M - centre_M, self.codes_NW[part], self.sizes_N2[part]))
        rows_C, about_C = np.concatenate(rows), np.concatenate(about)
        if live_N is not None:
            rows_C, about_C = rows_C[live_N[rows_C]], about_C[live_N[rows_C]]
        named: Rows = rows_C[np.lexsort((rows_C, about_C))[:count]]
        return named


def _at(array: npt.NDArray[Any]) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("the kernels take whole arrays")
    return int(array.ctypes.data)


def estimate(x_M: Float, codes_NW: Codes, sizes_N2: Float) -> Float:
    """Squared distances `[N]`, about, of a query less the centre to the keys with these codes."""
    low, high = x_M.min(), x_M.max()
    step = (high - low) / np.float32(STEPS) if high > low else np.float32(1)
    levels_M = np.clip(np.rint((x_M - low) * (np.float32(1) / step)), 0, STEPS)
    bits_NM = np.unpackbits(codes_NW.view(np.uint8), axis=1, count=len(x_M), bitorder="little")
    ones_N, sums_N = bits_NM.sum(1, dtype=np.float32), bits_NM.astype(np.float32) @ levels_M
    inner_N = 2 * (low * ones_N + step * sums_N) - (low * len(x_M) + step * levels_M.sum())
    found: Float = sizes_N2[:, 0] + (x_M * x_M).sum() - 2 * sizes_N2[:, 1] * inner_N
    return found


def encode(keys_NM: Float, centres_NM: npt.NDArray[Any]) -> tuple[Codes, Float]:
    """Codes `[N, W]` and sizes `[N, 2]` of keys, each about its centre."""
    r_NM = keys_NM - centres_NM.astype(np.float32)
    words = (r_NM.shape[1] + 63) // 64
    packed = np.zeros((len(r_NM), 8 * words), np.uint8)
    bits = np.packbits(r_NM > 0, axis=1, bitorder="little")
    packed[:, : bits.shape[1]] = bits
    square_N, sum_N = (r_NM * r_NM).sum(1), np.abs(r_NM).sum(1)
    sizes_N2 = np.stack([square_N, square_N / np.maximum(sum_N, np.finfo(np.float32).tiny)], 1)
    return packed.view("<u8"), sizes_N2


def lists_for(count: int) -> int:
    """How many lists so many keys are divided into, a power of two."""
    return 1 << max(2, round(math.log2(LISTS * math.sqrt(count))))


def train(sample_NM: Float, count: int) -> Index:
    """An empty index for about `count` keys like these: centres by k-means."""
    import faiss

    lists, width = min(lists_for(count), max(1, len(sample_NM) // 2)), sample_NM.shape[1]
    means: Any = faiss.Kmeans(width, lists, niter=ROUNDS, seed=SEED, min_points_per_centroid=1)
    means.train(np.ascontiguousarray(sample_NM))
    words = (width + 63) // 64
    nothing = np.empty(0, np.int64), np.empty((0, words), np.uint64), np.empty((0, 2), np.float32)
    return Index(means.centroids.astype(np.float16), np.zeros(lists + 1, np.int64), *nothing)


def extend(index: Index, chunks: Iterable[Float], first: int) -> Index:
    """The index with more keys, whose rows are numbered from `first` on."""
    lists = [np.repeat(np.arange(len(index.starts_L) - 1), np.diff(index.starts_L))]
    rows, codes, sizes = [index.rows_N], [index.codes_NW], [index.sizes_N2]
    for keys_NM in chunks:
        of_N = nearest(keys_NM, index.centres_LM)
        coded = encode(keys_NM, index.centres_LM[of_N])
        lists.append(of_N)
        rows.append(first + np.arange(len(of_N)))
        codes.append(coded[0])
        sizes.append(coded[1])
        first += len(of_N)
    of_N = np.concatenate(lists)
    order = np.argsort(of_N, kind="stable")
    starts_L = np.searchsorted(of_N[order], np.arange(len(index.starts_L)))
    rows_N, codes_NW, sizes_N2 = np.concatenate(rows)[order], np.concatenate(codes)[order], np.concatenate(sizes)[order]
    return Index(index.centres_LM, starts_L, rows_N, codes_NW, sizes_N2)


def nearest(keys_NM: Float, centres_LM: Half) -> Rows:
    """Which centre each key is nearest to."""
    import torch

    centres = torch.from_numpy(centres_LM.astype(np.float32))
    squares_L = (centres * centres).sum(1)
    keys = torch.from_numpy(np.ascontiguousarray(keys_NM, np.float32))
    found_N: Rows = np.empty(len(keys), np.int64)
    for at in range(0, len(keys), ASSIGNED):
        part = slice(at, at + ASSIGNED)
        found_N[part] = torch.addmm(squares_L, keys[part], centres.T, alpha=-2).argmin(1).numpy()
    return found_N


def write(index: Index, path: Path) -> None:
    """Write it into a new folder, durable."""
    path.mkdir()
    for part in fields(index):
        with (path / f"{part.name}.npy").open("wb") as file:
            np.save(file, getattr(index, part.name), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    sync(path)


def read(path: Path) -> Index:
    """Open it, its parts mapped from the disk; `ValueError` where it is damaged."""
    try:
        parts = [np.load(path / f"{p.name}.npy", mmap_mode="r", allow_pickle=False) for p in fields(Index)]
    except EOFError as error:
        raise ValueError(str(error)) from error
    return Index(*(np.asarray(part) for part in parts))


__all__ = ["Index", "encode", "estimate", "extend", "lists_for", "nearest", "read", "train", "write"]
