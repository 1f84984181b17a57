"""Commands that measure: `eval qa`, and those of files beside this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from openbook.cli import measure_attacks, measure_evidence, measure_faq, measure_lm, options
from openbook.cli.output import collected, out, print_json
from openbook.cli.questions import Count, File, MaxTokens, Skip, asked_of
from openbook.cli.ready import settings_of

if TYPE_CHECKING:
    from openbook.measure.qa import Table

group = typer.Typer(no_args_is_help=True, help="Measure answers on a file in a public format.")


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    group.command(epilog="Example:  openbook eval qa squad-dev-1.1-open.json.gz --questions 200")(qa)
    group.command(epilog=measure_lm.EPILOG)(measure_lm.lm)
    group.command(epilog=measure_evidence.EPILOG)(measure_evidence.evidence)
    group.command(epilog=measure_attacks.EPILOG)(measure_attacks.attacks)
    group.command(epilog=measure_faq.EPILOG)(measure_faq.faq)
    app.add_typer(group, name="eval")


def qa(
    file: File,
    questions: Count = 200,
    skip: Skip = 0,
    model: options.Model = None,
    passages: Annotated[int | None, typer.Option(metavar="K", help="Passages that are kept; else 5.")] = None,
    rerank: Annotated[int | None, typer.Option(metavar="K", help="Passages found and reranked; else 10.")] = None,
    reranker: Annotated[
        str | None, typer.Option(metavar="R", help="likelihood (of the question), or a cross-encoder's folder.")
    ] = None,
    paths: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Also the kept passages in paths: behind, neighbours, sets."),
    ] = None,
    hops: Annotated[
        int | None, typer.Option(metavar="N", help="Also paths: sets of up to N of the kept passages, 2 to 4.")
    ] = None,
    persistence: Annotated[float | None, typer.Option(metavar="τ", help="The chosen τ; else 0.5.")] = None,
    max_tokens: MaxTokens = 32,
    precision: options.Precision = None,
    backend: options.Backend = None,
    kv_codec: options.KvCodec = None,
    as_json: options.AsJson = False,
) -> None:
    """The paragraphs as a book, its questions in every way: closed book, one passage, concatenated, mixed."""
    config = options.configure(
        model=model,
        passages=passages,
        persistence=persistence,
        rerank=rerank,
        reranker=reranker,
        paths=paths,
        hops=hops,
        max_tokens=max_tokens,
        precision=precision,
        backend=backend,
        kv_codec=kv_codec,
    )
    from openbook.measure.qa import measure, table

    _, asked, reader = asked_of(file, config, settings_of(config), questions, skip)
    made = table(collected(measure(reader, asked), len(asked), "questions"), reader)
    if as_json:
        print_json(made)
    else:
        _show(made)


def _show(made: Table) -> None:
    from rich.table import Column
    from rich.table import Table as Grid

    console = out()
    console.print(f"{made['questions']} questions, {made['book_passages']} passages; {made['machine']}", markup=False)
    console.print(f"settings: {made['settings']}", soft_wrap=True, markup=False)
    for k, by in made["recall"].items():
        cells = "   ".join(f"{kind} {value:.1f}" for kind, value in by.items())
        console.print(f"{k:<5} {cells}")
    grid = Grid("way of answering", *(Column(name, justify="right") for name in ("contains", "F1", "EM")))
    for name, by in made["answers"].items():
        grid.add_row(name, *(f"{by[score]:.1f}" for score in ("contains", "f1", "exact")))
    console.print(grid)
    for name, ratio in made["ratios"].items():
        console.print(f"openbook over {name}: {ratio:.2f}×")
