"""`openbook bench`: speed beside rivals, each in an environment of its own, and beside the machine's memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.output import complain, one_line, out, plural, print_json, progress_bar, remark

if TYPE_CHECKING:
    from openbook.measure.speed.entrants import Outcome
    from openbook.measure.speed.races import Setting

EXAMPLES = """Examples:

openbook bench decode

openbook bench decode branches prefill --plot speed.svg

openbook bench --alone --quick
"""


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog=EXAMPLES)(bench)


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Races; else all of them.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="M", help="A name or .gguf file; else smollm2.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Of every contestant; else a core each.")
    ] = None,
    runs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Rounds, in each of which everyone runs once; else 7.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", metavar="", help="Short runs, 3 rounds: rough figures.")] = False,
    alone: Annotated[bool, typer.Option("--alone", metavar="", help="Without rivals: nothing is installed.")] = False,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is read; else the help that comes with Python.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", metavar="", help="Say which races there are, and stop.")] = False,
    as_json: options.AsJson = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", metavar="", help="Tables in Markdown.", rich_help_panel=options.OUTPUT)
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Put the tables between their marks.", rich_help_panel=options.OUTPUT),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw them: .svg, .png or .html.", rich_help_panel=options.OUTPUT),
    ] = None,
) -> None:
    """Race openbook against its rivals on this machine: same weights, prompts and threads, turn by turn.

    Rivals are installed on first use, each in an environment of its own under openbook's home; llama.cpp is compiled
    for this machine, which takes minutes. A quiet machine makes the figures worth something.
    """
    if as_json and markdown:
        raise typer.BadParameter("--json and --markdown are two forms of the same; give one")
    config = options.configure(model=model, threads=threads)
    from openbook.measure.speed.races import RACES

    if listed:
        _list()
        return
    unknown = [name for name in names or () if name not in RACES]
    if unknown:
        raise typer.BadParameter(f"no race {unknown[0]!r}; there are {', '.join(RACES)}")
    if plot is not None:
        from openbook.measure.speed.plot import check

        check(plot)
    count = config.threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    setting, facts = _setting(
        config.model or "smollm2", count, runs or (3 if quick else 7), text, alone=alone, quick=quick
    )
    if not (as_json or markdown):
        out().print(f"{facts['machine']}, {plural(facts['threads'], 'thread')}, {facts['model']}", markup=False)
    outcomes = []
    for name in dict.fromkeys(names or RACES):
        outcomes.append(_hold(name, setting, facts))
        if page is not None:  # what was measured is not lost with the next race
            from openbook.measure.speed.report import fill

            fill(page, outcomes[-1:], facts)
        if not (as_json or markdown):
            _show(outcomes[-1])
    if as_json or markdown:
        _print(outcomes, facts, as_json)
    if plot is not None:
        from openbook.measure.speed.plot import draw

        draw(
            outcomes,
            plot,
            f"{facts['machine']}, {plural(facts['threads'], 'thread')}, {facts['model']}, {facts['date']}",
        )


def _list() -> None:
    from openbook.measure.speed.races import RACES

    for name, build in RACES.items():
        print(f"{name:12} {(build.__doc__ or '').splitlines()[0]}")


def _setting(
    model: str, threads: int, rounds: int, text: Path | None, *, alone: bool, quick: bool
) -> tuple[Setting, dict[str, Any]]:
    """What all races share, and the facts that go with their tables."""
    from openbook.cli.models import here

    path, encoder = Path(here(model)), Path(here("minilm"))
    from openbook.lm.weights.checkpoint import open_checkpoint
    from openbook.measure.speed.material import Material
    from openbook.measure.speed.races import Setting
    from openbook.measure.speed.report import about

    checkpoint = open_checkpoint(path)
    checkpoint.opened_by("load_model")
    material = Material(checkpoint.tokenizer(), text)
    setting = Setting(checkpoint, material, encoder, threads, remark, alone, quick)
    return setting, about(threads, rounds, checkpoint.name, material.name, quick)


def _hold(name: str, setting: Setting, facts: dict[str, Any]) -> Outcome:
    """One race, in as many rounds as the facts say."""
    from openbook.measure.speed.races import RACES
    from openbook.measure.speed.rounds import hold, starter

    with progress_bar() as bar:
        start, tell = starter(setting.threads, remark), bar or (lambda done, total, what: None)
        outcome = hold(RACES[name](setting), facts["rounds"], start, tell)
    for entrant, reason in outcome.absent.items():
        complain(f"{name}: {entrant} did not run: {reason}")
    return outcome


def _print(outcomes: list[Outcome], facts: dict[str, Any], as_json: bool) -> None:
    from openbook.measure.speed.report import document, markdown

    if as_json:
        print_json(document(outcomes, facts))
    else:
        print("\n\n".join(f"## {outcome.race.name}\n\n{markdown(outcome, facts)}" for outcome in outcomes))


def _show(outcome: Outcome) -> None:
    from rich.table import Column, Table

    from openbook.measure.speed.report import ratio_words, same_words, spread_words, way_words

    console = out()
    console.print(f"\n{outcome.race.title}", style="bold", markup=False)
    grid = Table("", Column(f"{outcome.race.unit}, median (quartiles)", justify="right"), Column("run by", ratio=1))
    for row in outcome.rows:
        by = "; ".join(filter(None, (way_words(row), same_words(outcome, row))))
        unit = "" if row.unit == outcome.race.unit else f" {row.unit}"
        grid.add_row(row.name, spread_words(row.spread) + unit, one_line(by))
    console.print(grid)
    for found in outcome.ratios:
        what, times, verdict = ratio_words(found)
        console.print(f"  {what}: {times}  {verdict}".rstrip(), markup=False)
