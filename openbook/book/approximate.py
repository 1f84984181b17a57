"""An index over many keys: an inverted file of keys in one bit a number (RaBitQ, FAISS), which names candidates only.

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

LISTS = 4
"""Lists, in square roots of the number of keys."""
TRAINED_A_LIST = 32
"""Keys that each list is trained on; k-means gains little from more."""
ROUNDS = 10
"""Of k-means."""
LINKS = 16
"""Of each list's centre in the graph by which the nearest lists are found."""
QUERY_BITS = 4
"""Of a query's numbers while codes are compared: as good as 8 on real keys, and a hundredth of the time of floats."""
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
    """How many lists so many keys are divided into, a power of two."""
    return 1 << max(2, round(math.log2(LISTS * math.sqrt(count))))


def train(sample_NM: Float, count: int) -> Any:
    """An empty index for about `count` keys like these.

    RaBitQ (Gao 2024, arXiv 2405.12497): a bit a number, which says on which side of its list's centre the key is. On
    keys of a real model it names 96 % of what p_kNN is made of where product quantisation in 4 bits named 15 %.
    """
    import faiss

    width = sample_NM.shape[1]
    lists = min(lists_for(count), max(1, len(sample_NM) // 2))
    index: Any = faiss.index_factory(width, f"IVF{lists}_HNSW{LINKS},RaBitQ")
    index.cp.seed, index.cp.niter, index.cp.min_points_per_centroid = SEED, ROUNDS, 1
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

    if not mapped:
        return faiss.read_index(str(path))
    index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    # Else each search starts 32 threads to fetch its lists: ten times what it takes to look into them.
    lists: Any = faiss.downcast_InvertedLists(index.invlists)
    lists.prefetch_nthread = 0
    return index


def candidates(index: Any, q_QM: Float, count: int, probes: int, live_N: npt.NDArray[np.bool_] | None) -> Rows:
    """Rows `[Q, C]` that may be among the nearest, −1 where there are no more; only `live_N` ones if given."""
    with one_thread() as faiss:
        selector = None if live_N is None else faiss.IDSelectorBitmap(np.packbits(live_N, bitorder="little"))
        asked = faiss.IVFRaBitQSearchParameters()
        asked.nprobe, asked.qb = probes, QUERY_BITS
        if selector is not None:
            asked.sel = selector
        found: Rows = index.search(np.ascontiguousarray(q_QM), count, params=asked)[1]
    return found
