"""One entry of the passage cache on disk: reading it against mapping it, and what it costs to know that it is whole.

Medians (smallest, largest) in milliseconds, ways alternated; "cold" comes after the system dropped the file's pages.

    OMP_NUM_THREADS=1 .venv/bin/python bench/stored.py [--bytes 5898240] [--rounds 40]
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import statistics
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import torch

from openbook.lm.cache.codecs import codec_named
from openbook.lm.cache.stored import Folder
from openbook.measure.machine import processor

SLOTS = 30


def read(path: Path, size: int) -> torch.Tensor:
    """Into memory of the process."""
    data = torch.empty(size, dtype=torch.uint8)
    with path.open("rb", buffering=0) as file:
        file.readinto(data.numpy().data)
    return data


def mapped(path: Path) -> torch.Tensor:
    """Mapped, as bytes of a tensor."""
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return torch.frombuffer(view, dtype=torch.uint8)


def forgotten(path: Path) -> None:
    """Have the system drop the file's pages."""
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)


def ways(folder: Path, size: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    parts = [torch.randn(size // 2 // SLOTS).bfloat16() for _ in range(SLOTS)]
    raw, entries = codec_named("raw"), Folder(folder, "bench", 1 << 40)
    wanted, identity = [((len(part),), part.dtype) for part in parts], bytes(32)
    if not entries.write("entry", identity, parts):
        raise SystemExit(f"{folder} has no room for an entry")
    path = next(folder.glob("*/*.kv"))
    kept, data = torch.empty(path.stat().st_size, dtype=torch.uint8), read(path, path.stat().st_size).numpy().data
    return {
        "read": lambda: read(path, len(kept)),
        "map alone": lambda: mapped(path),
        "map, and copy into a cache": lambda: kept.copy_(mapped(path)),
        "zlib.crc32": lambda: zlib.crc32(data),
        "hashlib.sha256": lambda: hashlib.sha256(data).digest(),
        "hashlib.blake2b": lambda: hashlib.blake2b(data).digest(),
        "all numbers finite, by torch.isfinite": lambda: all(bool(torch.isfinite(part).all()) for part in parts),
        "all numbers finite, by their extremes": lambda: all(raw.finite((part,), part.dtype) for part in parts),
        "an entry: read and checked": lambda: entries.read("entry", identity, wanted),
        "dropping the file's pages": lambda: forgotten(path),
        "read, cold": lambda: read(path, len(kept)),
        "dropping them again": lambda: forgotten(path),
        "map and copy, cold": lambda: kept.copy_(mapped(path)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=256 * 23_040, help="256 tokens of SmolLM2 in bf16")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="The given buffer is not writable")
    with tempfile.TemporaryDirectory(dir=".") as folder:
        timed = ways(Path(folder), options.bytes)
        measured: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(options.rounds):
            for name, run in timed.items():
                began = time.perf_counter()
                run()
                measured[name].append(1e3 * (time.perf_counter() - began))
    print(f"{processor()}, {torch.get_num_threads()} threads, {options.bytes:,} bytes, {options.rounds} rounds")
    for name, values in measured.items():
        print(f"  {name:<40} {statistics.median(values):7.2f}  ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
