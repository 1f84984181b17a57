"""The command `faq`: an answer on file, or none; and the pairs it comes from, added, learned and undone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.books import check_there, encoder, summary
from openbook.cli.output import complain, one_line, out, plural, print_json, progress_bar
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.answer.faq import Reply
    from openbook.book.faq.knowledge import Knowledge
    from openbook.book.faq.pairs import Problem
    from openbook.book.store import Book
    from openbook.config import Config

ABSTAINED = 3
SHOWN = 20
CHANGES = "Changes"


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog="Example:  openbook faq --add help.csv && openbook faq 'How do I reset it?'")(faq)


def faq(
    question: Annotated[str | None, typer.Argument(help="What to look up; none where something is changed.")] = None,
    book: options.Book = None,
    at: options.At = None,
    add: Annotated[
        list[Path] | None,
        typer.Option(
            "--add", metavar="FILE", help="A file of pairs: CSV, JSON, Markdown, HTML.", rich_help_panel=CHANGES
        ),
    ] = None,
    learn: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="Answers that were accepted and rejected.", rich_help_panel=CHANGES),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", metavar="", help="Take the last of these changes back.", rich_help_panel=CHANGES)
    ] = False,
    related: Annotated[int, typer.Option(metavar="N", min=0, max=20, help="Related questions shown.")] = 3,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="P", min=0, max=1, help="Confidence from which on to answer; else as calibrated."),
    ] = None,
    precision: Annotated[
        float, typer.Option(metavar="P", min=0.5, max=0.999, help="Share of answers that is to be right.")
    ] = 0.95,
    write: Annotated[
        bool, typer.Option("--write", metavar="", help="Have a model write the answer from the pairs, with evidence.")
    ] = False,
    model: options.Model = None,
    as_json: options.AsJson = False,
) -> None:
    """Answer a question from the book's questions with answers, or abstain.

    Also changes them, each time as a version of the book: adds a file of pairs, learns from a log of judgements,
    takes the last such change back.
    """
    config = options.configure(book=book, model=model)
    changes = [bool(add), learn is not None, undo]
    if sum(changes) > 1 or (any(changes) and (question is not None or at is not None)):
        raise typer.BadParameter("ask a question, or give one of --add, --learn and --undo")
    if add:
        _add(config, add, as_json)
    elif learn is not None:
        _learn(config, learn, as_json)
    elif undo:
        _undo(config, as_json)
    elif question is None:
        raise typer.BadParameter("ask a question, or give one of --add, --learn and --undo")
    else:
        told, knowledge, opened = _ask(config, question, at, related, threshold, precision)
        if write and not told.abstained:
            _write(config, opened, knowledge, question, as_json)
            return
        if as_json:
            print_json(told.to_dict())
        else:
            show(told)
        if told.abstained:
            raise typer.Exit(ABSTAINED)


def _ask(
    config: Config,
    question: str,
    at: str | None,
    related: int,
    threshold: float | None,
    precision: float,
) -> tuple[Reply, Knowledge, Book]:
    if not question.strip():
        raise Fault("the question is empty; ask something, for example: openbook faq 'How do I reset it?'")
    check_there(config, None, at)
    from openbook.book.store import open_book

    opened = open_book(config.book, create=False, at=at)
    embedder = encoder(config)
    from openbook.answer.faq import reply
    from openbook.book.faq.knowledge import open_knowledge

    with progress_bar() as progress:
        knowledge = open_knowledge(opened, embedder, progress, precision)
    told = reply(question, knowledge, related=related, threshold=threshold, book=opened)
    return told, knowledge, opened


def _write(config: Config, book: Book, knowledge: Knowledge, question: str, as_json: bool) -> None:
    """The answer in a model's words, from the pairs that were found and the closed book."""
    from openbook.cli.answers import keep_answer, shown
    from openbook.cli.models import here
    from openbook.cli.ready import settings_of

    settings = replace(settings_of(config), margin=None)  # whether to answer is decided already
    model = options.model_of(config, here(config.model or "smollm2"))
    from openbook.answer.ask import write
    from openbook.mix.sources.faq import PairReader

    matches = knowledge.find(question).matches
    reader = PairReader(book, model, knowledge.encoder, settings, matches=matches)
    answer = shown(lambda on_token: write(reader, question, on_token), show=not as_json).to_dict()
    from openbook.answer.replay import run_of

    answer["settings"]["pairs"] = True  # what was read were pairs, not passages
    keep_answer(book.path, {**answer, "run": run_of(model, config.model_dump(mode="json"))})
    if as_json:
        print_json(answer)


