"""An answer as a notebook shows it: `Answer._repr_html_`.

No script, no link, no address: words, their ink, the strip, the passages to unfold. The cell takes its ink and its
ground from the notebook, light or dark; the hues are those of the palette that stand out from both. Styles name the
answer's own box and reach nothing else.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

from openbook.answer import palette
from openbook.answer.page.figures import percent, signed
from openbook.answer.page.pieces import Piece
from openbook.answer.page.reading import Reading, read
from openbook.answer.page.sources import Source
from openbook.answer.report.columns import Column, columns

BOX = "openbook-answer"
CAVEAT = "A colour says which source caused a word; whether the passage supports it is for you to read."


def notebook(answer: Mapping[str, Any]) -> str:
    """The HTML of an answer's dict, for a cell of a notebook."""
    reading = read(answer)
    return f'<div class="{BOX}"><style>{_STYLE}</style>{"".join(_parts(answer, reading))}</div>'


def _parts(answer: Mapping[str, Any], reading: Reading) -> Iterator[str]:
    yield f'<p class="q" dir="auto">{_text(reading.question)}</p>'
    if reading.abstained:
        yield f'<p class="r" dir="auto">Not answered: {_text(reading.reason)}</p>'
    if reading.draft:
        yield f'<p class="a" dir="auto">{"".join(map(_piece, reading.pieces))}</p>'
        drawn = columns(answer, reading)
        if drawn:
            by_index = {source.index: source for source in reading.sources}
            yield f'<div class="b" role="img" aria-label="what the book added to each of {len(drawn)} tokens">'
            yield from (_column(column, by_index) for column in drawn)
            yield "</div>"
    bits = "" if reading.bits is None else f"{signed(reading.bits)} bits from the book. "
    yield "".join(_source(source, reading) for source in reading.sources)
    yield f'<p class="c">{_text(bits)}{CAVEAT}</p>'


def _text(text: str) -> str:
    return html.escape(text)


def _hue(source: Source | None) -> str:
    return palette.hue(None if source is None else source.hue).either


def _piece(piece: Piece) -> str:
    signs = "".join(f'<sup style="color:{_hue(c.source)}">{c.source.number}</sup>' for c in piece.citations)
    if not piece.level or piece.source is None:
        return _text(piece.text) + signs
    line = "dashed" if _again(piece.source) else "solid"
    ink = f"border-bottom:{0.5 + 0.5 * piece.level:.1f}px {line} {_hue(piece.source)}"
    bits = "" if piece.bits is None else f", {signed(piece.bits)} bits"
    told = _text(f"{piece.source.name} {percent(piece.share)}{bits}")
    return f'{_text(piece.lead)}<span style="{ink}" title="{told}">{_text(piece.word)}</span>{signs}'


def _again(source: Source) -> bool:
    return (source.hue or 0) >= len(palette.HUES)


def _column(column: Column, sources: Mapping[int, Source]) -> str:
    parts = "".join(
        f'<i style="height:{100 * column.height * share:.1f}%;background:{_hue(sources[index])}"></i>'
        for index, share in reversed(column.shares)
    )
    return f'<span title="{_text(column.told)}">{parts}</span>'


def _source(source: Source, reading: Reading) -> str:
    share = reading.share(source)
    number = "" if source.number is None else str(source.number)
    place = f" <small>{_text(source.place)}</small>" if source.place else ""
    bits = "" if source.bits is None else f" · {signed(source.bits)} bits"
    filled = 100 * min(max(share or 0.0, 0.0), 1.0)
    line = (
        f'<b style="color:{_hue(source)}">{number or "·"}</b> <span class="n">{_text(source.name)}{place}</span>'
        f'<span class="m"><i style="width:{filled:.0f}%;background:{_hue(source)}"></i></span>'
        f'<span class="f">{percent(share)}{bits}</span>'
    )
    passage = "".join(
        f'<mark style="border-bottom:2px solid {_hue(source)}">{_text(mark.text)}</mark>'
        if mark.citations
        else _text(mark.text)
        for mark in source.passage
    )
    if not passage:
        return f'<div class="s">{line}</div>'
    return f'<details class="s"><summary>{line}</summary><p class="p" dir="auto">{passage}</p></details>'


_RULES = {
    "": "max-width:60em;font-size:14px;line-height:1.5",
    " p": "margin:0 0 .6em",
    " .q, .c, small": "opacity:.72",
    " .a": "font-size:1.35em;line-height:1.65;white-space:pre-wrap;overflow-wrap:anywhere",
    " .r": "border-left:3px solid currentColor;padding-left:.8em",
    " sup": "font-size:.62em;font-weight:600;margin-left:.1em",
    " .b": "display:flex;gap:1px;height:46px;margin:0 0 .8em;max-width:100%;overflow:hidden",
    " .b span": "flex:1 1 0;max-width:26px;display:flex;flex-direction:column;justify-content:flex-end;"
    "background:color-mix(in srgb, currentColor 8%, transparent)",
    " .b i": "display:block",
    " .s": "margin:0 0 .25em",
    " .s summary, div.s": "display:flex;gap:.6em;align-items:baseline;cursor:default",
    " summary": "cursor:pointer !important",
    " .s b": "min-width:1.2em",
    " .n": "flex:1 1 auto;overflow:hidden;text-overflow:ellipsis;white-space:nowrap",
    " .m": "flex:0 0 7em;height:5px;align-self:center;background:color-mix(in srgb, currentColor 10%, transparent)",
    " .m i": "display:block;height:100%",
    " .f": "flex:0 0 9em;opacity:.8;font-variant-numeric:tabular-nums",
    " .p": "margin:.4em 0 .8em 1.8em;white-space:pre-wrap;overflow-wrap:anywhere;max-height:20em;overflow:auto",
    " mark": "background:none;color:inherit;font-weight:600",
    " .c": "font-size:.86em;margin-top:.8em",
}


def _rules() -> Iterator[str]:
    for selectors, rule in _RULES.items():
        named = ",".join(f".{BOX} {selector.strip()}".rstrip() for selector in selectors.split(","))
        yield f"{named}{{{rule}}}"


_STYLE = "".join(_rules())
