"""Decoding and reading on one device: eager steps, static steps (on CUDA recorded as graphs), and those compiled.

All ways run the same weights from the same cached texts and take turns, `--rounds` times in one process. A step is
timed as writing needs it: the likeliest token of every row is read back by the host before the next step begins.
`bandwidth` is what a step cannot do without (every weight once, every row's keys and values once) over the time it
took, as a share of what copying a large block reaches here. First each way is compared with the eager one on forced
tokens; the script fails (exit 1) where logits differ by more than `--off`, or where static steps were refused.

    python bench/gpu.py --model smollm2 --device cuda
    python bench/gpu.py --random 1b --device cuda          # random weights of a known shape: nothing has to be fetched
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # from a checkout, installed or not

import torch
from torch import Tensor

from openbook.lm.backends.static import WARM
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.codecs import codec_named
from openbook.lm.cache.make import CacheSpec
from openbook.lm.cache.plan import plan
from openbook.lm.cache.prefixes import Prefix
from openbook.lm.decoder import Decoder
from openbook.lm.device import device_named, dtype_named
from openbook.lm.spec import AttentionSpec, ExpertsSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec
from openbook.measure.machine import processor

# Vocabulary, width, layers, query heads, key/value heads, head dimension, feed-forward width, tied.
SHAPES = {
    "135m": (49152, 576, 30, 9, 3, 64, 1536, True),  # SmolLM2-135M
    "1b": (128256, 2048, 16, 32, 8, 64, 8192, True),  # Llama-3.2-1B
    "8b": (128256, 4096, 32, 32, 8, 128, 14336, False),  # Llama-3.1-8B
}
WAYS = ("eager", "static", "compiled")
State = dict[str, Tensor]


def of_shape(name: str, dtype: torch.dtype, device: torch.device) -> tuple[ModelSpec, State]:
    """A spec of this shape, and random weights for it."""
    V, M, layers, H, K, D, I, tied = SHAPES[name]  # noqa: E741
    layer = LayerSpec(AttentionSpec(H, K, D, rope=RopeSpec(500_000.0)), FeedForwardSpec(I))
    spec = ModelSpec(V, M, (layer,) * layers, 8192, tied=tied)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Decoder(spec).state_dict().items()}
    state = {
        key: torch.ones(shape, dtype=dtype, device=device)
        if len(shape) == 1
        else torch.empty(shape, dtype=dtype, device=device).normal_(std=shape[-1] ** -0.5)
        for key, shape in shapes.items()
    }
    return spec, state


def of_model(name: str, dtype: torch.dtype, device: torch.device) -> tuple[ModelSpec, State]:
    """A model's spec and weights."""
    from openbook.lm.convert import decoder_or_encoder
    from openbook.lm.weights.checkpoint import open_checkpoint
    from openbook.lm.weights.pull import locate

    checkpoint = open_checkpoint(locate(name, fetch=True))
    return decoder_or_encoder(checkpoint), {key: value.to(device) for key, value in checkpoint.state(dtype)}


def needed(spec: ModelSpec, state: State, kind: CacheSpec, dtype: torch.dtype, rows: int, held: int) -> float:
    """Bytes that one step has to read: weights once, of experts no more than the chosen, and each row's cache."""
    size = 0.0
    for name, weight in state.items():
        looked_up = name.startswith(("embedding.", "positions.")) and not (spec.tied and name.startswith("embedding."))
        share = 1.0
        if weight.ndim == 3 and name.startswith("layers."):
            experts = spec.layers[int(name.split(".")[1])].feed_forward
            share = min(1.0, rows * experts.active / experts.count) if isinstance(experts, ExpertsSpec) else 1.0
        size += 0 if looked_up else share * weight.nbytes
    codec = codec_named(kind.codec)
    columns = (len(slot.kept(held)) * slot.kv_heads * codec.bytes(slot.head_dim, dtype) for slot in plan(spec).slots)
    return size + 2 * rows * sum(columns)


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """How long it takes, to the end of what the device does for it."""
    settle(device)
    began = time.perf_counter()
    run()
    settle(device)
    return time.perf_counter() - began


def bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of copying a block that no cache holds."""
    source = torch.ones(1 << (30 if device.type == "cuda" else 28), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / statistics.median(seconds(lambda: target.copy_(source), device) for _ in range(9))


def forced(runner: TorchRunner, prefix: Prefix, tokens_BT: Tensor) -> Tensor:
    """Logits `[B, T, V]` of these tokens after the prefix, read one by one."""
    cache = runner.cache([prefix] * len(tokens_BT), room=tokens_BT.shape[1])
    return torch.cat([runner.forward(tokens_B1, cache) for tokens_B1 in tokens_BT.split(1, dim=1)], dim=1)


def decode(runner: TorchRunner, prefix: Prefix, rows: int, steps: int) -> tuple[float, float]:
    """Seconds a step takes once steps are warm, and seconds that all steps took until then."""
    cache = runner.cache([prefix] * rows, room=WARM + 1 + steps)
    tokens = [1] * rows

    def write(count: int) -> None:
        nonlocal tokens
        for _ in range(count):
            tokens = runner.forward(torch.tensor(tokens)[:, None], cache)[:, -1].argmax(-1).tolist()

    began = seconds(lambda: write(WARM + 1), runner.device)
    return seconds(lambda: write(steps), runner.device) / steps, began


def spread(values: list[float], unit: float = 1.0, digits: int = 0) -> str:
    """Median and range."""
    middle, low, high = (f(values) * unit for f in (statistics.median, min, max))
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def differing(runners: dict[str, TorchRunner], prefix: Prefix, rows: int, most: float) -> list[str]:
    """Ways whose logits are not those of eager steps, or that were refused, in words."""
    first = next(iter(runners.values()))
    tokens_BT = torch.randint(0, first.spec.vocabulary, (rows, 4 * WARM))
    wanted = forced(first, prefix, tokens_BT)
    wrong = []
    for way, runner in runners.items():
        logits = forced(runner, prefix, tokens_BT)
        off = float((logits - wanted).norm() / wanted.norm())
        agree = float((logits.argmax(-1) == wanted.argmax(-1)).float().mean())
        print(
            f"{way}, {rows} rows: logits off by {off:.1e} of their norm; same likeliest token {agree:.0%}", flush=True
        )
        if not off <= most:
            wrong.append(f"{way}: logits off by {off:.1e}, at most {most:.0e}")
        if runner.steps is not None and runner.steps.refused is not None:
            wrong.append(f"{way}: {runner.steps.refused}")
    return wrong


def decoding(
    runners: dict[str, TorchRunner], prefix: Prefix, rows: int, steps: int, rounds: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Of each way, every round's seconds a step, and seconds of the first steps."""
    taken: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in runners}
    for _ in range(rounds):
        for way, runner in runners.items():
            for kept, value in zip(taken[way], decode(runner, prefix, rows, steps), strict=True):
                kept.append(value)
    return taken


def reading(runner: TorchRunner, state: State, tokens: int, rounds: int) -> None:
    """Print how fast a text is read; the same for every way, since only steps are static."""
    text = torch.randint(0, runner.spec.vocabulary, (1, tokens))
    taken = [
        seconds(lambda: runner.read(text, runner.cache([None], room=tokens)), runner.device) for _ in range(rounds + 1)
    ][1:]
    flops = 2 * tokens * sum(w.numel() for name, w in state.items() if name.startswith("layers.") and w.ndim == 2)
    print(f"\nreading {tokens} tokens: {spread([tokens / t for t in taken])} tokens a second, ", end="")
    print(f"{flops / statistics.median(taken) / 1e12:,.2f} TFLOP/s of matrix products (experts not counted)")


def ratios(middles: dict[tuple[str, int], float], ways: list[str], rows: list[int]) -> None:
    """Print each way beside the first, and most rows beside fewest."""
    for count in rows:
        for way in ways[1:]:
            print(f"{way} beside {ways[0]}, {count} rows: {middles[ways[0], count] / middles[way, count]:.2f}×")
    most, least = max(rows), min(rows)
    for way in ways if most > least else []:
        print(f"{way}: a step of {most} rows takes {middles[way, most] / middles[way, least]:.2f}× one of {least}")


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--random", choices=SHAPES, help="random weights of this shape instead of a model's")
    parser.add_argument("--device", default=None)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--codec", default="raw")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["eager", "static"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--behind", type=int, default=512, help="tokens before the first step, and read at once")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--off", type=float, default=0.05, help="share of the logits' norm they may differ by")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    device = device_named(given.device)
    dtype = dtype_named(given.precision, device)
    made = of_shape(given.random, dtype, device) if given.random else of_model(given.model, dtype, device)
    (spec, state), kind, rate = made, CacheSpec(codec=given.codec), bandwidth(device)
    settings = {"eager": {"static": False}, "static": {"static": True}, "compiled": {"compiled": True}}
    runners = {way: TorchRunner.load(spec, state.items(), device, kind, **settings[way]) for way in given.ways}
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"{given.random or given.model}, {str(dtype)[6:]}, {given.codec} cache; torch {torch.__version__}; {where}")
    print(f"copying reaches {rate / 1e9:,.0f} GB/s; {given.behind} tokens behind; median (range) of {given.rounds}\n")

    first = next(iter(runners.values()))
    prefix = first.prefill(torch.randint(0, spec.vocabulary, (given.behind,)).tolist())
    fresh = {(way, rows): decode(runner, prefix, rows, 2)[1] for rows in given.rows for way, runner in runners.items()}
    wrong = [line for rows in given.rows for line in differing(runners, prefix, rows, given.off)]
    print(f"\nfirst: the {WARM + 1} steps before those that are timed, of the first such text, and of later ones\n")
    print("| decode | rows | tokens a second, together | a step, ms | bandwidth | first, ms | first, later, ms |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    middles: dict[tuple[str, int], float] = {}
    for rows in given.rows:
        size = needed(spec, state, kind, dtype, rows, given.behind + WARM + 1 + given.steps // 2)
        for way, (each, later) in decoding(runners, prefix, rows, given.steps, given.rounds).items():
            middles[way, rows] = statistics.median(each)
            print(
                f"| {way} | {rows} | {spread([rows / t for t in each])} | {spread(each, 1e3, 2)} "
                f"| {size / middles[way, rows] / rate:.0%} | {fresh[way, rows] * 1e3:,.0f} | {spread(later, 1e3)} |",
                flush=True,
            )
    reading(first, state, given.behind, given.rounds)
    ratios(middles, given.ways, given.rows)
    for line in wrong:
        print(line, file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
