"""The colours of the sources, the same on the page and in the terminal, and how strongly a token is inked.

The first four start from Okabe and Ito's colour-blind-safe set; past four no set stays safe, so nothing is said by
colour alone: a number stands beside it. A ninth source takes the first hue again (the page dashes its line).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class Colour:
    """One hue: `light` and `dark` for lines and bars (3:1 on the page), `text` for numbers on the light page (4.5:1).

    `either` is for the terminal, which does not say what colour its ground is: 3:1 on white and on black.
    """

    name: str
    light: str
    text: str
    dark: str
    either: str


HUES = (
    Colour("blue", "#0072b2", "#0068a3", "#4aa8e0", "#2386c8"),
    Colour("orange", "#d07c00", "#955800", "#f0a830", "#d07c00"),
    Colour("green", "#009e73", "#00754f", "#2cc295", "#009e73"),
    Colour("pink", "#b85c9e", "#a3468a", "#dc8cc6", "#c0669f"),
    Colour("violet", "#6f5bd0", "#6450c4", "#a899f5", "#826fe0"),
    Colour("lime", "#7d9400", "#5d6e00", "#b5cc3f", "#7d9400"),
    Colour("red", "#cf4440", "#b8332f", "#f28b82", "#d84f4a"),
    Colour("brown", "#8a6a4f", "#7a5b41", "#c4a587", "#98775b"),
)
OWN = Colour("grey", "#8d949e", "#5f6670", "#878f9b", "#878f9b")
"""The model's own memory: no document, no hue."""

LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Bits from which the ink takes its next step: each step is twice the bits of the one before."""


def hue(index: int | None) -> Colour:
    """The colour of the source of that index (from 0, cycling), or the memory's grey for None."""
    return OWN if index is None else HUES[index % len(HUES)]


def level(bits: float | None) -> int:
    """How strongly to ink a token the book added `bits` to: 0 (not at all) to 5. Unknown and negative bits are 0."""
    return 0 if bits is None else bisect_right(LEVELS, bits)


def hue_class(index: int | None) -> str:
    """The page's class names for that source: `own`, `s3`, or `s3 again` from the second round of hues."""
    if index is None:
        return "own"
    return f"s{index % len(HUES) + 1}" + (" again" if index >= len(HUES) else "")


def stylesheet() -> str:
    """Each hue as a property (`--s3` for lines and bars, `--s3-text`; light and dark) and a class with it as `--c`."""
    named = [*((f"s{i}", colour) for i, colour in enumerate(HUES, 1)), ("own", OWN)]
    light = "; ".join(f"--{name}: {c.light}; --{name}-text: {c.text}" for name, c in named)
    dark = "; ".join(f"--{name}: {c.dark}; --{name}-text: {c.dark}" for name, c in named)
    classes = "\n".join(f".{name} {{ --c: var(--{name}); --ct: var(--{name}-text) }}" for name, _ in named)
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{classes}\n"
