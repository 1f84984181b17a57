"""`eval evidence`: whether the numbers beside an answer say what the answer rests on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openbook.cli import options
from openbook.cli.output import collected, out, print_json, progress_bar, remark
from openbook.cli.questions import Count, File, MaxTokens, Skip, asked_of
from openbook.cli.ready import settings_of
from openbook.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from openbook.config import Config
    from openbook.measure.beside import Beside
    from openbook.measure.evidence import Outcome
    from openbook.measure.evidence_table import Row, Table
    from openbook.measure.grounding import Bin
    from openbook.mix.reading import Reader

EPILOG = "Example:  openbook eval evidence squad-dev-1.1-open.json.gz --questions 50 --beside context-cite"
RIVAL = "context-cite"


def evidence(
    file: File,
    questions: Count = 50,
    skip: Skip = 0,
    one_prompt: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Of so many, explain also one prompt of all passages: seconds for each."),
    ] = 20,
    beside: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"Of those, also by {RIVAL}, installed in an environment of its own."),
    ] = None,
    model: options.Model = None,
    passages: Annotated[int | None, typer.Option(metavar="K", help="Passages that are kept; else 5.")] = None,
    persistence: Annotated[float | None, typer.Option(metavar="τ", help="Of the mixture; else 0.5.")] = None,
    max_tokens: MaxTokens = 32,
    precision: options.Precision = None,
    backend: options.Backend = None,
    kv_codec: options.KvCodec = None,
    as_json: options.AsJson = False,
) -> None:
    """Faithfulness: scores of passages beside what leaving them out costs, and beside ContextCite."""
    if beside not in (None, RIVAL):
        raise typer.BadParameter(f"--beside is {beside!r}; there is {RIVAL}")
    config = options.configure(
        model=model,
        passages=passages,
        persistence=persistence,
        max_tokens=max_tokens,
        precision=precision,
        backend=backend,
        kv_codec=kv_codec,
    )
    from openbook.measure.evidence import measure
    from openbook.measure.evidence_table import table

    _, asked, reader = asked_of(file, config, settings_of(config), questions, skip)
    outcomes = collected(measure(reader, asked, one_prompt=one_prompt), len(asked), "questions")
    if not any(outcomes):
        raise Fault(f"none of {len(asked)} questions was answered from more than one passage; ask others with --skip")
    made = table(outcomes, reader)
    theirs = _beside(config, reader, [one for one in outcomes if one and one.one_prompt]) if beside else None
    if as_json:
        print_json(made if theirs is None else {**made, "beside": theirs})
        return
    _show(made)
    if theirs is not None:
        _show_beside(theirs)


def _beside(config: Config, reader: Reader, outcomes: Sequence[Outcome]) -> Beside:
    """The package, on the questions that were also explained as one prompt."""
    import torch

    from openbook.cli.models import here
    from openbook.lm.weights.checkpoint import open_checkpoint
    from openbook.measure.beside import context_cite

    if not outcomes:
        raise Fault(f"{RIVAL} explains one prompt of all passages; let --one-prompt be 1 or more")
    checkpoint, threads = open_checkpoint(Path(here(config.model or "smollm2"))), torch.get_num_threads()
    with progress_bar() as progress:

        def done(count: int) -> None:
            if progress is not None:
                progress(count, len(outcomes), f"questions, {RIVAL}")

        return context_cite(outcomes, checkpoint, reader.settings, threads, remark, done)


def _show(made: Table) -> None:
    console = out()
    counts = (
        f"{made['questions']} questions ({made['unanswered']} more unanswered), {made['passages']:.1f} passages each"
    )
    console.print(f"{counts}, of {made['book_passages']}; {made['machine']}", markup=False)
    console.print(f"settings: {made['settings']}", soft_wrap=True, markup=False)
    _grid(console, "the mixture: no pass beyond the answer's own", made["mixture"], made["questions"])
    rerun = made["rerun"]
    console.print(
        f"necessity is {rerun['largest_difference']:.1e} nats at most from really running the mixture without the "
        f"passage, which takes {rerun['passes']:.0f} passes and {rerun['tokens']:,.0f} tokens a question",
        soft_wrap=True,
    )
    if made["one_prompt"]:
        _grid(console, "one prompt of all passages", made["one_prompt"], made["in_one_prompt"])
        _costs(console, made["one_prompt"])
    _bins(console, "tokens and passages", made["calibration"])
    _bins(console, "of tokens with at least one bit", made["calibration_added"])


def _show_beside(theirs: Beside) -> None:
    console = out()
    _grid(console, f"the package {RIVAL}, one prompt of its own", theirs["rows"], theirs["questions"])
    console.print(f"{theirs['engine']}; it asked for {theirs['asked']:.0f} passes a question", markup=False)
    _costs(console, theirs["rows"])
    console.print(f"its coefficients and ours of its ablations differ by {theirs['solver_difference']:.1e} at most")
    for words in theirs["failed"]:
        console.print(f"not explained: {words}", markup=False)


def _costs(console: Console, rows: Mapping[str, Row]) -> None:
    for name, row in rows.items():
        if row["passes"]:
            cost = f"{row['passes']:.0f} different prompts, {row['tokens']:,.0f} tokens a question"
            console.print(f"{name}: {cost}", markup=False)


def _grid(console: Console, title: str, rows: Mapping[str, Row], questions: int) -> None:
    from rich.table import Column
    from rich.table import Table as Grid

    deepest = max(len(row["drops"]) for row in rows.values())
    names = ("Spearman", "top 1", "pairs", *(f"drop {k}" for k in range(1, deepest + 1)))
    grid = Grid("score", *(Column(name, justify="right") for name in names), title=f"{title}, {questions} questions")
    for name, row in rows.items():
        drops = (f"{drop:.2f}" for drop in row["drops"])
        agree = (f"{row['spearman']:.2f} ± {row['error']:.2f}", f"{row['top']:.0f}", f"{row['pairs']:.0f}")
        grid.add_row(name, *agree, *drops)
    console.print(grid)


def _bins(console: Console, title: str, bins: Sequence[Bin]) -> None:
    from rich.table import Column
    from rich.table import Table as Grid

    names = ("of them", "it holds the word", "another does", "only the question")
    grid = Grid("responsible", *(Column(name, justify="right") for name in names), title=title)
    for bin in bins:
        shares = (bin["held"], bin["others"], bin["question_only"])
        grid.add_row(f"from {bin['least']:.1f}", f"{bin['tokens']:,}", *(f"{share:.1f} %" for share in shares))
    console.print(grid)
