"""The neighbours of an answer's words, as text to read: each word with the place that it was remembered from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST = 8
"""Words that are told of: those of which neighbours carried most."""


def remembered(tokens: Sequence[Mapping[str, Any]], key: str) -> Iterator[str]:
    """Lines of what the source `key` carried: the word, its part, and where the book has it in what context."""
    told = [(share, at) for at, token in enumerate(tokens) if (share := _share(token, key)) and _first(token)]
    chosen = sorted(at for _, at in sorted(told, key=lambda pair: -pair[0])[:MOST])
    for at in chosen:
        token, first = tokens[at], _first(tokens[at])
        before, word, after = (str(first.get(part) or "") for part in ("before", "text", "after"))
        context = " ".join(f"…{before}»{word}«{after}…".split())
        place = f"{first.get('document')}, line {first.get('line')}"
        yield f"{str(token.get('text') or '').strip() or '␣'} ({_share(token, key):.0%}) {place}: {context}"


def _share(token: Mapping[str, Any], key: str) -> float:
    shares = token.get("responsibility")
    share = shares.get(key) if isinstance(shares, Mapping) else None
    return float(share) if isinstance(share, int | float) and 0 <= share <= 1 else 0.0


def _first(token: Mapping[str, Any]) -> Mapping[str, Any]:
    near = token.get("neighbours")
    first = near[0] if isinstance(near, Sequence) and not isinstance(near, str) and near else None
    return first if isinstance(first, Mapping) else {}
