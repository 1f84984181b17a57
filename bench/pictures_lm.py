"""Draws the pictures of the language model's pages from the code they explain, as SVG.

.venv/bin/python bench/pictures_lm.py        (docs/pictures/attention.svg, positions.svg, cache.svg)

Masks are what `visible` says, frequencies what the scalings give, columns what a cache really holds after each step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch

from openbook.lm.attention import visible
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.positions import frequencies
from openbook.lm.rules import rule
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec

HERE = Path(__file__).parent.parent / "docs" / "pictures"
STYLE = "text{font:12px sans-serif;fill:#333}.small{font-size:10px}svg{background:#fff}"
SEEN, NEW, EMPTY, HELD = "#2f6f9f", "#c2571a", "#eef1f3", "#9bbfd8"
SHADES = ("#333333", "#2f6f9f", "#c2571a", "#4f8f3a", "#8a4f9f", "#9f7a2f")


def save(name: str, width: int, height: int, parts: Iterable[str]) -> None:
    """One picture of these parts."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    text = head + f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    (HERE / name).write_text(text, encoding="utf-8")


def square(x: float, y: float, side: float, fill: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{side - 1:.1f}" height="{side - 1:.1f}" fill="{fill}"/>'


def words(x: float, y: float, said: str, small: bool = False, anchor: str = "start") -> str:
    kind = ' class="small"' if small else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{said}</text>'


MASKS = {
    "causal": {},
    "window=4": {"window": 4},
    "window=4, pinned=2": {"window": 4, "pinned": 2},
    'rule("chunked", size=4)': {"rules": (rule("chunked", size=4),)},
    "causal=False": {"causal": False},
    "causal=False, window=4": {"causal": False, "window": 4},
}


def attention() -> None:
    """Who sees whom among twelve positions: a row a query, a column a key."""
    count, side, gap = 12, 12, 36
    parts: list[str] = []
    at = torch.arange(count)[None]
    for index, (name, how) in enumerate(MASKS.items()):
        left, top = gap / 2 + (index % 3) * (count * side + gap), 28 + (index // 3) * (count * side + 46)
        seen = visible(at, at, AttentionSpec(1, 1, 2, **how))[0].tolist()  # type: ignore[arg-type]
        parts.append(words(left, top - 8, name))
        parts += [
            square(left + k * side, top + q * side, side, SEEN if seen[q][k] else EMPTY)
            for q in range(count)
            for k in range(count)
        ]
    save("attention.svg", 3 * (count * side + gap), 2 * (count * side + 46) + 6, parts)


SCALINGS = {
    "none": None,
    "linear, 4": rule("linear", factor=4.0),
    "dynamic, 4, at twice the length": rule("dynamic", factor=4.0, original=4096),
    "yarn, 4": rule("yarn", factor=4.0, original=4096, table_factor=1.0),
    "llama3, 8": rule("llama3", factor=8.0, low=1.0, high=4.0, original=8192),
}


def positions() -> None:
    """By how much each scaling stretches the wavelength of each pair of a head of 128, base 10,000."""
    width, height, left, top = 640, 300, 52, 30
    plain, _ = frequencies(RopeSpec(), 128, 0)
    lines = []
    for index, ((name, scaling), shade) in enumerate(zip(SCALINGS.items(), SHADES, strict=False)):
        f, _ = frequencies(RopeSpec(scaling=scaling), 128, 8192)
        stretch = (plain / f).log2().tolist()
        points = [
            f"{left + i * (width - left - 20) / 63:.1f},{top + (3.2 - s) * (height - 2 * top) / 3.2:.1f}"
            for i, s in enumerate(stretch)
        ]
        lines.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{shade}" stroke-width="2"/>')
        x, y = left + (index % 3) * 190, height + 4 + 18 * (index // 3)
        lines.append(f'<line x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}" stroke="{shade}" stroke-width="2"/>')
        lines.append(words(x + 28, y + 4, name))
    for power in range(4):
        level = top + (3.2 - power) * (height - 2 * top) / 3.2
        lines.append(words(left - 8, level + 4, f"{2**power}×", anchor="end"))
        lines.append(f'<line x1="{left}" y1="{level:.1f}" x2="{width - 20}" y2="{level:.1f}" stroke="#ddd"/>')
    for i in range(0, 64, 9):
        wave = 2 * math.pi / float(plain[i])
        place = left + i * (width - left - 20) / 63
        lines.append(words(place, height - 10, f"{wave:,.0f}", small=True, anchor="middle"))
    lines.append(words(left, 18, "wavelength stretched, by the wavelength of each pair in positions"))
    save("positions.svg", width, height + 34, lines)


def cache() -> None:
    """What a slot with a window of 4 and one pinned position holds after each of some steps, in three layouts."""
    layer = LayerSpec(AttentionSpec(1, 1, 2, window=4, pinned=1), FeedForwardSpec(2))
    spec = ModelSpec(8, 2, (layer,), 64)
    chunks, side = (3, 1, 1, 1, 4, 1), 22
    parts, top = [words(10, 18, "positions held after 3, 1, 1, 1, 4 and 1 tokens; window 4, one pinned")], 32
    for layout in ("dense", "ring", "paged"):
        kept = make_cache(spec, CacheSpec(layout, block=2), 1, sum(chunks), torch.float32, torch.device("cpu"))
        parts.append(words(10, top + 12, layout))
        start = 0
        for count in chunks:
            at = torch.arange(start, start + count)[None]
            start += count
            kept.extend(at)
            empty = torch.zeros(1, 1, count, 2)
            kept.write(0, empty, empty)
            for column, position in enumerate(columns(kept, start)):
                fill = EMPTY if position < 0 else NEW if position >= start - count else HELD
                parts.append(square(70 + column * side, top, side, fill))
                if position >= 0:
                    x, y = 70 + column * side + side / 2 - 0.5, top + side / 2 + 3
                    parts.append(words(x, y, str(position), small=True, anchor="middle"))
            top += side + 2
        top += 14
    parts.append(words(10, top, "orange: new; blue: kept; grey: nothing, or given back", small=True))
    save("cache.svg", 420, top + 12, parts)


def columns(kept: object, length: int) -> list[int]:
    """The position in each place that is allocated for the one slot; −1 for none."""
    if hasattr(kept, "_positions_BC"):
        return kept._positions_BC[0].tolist()  # type: ignore[no-any-return]
    if hasattr(kept, "_rings"):
        return next(iter(kept._rings.values())).held_BC[0].tolist()  # type: ignore[no-any-return]
    (pool,) = kept._pools.values()  # type: ignore[attr-defined]
    blocks = set(pool.tables[0].values())
    return [
        position if block in blocks else -1 for block, row in enumerate(pool.positions_NP.tolist()) for position in row
    ]


if __name__ == "__main__":
    attention()
    positions()
    cache()
