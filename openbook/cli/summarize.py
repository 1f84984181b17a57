"""The command `summarize`: a question about the whole book, as points with their evidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.answers import ABSTAINED, keep_answer, save_page, save_report
from openbook.cli.output import bar_if_told, complain, one_line, out, plural, print_json
from openbook.cli.ready import reader_for
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.answer.summarize import Plan, Summary
    from openbook.mix.reading import Reader

SHOWN = 3
"""Places of a point that are printed; --json has all."""


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog="Example:  openbook summarize 'What are the main themes?' --docs notes/ --points 6")(summarize)


def summarize(
    question: Annotated[str, typer.Argument(help="What you want to know of all documents together.")],
    book: options.Book = None,
    docs: options.Docs = None,
    at: options.At = None,
    model: options.Model = None,
    over: Annotated[
        str,
        typer.Option(metavar="KIND", help="Read passages, reports (of the graph's communities), retrieval or auto."),
    ] = "auto",
    points: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Points at most.")] = 8,
    budget: Annotated[int, typer.Option(metavar="TOKENS", min=100, help="Read so much of the book at most.")] = 8_000,
    write: Annotated[
        bool, typer.Option("--write", metavar="", help="The model writes the points; else they are sentences of yours.")
    ] = False,
    max_tokens: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=512, help="Write at most so many a point.", rich_help_panel=options.WRITING
        ),
    ] = 48,
    precision: options.Precision = None,
    backend: options.Backend = None,
    as_json: options.AsJson = False,
    html: options.Html = None,
) -> None:
    """Answer a question about the whole book: points, each with the places that hold it.

    Without --write every point is a sentence of a document, word for word. It abstains, with exit status 3, where
    nothing that was read has to do with the question.
    """
    if not question.strip():
        raise Fault("the question is empty; ask something, for example: openbook summarize 'What are the main themes?'")
    config = options.configure(book=book, model=model, precision=precision, backend=backend)
    from openbook.answer.summarize import Plan

    plan = Plan(over, points, budget, write, max_tokens)
    summarized(reader_for(config, docs, at), question, plan, as_json, html)


def summarized(
    reader: Reader,
    question: str,
    plan: Plan,
    as_json: bool,
    html: Path | None,
    routed: Mapping[str, Any] | None = None,
    report: Path | None = None,
) -> None:
    """Summarize, print, keep, and write the page if one is asked for."""
    from openbook.answer.summarize import summarize_with

    with bar_if_told() as told:
        summary = summarize_with(reader, question, plan, told)
    facts = summary.to_dict() | dict(routed or {})
    if as_json:
        print_json(facts)
    else:
        show(summary)
    keep_answer(reader.book.path, facts)
    if html is not None:
        save_page(facts, html)
    if report is not None:
        save_report(facts, report)
    if summary.abstained:
        raise typer.Exit(ABSTAINED)


def show(summary: Summary) -> None:
    """Print the points and where they stand; nothing in them reaches the terminal as a command."""
    from rich.text import Text

    from openbook.answer.page.values import clean

    console = out()
    console.print(Text(clean(summary.question), "dim"), soft_wrap=True)
    console.print()
    if summary.abstained:
        complain(summary.reason)
    width = max(20, min(console.width, 100) - 4)
    for number, point in enumerate(summary.points, 1):
        for i, line in enumerate(Text(clean(point.text)).wrap(console, width)):
            line.rstrip()
            console.print(Text(f"{number:>2}  " if i == 0 else "    ", "bold").append_text(line), soft_wrap=True)
        told = f"{point.bits:.1f} bits · stands for {point.share:.0%} of what has to do with it"
        console.print(Text(f"    {told}", "dim"), soft_wrap=True)
        for held in point.evidence[:SHOWN]:
            p = held.passage
            place = f"page {p.page}" if p.page is not None else f"line {held.line}"
            who = f"{one_line(held.speaker)}  " if held.speaker else ""
            share = f"  {held.responsibility:.0%}" if len(point.evidence) > 1 else ""
            console.print(
                Text.assemble("    ", (who, "dim"), (one_line(p.document), "cyan"), (f"  {place}{share}", "dim")),
                soft_wrap=True,
            )
        if len(point.evidence) > SHOWN:
            console.print(Text(f"    and {plural(len(point.evidence) - SHOWN, 'place')} more", "dim"), soft_wrap=True)
        console.print()
    how = "Written by the model" if summary.plan.write else "Sentences of the documents, word for word"
    read, seconds = summary.read, summary.timings["summarize_ms"] / 1e3
    console.print(
        Text(
            f"{how}; over {summary.over}: {plural(read['passages'], 'passage')} of {read['of']:,} read, "
            f"{plural(read['sentences'], 'sentence')} weighed, {seconds:.1f} s. What they claim is for you to judge.",
            "dim",
        ),
        soft_wrap=True,
    )
