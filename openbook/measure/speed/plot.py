"""A plot of the races: a panel each, a bar an entrant, a rule over its quartiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openbook.errors import Fault
from openbook.measure.speed.entrants import MEMORY, OURS, Outcome

ENDINGS = (".svg", ".png", ".html")
COLOURS = {"openbook": "#2f6f9f", "rival": "#b9c4cc"}


def check(path: Path) -> None:
    """Refuse before the races what could not be drawn after them."""
    if path.suffix not in ENDINGS:
        raise Fault(f"a plot is written as {', '.join(ENDINGS)}; {path} ends otherwise")
    if not path.resolve().parent.is_dir():
        raise Fault(f"{path.resolve().parent} is no folder; make it, or write the plot elsewhere")
    _altair()


def _altair() -> Any:
    try:
        import altair
        import vl_convert  # noqa: F401 altair draws pictures with it
    except ImportError as error:
        raise Fault("a plot needs altair and vl-convert-python; run: pip install 'openbook[bench]'") from error
    return altair


def values(outcome: Outcome) -> list[dict[str, Any]]:
    """A bar an entrant, in the race's order; the machine's bandwidth is no entrant to be compared."""
    return [
        {
            "entrant": row.name,
            "median": row.spread.median,
            "low": row.spread.low,
            "high": row.spread.high,
            "side": "openbook" if row.name.startswith(OURS) else "rival",
        }
        for row in outcome.rows
        if row.name != MEMORY
    ]


def draw(outcomes: Sequence[Outcome], path: Path, caption: str) -> None:
    """Write the plot in the format that the file's ending says."""
    altair = _altair()
    panels = [_panel(altair, outcome) for outcome in outcomes if values(outcome)]
    if not panels:
        raise Fault("nothing ran, so there is nothing to draw")
    title = altair.TitleParams("openbook bench", subtitle=caption, anchor="start")
    chart = altair.vconcat(*panels).resolve_scale(x="independent").properties(title=title)
    try:
        chart.save(str(path))
    except OSError as error:
        raise Fault(f"{path} cannot be written: {error.strerror}") from error


def _panel(altair: Any, outcome: Outcome) -> Any:
    data = altair.Data(values=values(outcome))
    order = [each["entrant"] for each in values(outcome)]
    entrant = altair.Y("entrant:N", sort=order, title=None, axis=altair.Axis(labelLimit=260))
    colours = altair.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    base = altair.Chart(data, title=altair.TitleParams(outcome.race.title, anchor="start", fontSize=12))
    bars = base.mark_bar().encode(
        x=altair.X("median:Q", title=outcome.race.unit),
        y=entrant,
        color=altair.Color("side:N", scale=colours, legend=None),
    )
    spread = base.mark_rule(color="#333333").encode(x="low:Q", x2="high:Q", y=entrant)
    told = base.mark_text(align="left", dx=4, color="#333333").encode(
        x="high:Q", y=entrant, text=altair.Text("median:Q", format=",.4~r")
    )
    return (bars + spread + told).properties(width=460, height=altair.Step(20))
