"""What each layout and codec of the key/value cache costs: bits per byte of a text read through it, and steps a second.

The text is read in chunks of `--chunk` tokens, so nearly all keys a query sees have been through the codec. Steps are
of `--rows` texts at once with half the context behind them. All ways take turns, `--rounds` times in one process; a
step's time is the median of all of its rounds, beside the raw rectangle's.

    OMP_NUM_THREADS=2 .venv/bin/python bench/cache.py --text FILE [--model smollm2] [--context 1024] [--rows 6]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import torch

from openbook.lm.backends.torch import TorchRunner, default_device, default_dtype
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec
from openbook.lm.convert import decoder_or_encoder
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.pull import locate
from openbook.measure.machine import processor

WAYS = [CacheSpec(layout, codec) for layout in ("dense", "ring", "paged") for codec in ("raw", "int8", "int4")]


def bits_per_byte(runner: TorchRunner, tokenizer: Tokenizer, ids: list[int], context: int, chunk: int) -> float:
    """Σ −log₂ p of the tokens but each piece's first, over the bytes they spell, read chunk by chunk."""
    bits, size = 0.0, 0
    for start in range(0, len(ids), context):
        piece = ids[start : start + context]
        cache = runner.cache([None], room=len(piece))
        for at in range(0, len(piece) - 1, chunk):
            read, following = piece[at : at + chunk], piece[at + 1 : at + chunk + 1]
            log_p_TV = runner.forward(torch.tensor([read]), cache)[0, : len(following)].log_softmax(-1)
            index = torch.tensor(following, device=log_p_TV.device)[:, None]
            bits -= log_p_TV.gather(1, index).double().sum().item() / math.log(2)
            size += sum(len(tokenizer.token_bytes(token)) for token in following)
    return bits / size


def begun(runner: TorchRunner, ids: list[int], rows: int, behind: int, steps: int) -> Cache:
    """A cache of `rows` texts with `behind` tokens each, and room for `steps` more."""
    prefix = runner.prefill(ids[:behind])
    return runner.cache([prefix] * rows, room=steps)


def timed(runner: TorchRunner, cache: Cache, rows: int, steps: int) -> list[float]:
    """Seconds of each of these steps."""
    taken = []
    for step in range(steps):
        began = time.perf_counter()
        runner.forward(torch.full((rows, 1), 100 + step), cache)
        taken.append(time.perf_counter() - began)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    checkpoint, device = open_checkpoint(locate(given.model, fetch=True)), default_device()
    spec, tokenizer = decoder_or_encoder(checkpoint), checkpoint.tokenizer()
    dtype = default_dtype(device)
    state = dict(checkpoint.state(dtype))
    ids = tokenizer.encode(given.text.read_text(encoding="utf-8"))[: given.tokens]
    runners = [TorchRunner.load(spec, state.items(), device, kind) for kind in WAYS]
    behind, steps = given.context // 2, 8
    seconds: list[list[float]] = [[] for _ in WAYS]
    for _ in range(given.rounds):
        for runner, taken in zip(runners, seconds, strict=True):
            cache = begun(runner, ids, given.rows, behind, steps)
            taken += timed(runner, cache, given.rows, steps)[2:]
    where = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    print(f"{checkpoint.name}, {str(dtype)[6:]}, {len(ids)} tokens of {given.text.name} in pieces of {given.context}, ")
    print(f"chunks of {given.chunk}; steps of {given.rows} rows with {behind} tokens behind them; {where}\n")
    print("| layout | codec | bits per byte | a step, median (range) | beside dense raw |\n|---|---|--:|--:|--:|")
    base = statistics.median(seconds[0])
    for kind, runner, taken in zip(WAYS, runners, seconds, strict=True):
        score = bits_per_byte(runner, tokenizer, ids, given.context, given.chunk)
        middle, low, high = (1e3 * f(taken) for f in (statistics.median, min, max))
        print(
            f"| {kind.layout} | {kind.codec} | {score:.4f} | {middle:.0f} ms ({low:.0f}–{high:.0f}) "
            f"| {middle / 1e3 / base:.2f}× |",
            flush=True,
        )


if __name__ == "__main__":
    main()
