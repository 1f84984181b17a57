"""An index over many keys: an inverted file of product-quantised keys (FAISS), which names candidates only.

Whoever asks computes the distances of the candidates again from the keys themselves (`openbook.book.neighbours`), so
what the index rounds away can lose a neighbour but never give one a wrong weight (Khandelwal 2020, section 3: exact
distances 16.12, quantised ones 16.65 perplexity on WikiText-103).

Shapes: N keys, M width, Q queries, C candidates.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

TRAINED_A_LIST = 64
"""Keys that each list is trained on; k-means gains little from more."""
SUBSPACE = 12
"""Numbers of a key that share 4 bits of its code: 24 bytes for 576."""
LEAST_PARTS = 16
"""Parts of a code at least, as far as the width can be divided: a narrow key has little else to be known by."""
SEED = 1234


@contextmanager
def one_thread() -> Iterator[Any]:
    """FAISS, computing on the calling thread alone: its own threads would wait for the next query on the model's."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)


def lists_for(count: int) -> int:
    """How many lists so many keys are divided into: a power of two near their square root."""
    return 1 << max(2, round(math.log2(count) / 2))


def train(sample_NM: Float, count: int) -> Any:
    """An empty index for about `count` keys like these, of which there is at least one a list."""
    import faiss

    width = sample_NM.shape[1]
    parts = next(n for n in range(min(width, max(LEAST_PARTS, width // SUBSPACE)), 0, -1) if width % n == 0)
    lists = min(lists_for(count), len(sample_NM))
    if len(sample_NM) < 32 or width < 2:  # too few to learn a code from
        return faiss.IndexIDMap2(faiss.IndexFlatL2(width))
    index: Any = faiss.index_factory(width, f"IVF{lists},PQ{parts}x4fs")
    index.cp.seed = index.pq.cp.seed = SEED
    index.train(np.ascontiguousarray(sample_NM))
    return index


def extend(index: Any, chunks: Iterable[Float], first: int) -> int:
    """Add keys, whose rows are numbered from `first` on; the number after the last."""
    for keys_NM in chunks:
        rows = np.arange(first, first + len(keys_NM), dtype=np.int64)
        index.add_with_ids(np.ascontiguousarray(keys_NM, dtype=np.float32), rows)
        first += len(rows)
    return first


def write(index: Any, path: Path) -> None:
    """Write it, durable."""
    import faiss

    faiss.write_index(index, str(path))
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: Path, *, mapped: bool = True) -> Any:
    """Read it; where `mapped` its lists stay on the disk until they are looked at."""
    import faiss

    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP if mapped else 0)


def candidates(index: Any, q_QM: Float, count: int, probes: int, live_N: npt.NDArray[np.bool_] | None) -> Rows:
    """Rows `[Q, C]` that may be among the nearest, −1 where there are no more; only `live_N` ones if given."""
    with one_thread() as faiss:
        selector = None if live_N is None else faiss.IDSelectorBitmap(np.packbits(live_N, bitorder="little"))
        if hasattr(index, "nprobe"):
            asked = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        else:
            asked = faiss.SearchParameters(sel=selector)
        found: Rows = index.search(np.ascontiguousarray(q_QM), count, params=asked)[1]
    return found
