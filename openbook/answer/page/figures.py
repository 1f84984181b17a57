"""Figures as a reader sees them, on the page and in the terminal. None, which is unknown or infinite, is a dash."""

from __future__ import annotations

UNKNOWN = "–"


def percent(share: float | None) -> str:
    """`0.834` as `83 %`; small but not nothing is `<1 %`."""
    if share is None:
        return UNKNOWN
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def signed(value: float | None) -> str:
    """One decimal, a true minus sign."""
    return UNKNOWN if value is None else f"{value:.1f}".replace("-", "−").replace("−0.0", "0.0")


def weights(prior: float | None, refined: float | None) -> str:
    """`prior 0.70 → 0.96`: what a source weighed before and after the question was read."""
    if prior is None:
        return ""
    return f"prior {prior:.2f}" + ("" if refined is None else f" → {refined:.2f}")


def superscript(value: int) -> str:
    """`12` as `¹²`."""
    return str(value).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
