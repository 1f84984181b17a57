"""Outcomes of races as plain values, as Markdown, and in their places on a page."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openbook.errors import Fault
from openbook.measure.machine import processor
from openbook.measure.speed.entrants import OURS, Found, Outcome, Row, Spread
from openbook.measure.speed.material import agreement


def about(threads: int, rounds: int, model: str, text: str, quick: bool) -> dict[str, Any]:
    """On what the races were run."""
    return {
        "machine": processor(),
        "threads": threads,
        "rounds": rounds,
        "model": model,
        "text": text,
        "quick": quick,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def document(outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured, for `--json`: each run of each entrant, and the ratios."""
    return {**facts, "races": [_race(outcome) for outcome in outcomes]}


def _race(outcome: Outcome) -> dict[str, Any]:
    race = outcome.race
    return {
        "name": race.name,
        "title": race.title,
        "unit": race.unit,
        "entrants": [_row(outcome, row) for row in outcome.rows],
        "ratios": [_ratio(found) for found in outcome.ratios],
        "absent": dict(outcome.absent),
    }


def _row(outcome: Outcome, row: Row) -> dict[str, Any]:
    made = {
        "name": row.name,
        "unit": row.unit,
        **_spread(row.spread),
        "runs": list(row.values),
        "way": dict(row.way),
        **{key: value for key, value in row.facts.items() if key != "vectors"},
        **{key: value for key, value in row.last.items() if key != "tokens"},
    }
    same, near = agrees(outcome, row), nearness(outcome, row)
    if same is not None:
        made["first_tokens_as_ours"] = same
    return made if near is None else {**made, "least_cosine_with_ours": near}


def _spread(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "lower_quartile": spread.low, "upper_quartile": spread.high}


def _ratio(found: Found) -> dict[str, Any]:
    ratio = found.ratio
    asked = {} if ratio.asked is None else {"asked": ratio.asked, "at_most": ratio.most, "reached": found.holds}
    return {"what": ratio.what, "of": ratio.over, "against": found.against, **_spread(found.spread), **asked}


def agrees(outcome: Outcome, row: Row) -> int | None:
    """With how many tokens its text begins as ours does: that it is the same model behind the same prompt."""
    ours = outcome.row(OURS)
    if ours is None or row is ours or not row.last.get("tokens") or not ours.last.get("tokens"):
        return None
    return agreement(ours.last["tokens"], row.last["tokens"])


def nearness(outcome: Outcome, row: Row) -> float | None:
    """The least cosine between its vectors and ours of the same texts: that it is the same encoder."""
    ours = outcome.row(OURS)
    if ours is None or row is ours or "vectors" not in row.facts or "vectors" not in ours.facts:
        return None
    pairs = zip(ours.facts["vectors"], row.facts["vectors"], strict=True)
    least: float = min(sum(x * y for x, y in zip(a, b, strict=True)) for a, b in pairs)
    return least


def same_words(outcome: Outcome, row: Row) -> str:
    """Both in words; empty where there is nothing to compare."""
    same, near = agrees(outcome, row), nearness(outcome, row)
    if same is not None:
        return f"first {same} tokens as ours"
    return "" if near is None else f"cosine with ours ≥ {math.floor(near * 1e4) / 1e4:.4f}"


def number(value: float) -> str:
    """With about three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def spread_words(spread: Spread) -> str:
    """The median, and the quartiles where there was more than one run."""
    if spread.low == spread.median == spread.high:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}–{number(spread.high)})"


def way_words(row: Row) -> str:
    """Its engine, and what it chose."""
    chosen = ", ".join(f"{key} {str(value).lower()}" for key, value in row.way.items())
    return "; ".join(word for word in (str(row.facts.get("engine", "")), chosen) if word)


def ratio_words(found: Found) -> tuple[str, str, str]:
    """What, how much, and whether that is what is asked."""
    ratio, spread = found.ratio, found.spread
    sign = found.unit if found.unit == "×" else f" {found.unit}"
    quartiles = "" if spread.low == spread.high else f" ({number(spread.low)}–{number(spread.high)})"
    times = f"{number(spread.median)}{sign}{quartiles}"
    if ratio.asked is None:
        return ratio.what, times, ""
    bound = f"{'≤' if ratio.most else '≥'} {ratio.asked:g}{sign}"
    return ratio.what, times, f"{bound}: {'pass' if found.holds else 'miss'}"


def markdown(outcome: Outcome, facts: Mapping[str, Any]) -> str:
    """One race: a table of entrants, a table of ratios, what it was run on."""
    lines = [f"{outcome.race.title}.", "", f"| | {outcome.race.unit}: median (quartiles) | run by |", "|---|--:|---|"]
    for row in outcome.rows:
        unit = "" if row.unit == outcome.race.unit else f" {row.unit}"
        by = "; ".join(filter(None, (way_words(row), same_words(outcome, row))))
        lines.append(f"| {row.name} | {spread_words(row.spread)}{unit} | {by} |")
    if outcome.ratios:
        lines += ["", "| within a round | measured | asked |", "|---|--:|---|"]
        lines += [f"| {' | '.join(ratio_words(found))} |" for found in outcome.ratios]
    lines += ["", *(f"Not run: {name} ({reason})." for name, reason in outcome.absent.items())]
    rounds = len(outcome.rows[0].values) if outcome.rows else 0
    quick = " Short runs (`--quick`): rough figures." if facts["quick"] else ""
    told = "1 round" if rounds == 1 else f"{rounds} rounds by turns"
    lines.append(
        f"`openbook bench {outcome.race.name}`, {facts['model']}, {facts['machine']}, {threads(facts)}, "
        f"{told}, {facts['date']}.{quick}"
    )
    return "\n".join(lines)


def threads(facts: Mapping[str, Any]) -> str:
    """`1 thread`, `2 threads`."""
    count = int(facts["threads"])
    return f"{count} thread" if count == 1 else f"{count} threads"


def fill(page: Path, outcomes: Sequence[Outcome], facts: Mapping[str, Any]) -> None:
    """Put each race's tables between its marks on the page. Raises `Fault` where a race has no marks there."""
    try:
        text = page.read_text(encoding="utf-8")
        for outcome in outcomes:
            begin, end = f"<!-- bench {outcome.race.name} -->", f"<!-- /bench {outcome.race.name} -->"
            found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", text, re.DOTALL)
            if found is None:
                raise Fault(f"{page} has no place for {outcome.race.name}: write the lines {begin} and {end} into it")
            text = text[: found.start()] + f"{begin}\n{markdown(outcome, facts)}\n{end}" + text[found.end() :]
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Fault(f"{page}: {error.strerror}; give a page that can be read and written") from error
