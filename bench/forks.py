"""What a shared beginning saves: rows that go on from one prompt, in the same blocks of a paged cache or in their own.

.venv/bin/python bench/forks.py [--rows 8] [--prompt 1536] [--steps 40] [--rounds 5] [--model smollm2]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from openbook.lm.backends.native import NativeRunner
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec
from openbook.lm.model import load_model
from openbook.measure.machine import processor


def read(runner: NativeRunner, tokens_BT: torch.Tensor, room: int) -> Cache:
    """The prompts in a cache."""
    cache = runner.cache([None] * len(tokens_BT), room=tokens_BT.shape[1] + room)
    for start in range(0, tokens_BT.shape[1], 512):
        runner.forward(tokens_BT[:, start : start + 512], cache, keep=[])
    return cache


def milliseconds(runner: NativeRunner, cache: Cache, steps: int) -> float:
    """A step of all rows, the median of some."""
    one_B1 = torch.full((cache.batch, 1), 5)
    times = []
    with runner.alone():
        for _ in range(steps):
            began = time.perf_counter()
            runner.forward(one_B1, cache)
            times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[steps // 8 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=1536)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="smollm2")
    options = parser.parse_args()
    model = load_model(options.model, backend="native", cache=CacheSpec(layout="paged"))
    runner = model.runner
    assert isinstance(runner, NativeRunner)
    generator = torch.Generator().manual_seed(0)
    prompt_1T = torch.randint(model.spec.vocabulary, (1, options.prompt), generator=generator)
    found: dict[str, list[float]] = {"one row": [], "forks of one prompt": [], "the same prompt in each row": []}
    for _ in range(options.rounds):
        alone = read(runner, prompt_1T, options.steps)
        forks = read(runner, prompt_1T, options.steps)
        forks.select([0] * options.rows)
        copies = read(runner, prompt_1T.expand(options.rows, -1), options.steps)
        for name, cache in zip(found, (alone, forks, copies), strict=True):
            found[name].append(milliseconds(runner, cache, options.steps))
    print(f"{processor()}, {options.rows} rows after a prompt of {options.prompt} tokens, {options.model}; ms a step")
    for name, values in found.items():
        print(f"{name:30} {statistics.median(values):7.2f}  ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
