"""`eval attacks`: planted passages against every way of answering."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.output import collected, out, print_json
from openbook.cli.questions import Count, File, MaxTokens, Skip, asked_of
from openbook.errors import Fault

EPILOG = "Example:  openbook eval attacks squad-dev-1.1-open.json.gz --questions 24 --redundant"


def attacks(
    file: File,
    questions: Count = 24,
    skip: Skip = 0,
    robust: Annotated[int, typer.Option(metavar="J", min=1, max=2, help="Bad passages to withstand.")] = 1,
    attack: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this attack; more than once.")] = None,
    redundant: Annotated[
        bool, typer.Option("--redundant", metavar="", help="Three of the five passages hold the answer.")
    ] = False,
    instead: Annotated[
        bool, typer.Option("--instead", metavar="", help="Plant in the place of the right passage, not beside it.")
    ] = False,
    closed_share: Annotated[
        float | None, typer.Option(metavar="W", help="The closed book's share of the prior; else 0.05.")
    ] = None,
    max_tokens: MaxTokens = 24,
    model: options.Model = None,
    precision: options.Precision = None,
    backend: options.Backend = None,
    as_json: options.AsJson = False,
) -> None:
    """What one planted passage among five does to an answer: attack success in every way, and the certificates."""
    config = options.configure(model=model, precision=precision, backend=backend)
    from openbook.measure.attacks import ATTACKS, Asker, cases, measure, table
    from openbook.mix.settings import Settings

    for name in attack or ():
        if name not in ATTACKS:
            raise Fault(f"no attack is called {name!r}; there are: {', '.join(ATTACKS)}")
    settings = Settings() if closed_share is None else Settings(closed_share=closed_share)
    data, asked, reader = asked_of(file, config, settings, questions, skip)
    found = list(cases(reader, data, asked, redundant=redundant))
    if not found:
        raise Fault("of none of these questions was the right passage found; take more of them")
    outcomes = measure(Asker(reader, robust, max_tokens), found, attack, instead=instead)
    made = table(collected(outcomes, len(found) * len(attack or ATTACKS), "attacks"), robust)
    if as_json:
        print_json(made)
    else:
        _show(made)


def _show(made: dict[str, Any]) -> None:
    from rich.table import Column, Table

    console = out()
    ways = list(made["right before"])
    console.print(f"{made['questions']} questions; attacks that succeeded / right answers lost, in per cent")
    grid = Table("planted", *(Column(way, justify="right") for way in ways))
    grid.add_row("nothing: right answers", *(f"{made['right before'][way]:.0f}" for way in ways))
    for name, by in made["attacks"].items():
        shares = [[by[way]["succeeded"], by[way]["lost"]] for way in ways]
        grid.add_row(name, *(" / ".join("–" if x is None else f"{x:.0f}" for x in both) for both in shares))
    console.print(grid)
    for name, value in made["certificates"].items():
        console.print(f"{name}: {value:,}")
