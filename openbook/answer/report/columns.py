"""The strip: a column a token, as high as the book's bits, in the colours of who carried it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openbook.answer.page.reading import Reading
from openbook.answer.page.values import clean, number, rows_of, text_of

LEAST_BITS = 4.0
"""Bits that a full column stands for at least: an answer to which the book added little has low ones."""
FOOT = 0.1
"""The height of a column without bits: every token can be seen."""


@dataclass(frozen=True)
class Column:
    """A token: its height from 0 to 1, and the sources (`Source.index`) that carried it with their shares, from 0 to 1
    together, in the sources' order. `told` says it in words."""

    height: float
    shares: tuple[tuple[int, float], ...]
    told: str


def columns(answer: Mapping[str, Any], reading: Reading) -> list[Column]:
    """The strip of an answer's dict and its reading."""
    tokens = rows_of(answer.get("tokens"))
    bits = [number(token.get("bits")) for token in tokens]
    tallest = max([LEAST_BITS, *(value for value in bits if value is not None)])
    made = []
    for token, added in zip(tokens, bits, strict=True):
        given = token.get("responsibility")
        raw = {
            s.index: min(max(number(given.get(s.key)) or 0.0, 0.0), 1.0)
            for s in reading.sources
            if isinstance(given, Mapping)
        }
        whole = max(sum(raw.values()), 1.0)
        shares = tuple((index, share / whole) for index, share in raw.items() if share / whole >= 0.005)
        height = FOOT + (1 - FOOT) * max(added or 0.0, 0.0) / tallest
        made.append(Column(height, shares, _told(text_of(token.get("text")), added, shares, reading)))
    return made


def _told(text: str, bits: float | None, shares: tuple[tuple[int, float], ...], reading: Reading) -> str:
    from openbook.answer.page.figures import percent, signed

    sources = {source.index: source for source in reading.sources}
    who = sorted(shares, key=lambda pair: -pair[1])[:3]
    named = [f"{sources[i].number or 'own memory'} {percent(share)}" for i, share in who]
    added = [] if bits is None else [f"{signed(bits)} bits"]
    return f"{' '.join(clean(text).split()) or '␣'}: {', '.join([*added, *named])}"
