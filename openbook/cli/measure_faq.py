"""`eval faq`: stored answers, and abstaining, on files with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.books import encoder
from openbook.cli.output import out, print_json, progress_bar
from openbook.errors import Fault

EPILOG = "Example:  openbook eval faq stackfaq.jsonl --foreign eval_question_similarity_en.csv"


def faq(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Threads (.jsonl: question, answers, paraphrases), or intents (.csv)."),
    ],
    foreign: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions that nobody stored an answer to: to abstain from.")
    ] = None,
    asked: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of intents: the examples that are asked (text, category).")
    ] = None,
    shots: Annotated[int, typer.Option(metavar="N", min=1, help="Of intents: examples of each that are stored.")] = 10,
    seed: Annotated[int, typer.Option(metavar="N", help="Of intents: which examples are drawn.")] = 0,
    precision: Annotated[
        float, typer.Option(metavar="P", min=0.5, max=0.999, help="Share of answers that is to be right.")
    ] = 0.95,
    as_json: options.AsJson = False,
) -> None:
    """Pairs of a file, its other wordings as questions: lexical, dense and fused scores, and what abstaining leaves."""
    config = options.configure()
    if (file.suffix == ".csv") != (asked is not None):
        raise Fault("intents are two files: --asked names the examples that are asked; threads are one, .jsonl")
    from dataclasses import replace

    from openbook.measure import faq as measuring

    task = measuring.of_threads(file) if asked is None else measuring.of_intents(file, asked, shots, seed)
    if foreign is not None:
        task = replace(task, foreign=measuring.foreign(foreign))
    with progress_bar() as progress:
        made = measuring.measure(task, encoder(config), precision, progress)
    if as_json:
        print_json(made)
    else:
        _show(made)


def _show(made: dict[str, Any]) -> None:
    from rich.table import Column, Table

    console = out()
    counts = ", ".join(f"{made[name]:,} {name}" for name in ("pairs", "threads", "queries", "foreign"))
    console.print(f"{counts}; {made['machine']}", markup=False)
    scores = [name for name in ("map", "mrr", "hit1", "auroc") if name in next(iter(made["ways"].values()))]
    grid = Table("scored by", *(Column(name, justify="right") for name in scores))
    for name, row in made["ways"].items():
        grid.add_row(name, *(f"{row[score]:.4f}" for score in scores))
    console.print(grid)
    weights = "  ".join(f"{name} {value:g}" for name, value in made["weights"].items())
    console.print(f"fitted weights: {weights}", markup=False)
    own = made["calibration"]
    console.print(
        f"threshold {own['threshold']:.3f}: on its own {own['asked']} pseudo-questions it covers {own['coverage']:.3f} "
        f"at a precision of {own['precision']:.3f}",
        markup=False,
    )
    console.print(
        "abstaining: " + "  ".join(f"{name} {value:.4f}" for name, value in made["abstaining"].items()), markup=False
    )