def show(told: Reply) -> None:
    """Print an answer, where it is from, and what is related; nothing in them reaches the terminal as a command."""
    from rich.text import Text

    from openbook.answer.page.values import clean

    console = out()
    if told.abstained:
        complain(told.reason)
    else:
        for match in (told.match, *told.also):
            pair = match.entry.pair
            if match is not told.match:
                console.print(Text("\nAlso answered:", "dim"))
            console.print(Text(clean(pair.answer)))
            sure = f"  confidence {told.confidence:.2f}" if match is told.match else ""
            place = f"{one_line(pair.document)}  line {pair.line}  pair {pair.id}{sure}"
            console.print(
                Text.assemble(("\n" + one_line(pair.questions[0]) + "  ", "bold"), (place, "dim")), soft_wrap=True
            )
    nearest = [told.match, *told.related] if told.abstained else list(told.related)
    if nearest:
        console.print(Text("Nearest questions:" if told.abstained else "Related:", style="dim"))
        for match in nearest:
            console.print(Text(f"  {one_line(match.entry.pair.questions[0])}"), soft_wrap=True)


def _add(config: Config, files: list[Path], as_json: bool) -> None:
    from openbook.book.faq.pairs import MEDIA
    from openbook.book.faq.read import read_pairs

    sorted_files = [(path, read_pairs(path.expanduser())) for path in files]  # all are sound before anything is written
    for path, made in sorted_files:
        _say(path, made.problems)
    opened = _changed(config, files, MEDIA, "faq add", create=True)
    counts = {str(path): len(made.pairs) for path, made in sorted_files}
    left = {str(path): [{"line": p.line, "reason": p.reason} for p in made.problems] for path, made in sorted_files}
    if as_json:
        print_json({"book": _seen(opened), "pairs": counts, "left_out": left})
        return
    skipped = sum(map(len, left.values()))
    print(
        f"{plural(sum(counts.values()), 'pair')} of {plural(len(files), 'file')}"
        f"{f', {skipped:,} left out' if skipped else ''}; version {opened.version} of {one_line(opened.path)}"
    )


def _learn(config: Config, log: Path, as_json: bool) -> None:
    check_there(config, None)
    from openbook.book.faq.entries import fold
    from openbook.book.faq.learn import LOG, read_log
    from openbook.book.faq.read import pairs_of

    judged, problems = read_log(log.expanduser())
    _say(log, problems)
    opened = _changed(config, [log], LOG, "faq learn", create=False)
    entries = fold(list(pairs_of(opened)), judged)
    known = sum(len(entry.rejected) for entry in entries)
    accepted = sum(one.accepted for one in judged)
    counts = {"judgements": len(judged), "accepted": accepted, "rejected": len(judged) - accepted, "held_back": known}
    if as_json:
        left = [{"line": p.line, "reason": p.reason} for p in problems]
        print_json({"book": _seen(opened), **counts, "left_out": left})
        return
    print(
        f"{plural(len(judged), 'judgement')}: {accepted:,} accepted, {len(judged) - accepted:,} rejected; version "
        f"{opened.version} of {one_line(opened.path)}; back: openbook faq --undo"
    )


def _changed(config: Config, files: list[Path], media: str, made: str, create: bool) -> Book:
    from openbook.book.store import open_book

    opened = open_book(config.book, create=create)
    with progress_bar() as progress:
        added = opened.add(*files, encoder=encoder(config), progress=progress, wait=complain, as_media=media, made=made)
    for skipped in added.skipped:
        complain(f"skipped {skipped.name}: {skipped.reason}")
    if not added.documents:
        complain(f"nothing changed: {summary(added)}")
    return opened


def _undo(config: Config, as_json: bool) -> None:
    check_there(config, None)
    from openbook.book.faq.undo import undo
    from openbook.book.store import open_book

    opened = open_book(config.book, create=False)
    taken = undo(opened, wait=complain)
    if as_json:
        print_json({"book": _seen(opened), "undone": taken.made, "as": taken.since})
        return
    print(f"{taken.made} of version {taken.version} taken back: version {opened.version} is as version {taken.since}")


def _say(path: Path, problems: list[Problem]) -> None:
    for problem in problems[:SHOWN]:
        complain(f"{one_line(path)}, {problem}")
    if len(problems) > SHOWN:
        complain(f"{one_line(path)}: {len(problems) - SHOWN:,} more were left out")


def _seen(book: Book) -> dict[str, Any]:
    return {"path": str(book.path), "version": book.version}
