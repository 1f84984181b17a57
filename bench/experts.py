"""Does a mixture of experts stay balanced? Shazeer's table in miniature, and what grouping by expert costs.

.venv/bin/python bench/experts.py [--steps 400] [--seeds 3]        (prints both tables, draws docs/pictures/experts.svg)

The task: points of 64 clusters in 16 dimensions, each cluster with a linear map of its own; a mixture of 64 experts,
2 a token, learns them by squared error. Then 32768 fresh points are routed and counted, with the noise of training and
without.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from openbook.lm.experts import Experts, Routing, importance_loss, load_loss, switch_loss
from openbook.lm.feedforward import FeedForward
from openbook.lm.spec import ExpertsSpec, FeedForwardSpec

PICTURE = Path(__file__).parent.parent / "docs" / "pictures" / "experts.svg"
EXPERTS, ACTIVE, WIDTH, CLUSTERS = 64, 2, 16, 64
NOISY = ExpertsSpec(EXPERTS, ACTIVE, FeedForwardSpec(16), routing="noisy")
SOFTMAX = ExpertsSpec(EXPERTS, ACTIVE, FeedForwardSpec(16))
BIASED = ExpertsSpec(EXPERTS, ACTIVE, FeedForwardSpec(16), balance_bias=True)


def shazeer(importance: float, load: float) -> Callable[[Routing], Tensor]:
    """Both losses of the noisy gate, by their weights."""
    return lambda routing: importance * importance_loss(routing) + load * load_loss(routing)


def nothing(routing: Routing) -> Tensor:
    return routing.logits_TE.new_zeros(())


RIVALS: dict[str, tuple[ExpertsSpec, Callable[[Routing], Tensor]]] = {
    "noisy, w = 0 / 0": (NOISY, nothing),
    "noisy, w = 0.1 / 0.1": (NOISY, shazeer(0.1, 0.1)),
    "noisy, w = 1 / 1": (NOISY, shazeer(1, 1)),
    "softmax, no loss": (SOFTMAX, nothing),
    "softmax, switch loss × 0.01": (SOFTMAX, lambda routing: 0.01 * switch_loss(routing)),
    "softmax, switch loss × 0.1": (SOFTMAX, lambda routing: 0.1 * switch_loss(routing)),
    "softmax, loss-free bias": (BIASED, nothing),
}


def points(seed: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of (x, y), `[batch, WIDTH]` each, without end."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLUSTERS, WIDTH, generator=draw)
    maps = torch.randn(CLUSTERS, WIDTH, WIDTH, generator=draw) / WIDTH**0.5
    # Clusters are not equally frequent, as words are not.
    frequency = 1 / torch.arange(1.0, CLUSTERS + 1)
    while True:
        of = torch.multinomial(frequency, batch, replacement=True, generator=draw)
        x = centres[of] + 0.3 * torch.randn(batch, WIDTH, generator=draw)
        yield x, torch.einsum("tij,tj->ti", maps[of], x)


def train(spec: ExpertsSpec, loss: Callable[[Routing], Tensor], steps: int, seed: int) -> tuple[float, Tensor, Tensor]:
    """After `steps` of 512 points, on fresh ones: the squared error, and what each expert got over the mean, with the
    noise of training and without."""
    torch.manual_seed(seed)
    layer = Experts(spec, WIDTH)
    optimiser = torch.optim.Adam((p for p in layer.parameters() if p.requires_grad), lr=1e-2)
    noise = torch.Generator().manual_seed(seed)
    for x, y in islice(points(seed, 512), steps):
        routing = layer.route(x, noise)
        error = (layer(x, routing) - y).square().mean()
        optimiser.zero_grad()
        (error + loss(routing)).backward()
        optimiser.step()
        if spec.balance_bias:
            layer.update_balance(routing.counts_E, speed=1e-2)
    x, y = next(islice(points(seed, 32_768), 1, None))
    with torch.inference_mode():
        trained = layer.route(x, noise).counts_E.float()
        routing = layer.eval().route(x)
        served = routing.counts_E.float()
        error = float((layer(x, routing) - y).square().mean())
    return error, trained / trained.mean(), served / served.mean()


def balance(steps: int, seeds: int) -> dict[str, Tensor]:
    """Print the table (medians of the seeds, and the spread); the first seed's loads in training, for the picture."""
    drawn = {}
    print("| gate | max / mean load, as in training | without noise | idle without noise | squared error |")
    print("|---|---|---|---|---|")
    for name, (spec, loss) in RIVALS.items():
        errors, trained, served = zip(*(train(spec, loss, steps, seed) for seed in range(seeds)), strict=True)
        drawn[name] = trained[0]
        idle = statistics.median(int((load == 0).sum()) for load in served)
        cells = (name, spread(trained), spread(served), f"{idle} of {EXPERTS}", f"{statistics.median(errors):.3f}")
        print("| " + " | ".join(cells) + " |", flush=True)
    return drawn


