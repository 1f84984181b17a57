"""What the machine's memory gives: bytes a second read from an array far larger than its caches."""

from __future__ import annotations

import time
from typing import Any

import torch

PASSES = 3


def open(threads: int, megabytes: int = 1024) -> Memory:
    """An array of that size, to be read by so many threads."""
    torch.set_num_threads(threads)
    return Memory(threads, megabytes)


class Memory:
    """GB/s of the quickest of three passes: what disturbs a pass can only make it slower."""

    def __init__(self, threads: int, megabytes: int) -> None:
        self.threads = threads
        self.native = _kernels()
        self.array = torch.ones(1 if self.native else (megabytes << 20) // 4)
        how = "openbook_kernels.bandwidth" if self.native else f"torch.sum of {megabytes} MiB in fp32"
        self.facts = {"engine": how}

    def run(self) -> dict[str, Any]:
        """One measurement."""
        if self.native:
            return {"value": self.native.bandwidth(self.native.Team(self.threads)) / 1e9}
        taken = []
        for _ in range(PASSES):
            began = time.perf_counter()
            self.array.sum()
            taken.append(time.perf_counter() - began)
        return {"value": self.array.nbytes / min(taken) / 1e9}


def _kernels() -> Any:
    """The kernels, which measure it with the reads they are made of, where they are installed."""
    try:
        import openbook_kernels
    except ImportError:
        return None
    return openbook_kernels
