"""Keys and values of SmolLM2 kept in nine ways: bytes by formula, as allocated, as the process grew, and its peak.

Each way has a process of its own. First the cache is made and filled with the same block of numbers until it is full,
and the resident memory before and after is compared, over so many rows of the cache that pages do not blur it. Then
a real text of `--tokens` tokens is read in chunks; the peak of the process is from there (VmHWM, reset before),
weights and activations included. The script fails (exit 1) where memory is off the formula by more than 2 %.

    .venv/bin/python bench/kv.py [--tokens 8192] [--chunk 256] [--only NAME]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.cache.plan import plan
from openbook.lm.convert import convert, decoder_or_encoder, respec
from openbook.lm.spec import ModelSpec
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.pull import locate
from openbook.measure.machine import processor

CPU, DTYPE = torch.device("cpu"), torch.bfloat16
SMALL: dict[str, Any] = {"kv_heads": 1, "share": 2}
# Name of the row, what the model becomes, how its keys and values are written.
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "MHA (heads repeated)": ({"kv_heads": 9}, "raw"),
    "GQA (as it is)": ({}, "raw"),
    "MQA": ({"kv_heads": 1}, "raw"),
    "MQA + CLA2": (SMALL, "raw"),
    "MQA + CLA2 + window 512": ({**SMALL, "window": 512}, "raw"),
    "MQA + CLA2 + window 512 + int8": ({**SMALL, "window": 512}, "int8"),
    "MQA + CLA2 + window 512 + int4": ({**SMALL, "window": 512}, "int4"),
    "GQA + int8": ({}, "int8"),
    "GQA + int4": ({}, "int4"),
}
OFF = 0.02  # the share by which memory may be off the formula
ENOUGH = 64 << 20  # bytes that are allocated at least, so that what else a process does is far below 2 %


def by_formula(spec: ModelSpec, codec: str, tokens: int) -> tuple[int, int]:
    """Bytes a token, and of a text: `2 · Σ over producing layers K · bytes(D)`, times what each layer's readers see.

    A head of D numbers takes 2·D bytes raw, D + 2 in int8, D/2 + 4 in int4, scales being bf16. It is written here once
    more, so that the cache is not compared with its own arithmetic.
    """
    token = text = 0
    for index, (window, pinned) in zip(spec.producers, spec.retentions, strict=True):
        attention = spec.layers[index].attention
        D = attention.head_dim
        size = 2 * attention.kv_heads * {"raw": 2 * D, "int8": D + 2, "int4": D // 2 + 4}[codec]
        token += size
        text += size * (tokens if window is None else min(tokens, window + pinned))
    return token, text


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS (resident now) or VmHWM (its peak)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    if found is None:
        raise SystemExit(f"this system does not say {field}; the script needs Linux")
    return int(found[1]) * 1024


def settle() -> None:
    """Give freed memory back, so that what is resident is what is used; the peak begins anew."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def grown(spec: ModelSpec, kind: CacheSpec, tokens: int, chunk: int) -> tuple[float, int]:
    """Bytes a row of the cache takes: how much the process grew while it was filled, and as the cache counts."""
    rows = -(-ENOUGH // kind.bytes(spec, batch=1, capacity=tokens, dtype=DTYPE))
    windows, pinned = zip(*spec.retentions, strict=True)
    # Windows are full once they have been passed.
    longest = tokens if None in windows else min(tokens, max(windows) + max(pinned) + 2 * chunk)
    # What a chunk needs besides the cache is needed once before, so that it is not counted.
    fill(make_cache(spec, kind, rows, tokens, DTYPE, CPU), spec, rows, chunk, chunk)
    settle()
    before = memory("VmRSS")
    cache = make_cache(spec, kind, rows, tokens, DTYPE, CPU)
    fill(cache, spec, rows, longest, chunk)
    settle()
    return (memory("VmRSS") - before) / rows, cache.nbytes // rows


def fill(cache: Any, spec: ModelSpec, rows: int, tokens: int, chunk: int) -> None:
    """Write and read as the layers of a model would, chunk by chunk."""
    for positions in torch.arange(tokens).split(chunk):
        cache.extend(positions.expand(rows, -1))
        for layer, slot in enumerate(plan(spec).slot_of_layer):
            attention = spec.layers[layer].attention
            if attention.kv_from is None:
                numbers = torch.ones(rows, attention.kv_heads, len(positions), attention.head_dim, dtype=DTYPE)
                cache.write(slot, numbers, numbers)
            cache.read(slot)


def measured(name: str, model: str, tokens: int, chunk: int) -> dict[str, Any]:
    """One row of the table, in this process."""
    change, codec = WAYS[name]
    checkpoint = open_checkpoint(locate(model, fetch=True))
    before = decoder_or_encoder(checkpoint)
    spec = respec(before, **change)
    runner = TorchRunner.load(spec, convert(before, spec, dict(checkpoint.state(DTYPE))), CPU)
    words = checkpoint.tokenizer().encode("The comet was first seen in 1843, by sailors off the coast. ")
    text = torch.tensor([(words * (tokens // len(words) + 1))[:tokens]])
    kind = CacheSpec(codec=codec)
    resident, allocated = grown(spec, kind, tokens, chunk)
    settle()
    began, loaded = time.perf_counter(), memory("VmRSS")
    cache = make_cache(spec, kind, 1, tokens, DTYPE, CPU)
    for part in text.split(chunk, dim=1):
        runner.forward(part, cache, keep=slice(-1, None))
    token, whole = by_formula(spec, codec, tokens)
    return {
        "name": name, "token": token, "formula": whole, "allocated": allocated, "resident": resident,
        "loaded": loaded, "peak": memory("VmHWM"), "seconds": time.perf_counter() - began,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--only", choices=WAYS)
    parser.add_argument("--json", action="store_true", help="one row, measured in this process; needs --only")
    given = parser.parse_args()
    if given.json:
        print(json.dumps(measured(given.only, given.model, given.tokens, given.chunk)))
        return 0
    print(f"{given.model}, bf16, {given.tokens} tokens in chunks of {given.chunk}; {processor()}\n")
    print(
        "| kept as | bytes a token | by formula | allocated | process grew by | process before | peak while reading |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    wrong = []
    for name in [given.only] if given.only else WAYS:
        command = [sys.executable, __file__, "--json", "--only", name, "--model", given.model]
        command += ["--tokens", str(given.tokens), "--chunk", str(given.chunk)]
        # Freed blocks must leave the process at once, and no thread may have a heap of its own.
        settings = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **settings})
        row = json.loads(done.stdout.splitlines()[-1])
        sizes = [f"{row[key] / 2**20:.2f} MiB" for key in ("formula", "allocated", "resident")]
        sizes += [f"{row[key] / 2**20:.0f} MiB" for key in ("loaded", "peak")]
        print(f"| {name} | {row['token']:,} | {' | '.join(sizes)} |", flush=True)
        for what in ("allocated", "resident"):
            if abs(row[what] / row["formula"] - 1) > OFF:
                wrong.append(f"{name}: {what} {row[what]:,.0f} bytes, by formula {row['formula']:,}")
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"\n{'off' if wrong else 'all within'} {OFF:.0%} of the formula")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