def spread(loads: Sequence[Tensor]) -> str:
    """The largest load: its median over the seeds, the least and the most."""
    largest = [float(load.max()) for load in loads]
    return f"{statistics.median(largest):.2f} ({min(largest):.2f}–{max(largest):.2f})"


@torch.inference_mode()
def speed(rounds: int = 9) -> None:
    """Print the time of a layer: grouped, a token at a time, and a dense feed-forward that does as many products."""
    layer = Experts(ExpertsSpec(EXPERTS, 4, FeedForwardSpec(512)), 512).eval()
    dense = FeedForward(FeedForwardSpec(4 * 512), 512)
    ways: dict[str, Callable[[Tensor], object]] = {
        "grouped": layer,
        "a token at a time": lambda x: [layer(row) for row in x.split(1)],
        "dense": dense,
    }
    print(f"\n| tokens | {', ms | '.join(ways)}, ms |\n|---|---|---|---|")
    for tokens in (1, 32, 512):
        x = torch.randn(tokens, 512)
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                way(x)
                spent[name].append(1000 * (time.perf_counter() - start))
        cells = (f"{statistics.median(t):.2f} ({min(t):.2f}–{max(t):.2f})" for t in spent.values())
        print(f"| {tokens} | {' | '.join(cells)} |")


def draw(loads: dict[str, Tensor]) -> str:
    """How the load falls on the experts, the busiest first, a panel a gate; a line at the mean. As SVG."""
    across, wide, high, bar = 2, 360, 92, 5
    top = max(float(load.max()) for load in loads.values())
    parts = []
    for index, (name, load) in enumerate(loads.items()):
        left, floor = 20 + index % across * wide, 24 + index // across * (high + 36) + high
        heights = load.sort(descending=True).values.tolist()
        parts.append(
            f'<text x="{left}" y="{floor - high + 2}">{escape(name)}</text>'
            f'<text x="{left + EXPERTS * bar}" y="{floor - high + 2}" text-anchor="end">'
            f"{heights[0]:.2f} × the mean</text>"
        )
        for place, ratio in enumerate(heights):
            tall = (high - 12) * ratio / top
            parts.append(
                f'<rect x="{left + place * bar}" y="{floor - tall:.1f}" width="{bar - 1}" height="{tall:.1f}"/>'
            )
        mean = floor - (high - 12) / top
        parts.append(f'<path d="M{left} {mean:.1f}h{EXPERTS * bar}M{left} {floor}h{EXPERTS * bar}"/>')
    width, height = across * wide, 24 + (len(loads) + 1) // across * (high + 36)
    style = (
        "text{font:11px sans-serif;fill:#333}rect{fill:#2f6f9f}path{stroke:#b5482a;stroke-width:1;fill:none}"
        "svg{background:#fff}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{style}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    PICTURE.write_text(draw(balance(options.steps, options.seeds)), encoding="utf-8")
    speed()


if __name__ == "__main__":
    main()
