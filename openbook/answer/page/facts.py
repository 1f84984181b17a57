"""What made an answer, in words: model, book, settings, timings, why it ended, and what its certificates come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from openbook.answer.page.values import clean, number, text_of

_ENDED = {
    "limit": "at the most tokens that were asked for",
    "repetition": "where it only repeated itself",
    "robust": "before the first word that does not withstand the bad passages it was asked to",
}
"""Why an answer is shorter than the model would have made it."""


def facts_of(answer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What made the answer, as label and value: model, book, settings, seed, why it ended early, timings."""
    if model := clean(text_of(answer.get("model"))):
        yield "model", model
    book = answer.get("book")
    if isinstance(book, Mapping):
        path, version = clean(text_of(book.get("path"))), book.get("version")
        if path:
            yield "book", path + ("" if version is None else f", version {clean(text_of(version))}")
    for group in ("settings", "timings"):
        values = answer.get(group)
        if isinstance(values, Mapping) and values:
            told = (_fact(clean(text_of(key)), value) for key, value in values.items() if value is not None)
            yield group, " · ".join(told)
        if group == "settings" and answer.get("seed") is not None:
            yield "seed", clean(text_of(answer.get("seed")))
        if group == "settings" and (ended := _ENDED.get(text_of(answer.get("ended")))):
            yield "ended", ended


def certified_of(answer: Mapping[str, Any], tokens: list[Mapping[str, Any]]) -> str:
    """What the certificates of all words come to, with what they hold for; nothing where words have none."""
    withstood = [number(token.get("certified")) for token in tokens]
    least = min((n for n in withstood if n is not None), default=None)
    if least is None or None in withstood:
        return ""
    settings = answer.get("settings")
    asked = number(settings.get("robust")) if isinstance(settings, Mapping) else None
    cut = f" The answer is cut: its next word does not withstand {asked:.0f}." if asked and _cut(answer) else ""
    if not least:
        return f"Certified: one bad passage could have changed a word here.{cut}"
    which = "one passage" if least == 1 else f"{least:.0f} passages"
    how = "or so many put beside them, " if asked is not None else ""
    return (
        f"Certified: any {which} of those found, {how}could have held whatever text without changing a word here.{cut} "
        "That holds for what was found and its weights, and the likeliest word at each step; not for the model or "
        "the search, and it does not say that the words are true."
    )


def _cut(answer: Mapping[str, Any]) -> bool:
    return answer.get("ended") == "robust"


def _fact(key: str, value: object) -> str:
    amount = number(value)
    shown = clean(text_of(value)) if amount is None else f"{amount:.4g}"
    if amount is not None and key.endswith("_ms"):
        return f"{key[:-3].replace('_', ' ')} {amount:,.0f} ms"
    if amount is not None and key == "tokens_per_second":
        return f"{amount:.0f} tokens/s"
    return f"{key.replace('_', ' ')} {shown}"
