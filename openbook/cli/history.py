"""Commands on a book's history: `versions`, `tag`, `use`, `diff`, `forget`."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.books import check_there
from openbook.cli.output import complain, one_line, out, plural, print_json, remark
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.book.forget import Forgotten
    from openbook.book.prove import Report
    from openbook.book.store import Book
    from openbook.book.traces import Traces
    from openbook.book.versions import Counted, Version

SHOWN = 20

Ref = Annotated[str, typer.Argument(metavar="VERSION", help="A number, or a tag.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command(epilog="Example:  openbook versions --book work.book")(versions)
    app.command(epilog="Example:  openbook tag reviewed")(tag)
    app.command(epilog="Example:  openbook use reviewed")(use)
    app.command(epilog="Example:  openbook diff reviewed")(diff)
    app.command(epilog="Example:  openbook forget notes/secret.md --prove")(forget)


def opened(book: Any) -> Book:
    """The book an option names, which must be there."""
    config = options.configure(book=book)
    check_there(config, None)
    from openbook.book.store import open_book

    return open_book(config.book, create=False)


def versions(
    book: options.Book = None,
    every: Annotated[bool, typer.Option("--all", metavar="", help="Also the batches an add was stored in.")] = False,
    prune: Annotated[
        int | None,
        typer.Option(metavar="KEEP", min=1, help="Remove all but the newest KEEP, and those with a tag, first."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List a book's versions, the live one marked; each add, forget and use made one."""
    here = opened(book)
    pruned = None if prune is None else here.prune(prune, wait=complain)
    listed = [v for v in here.versions() if every or v.whole]
    if as_json:
        facts = {"book": str(here.path), "versions": [asdict(v) for v in listed]}
        print_json(facts if pruned is None else {**facts, "pruned": asdict(pruned)})
        return
    if pruned is not None:
        held = f"; kept for readers: {', '.join(map(str, pruned.held))}" if pruned.held else ""
        complain(f"{plural(len(pruned.removed), 'version')} removed, {pruned.bytes / 1e6:,.1f} MB given back{held}")
    _show(listed)


def _show(listed: list[Version]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "version", "made", "by", "documents", "passages", "tags"):
        table.add_column(name, justify="right" if name in ("version", "documents", "passages") else "left")
    for v in listed:
        counts = (f"{v.documents:,}", f"{v.passages:,}")
        live = "*" if v.live else ""
        table.add_row(live, str(v.number), v.created, one_line(v.made), *counts, ", ".join(v.tags))
    out().print(table)


def tag(
    name: Annotated[str, typer.Argument(help="The name: a letter, then letters, digits and . _ + -")],
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Which version, by number or tag; else the live one.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", metavar="", help="Take the name off instead.")] = False,
    book: options.Book = None,
) -> None:
    """Name a version; a version with a name is never cleaned up."""
    here = opened(book)
    if delete:
        here.untag(name)
        print(f"{name} is no tag any more")
    else:
        print(f"{name} is version {here.tag(name, version)}")


def use(version: Ref, book: options.Book = None) -> None:
    """Go back to a version: a new one is made that equals it. Readers keep what they opened."""
    here = opened(book)
    before = here.version
    now = here.use(version, wait=complain)
    if now == before:
        print(f"version {now} is that already")
    else:
        print(f"version {now} is live: {plural(here.count, 'passage')}, as in {version}; back: openbook use {before}")


def diff(
    before: Ref,
    after: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="The later one; else the live one.", show_default=False)
    ] = None,
    book: options.Book = None,
    as_json: options.AsJson = False,
) -> None:
    """Show which documents came, changed and went between two versions, with their passages."""
    here = opened(book)
    found = here.diff(before, after)
    if as_json:
        print_json({"book": str(here.path), **asdict(found)})
        return
    for mark, style, documents in (
        ("+", "green", found.added),
        ("~", "yellow", found.changed),
        ("-", "red", found.gone),
    ):
        for document in documents:
            out().print(f"{mark} {one_line(document.name)}  {_counts(document)}", style=style, markup=False)
    counts = (
        f"{len(found.added):,} added, {len(found.changed):,} changed, {len(found.gone):,} gone, {found.same:,} same"
    )
    remark(f"version {found.before} to {found.after}: {counts}")


def _counts(document: Counted) -> str:
    if document.before and document.after and document.before != document.after:
        return f"{document.before:,} → {plural(document.after, 'passage')}"
    return plural(document.after or document.before, "passage")


def forget(
    documents: Annotated[
        list[str] | None,
        typer.Argument(metavar="DOCUMENT...", help="Names as `find` shows them, or paths; none: finish a forget."),
    ] = None,
    book: options.Book = None,
    prove: Annotated[
        bool, typer.Option("--prove", metavar="", help="Then search every file of the book for what might be left.")
    ] = False,
    tags: Annotated[
        bool, typer.Option("--tags", metavar="", help="Also versions with a tag, which hold a document.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask first.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove documents from every version, index, cache and answer of a book. It cannot be undone.

    The files they were read from stay, and a later add of their folder reads them again.
    """
    here, wanted = opened(book), list(documents or ())
    if prove and (gone := _of_files(here, wanted)):
        _proved(here, None, gone, as_json)
        return
    if not yes and not as_json and sys.stdin.isatty() and wanted:
        typer.confirm(f"Forget {', '.join(map(one_line, wanted))} in {one_line(here.path)}, for good?", abort=True)
    done = here.forget(*wanted, tags=tags, wait=complain)
    if prove:
        _proved(here, done, done.traces, as_json)
    elif as_json:
        print_json({"book": str(here.path), **_facts(done)})
    else:
        print(_summary(done))


def _of_files(book: Book, wanted: list[str]) -> Traces | None:
    """What files on the disk would leave, where the book has forgotten them all: there is only to prove it."""
    from openbook.book.documents import read
    from openbook.book.forget import known
    from openbook.book.traces import Traces
    from openbook.book.writer import document_id

    if not wanted or not all(Path(name).is_file() and not known(book.path, name) for name in wanted):
        return None
    traces = Traces()
    for name in wanted:
        document = read(name)
        traces.names[document_id(name)] = name
        traces.paths.add(os.path.abspath(name))  # noqa: PTH100  (as `add` stores paths)
        traces.read(f"{document.title}\n{document.text}")
    return traces


def _proved(book: Book, done: Forgotten | None, traces: Traces, as_json: bool) -> None:
    report = book.prove(traces)
    facts = {} if done is None else _facts(done)
    if as_json:
        print_json({"book": str(book.path), **facts, "proof": asdict(report)})
    else:
        if done is not None:
            print(_summary(done))
        print(_told(report))
        for leftover in report.left[:SHOWN]:
            complain(f"{leftover.where}: {leftover.what}")
    if report.left:
        raise Fault(f"{plural(len(report.left), 'trace')} left in {book.path}; is another process still using it?")


def _facts(done: Forgotten) -> dict[str, Any]:
    return {name: value for name, value in vars(done).items() if name != "traces"}


def _summary(done: Forgotten) -> str:
    """What a `forget` did, in one line."""
    counts = [plural(done.passages, "passage"), plural(len(done.versions), "version")]
    for count, what in ((done.neighbours, "neighbour"), (done.answers, "answer"), (len(done.tags), "tag")):
        counts += [plural(count, what)] if count else []
    what = ", ".join(map(one_line, done.documents[:3])) + (" and more" if len(done.documents) > 3 else "")
    return f"{what} forgotten: {', '.join(counts)} removed, {done.bytes / 1e6:,.1f} MB given back"


def _told(report: Report) -> str:
    """What was searched and found, in one line."""
    shared = f" ({report.shared:,} more are in other documents too)" if report.shared else ""
    searched = (
        f"{plural(report.files, 'file')} ({report.bytes / 1e6:,.1f} MB), {report.cells:,} values of tables and "
        f"{report.vocabulary:,} words of {report.vocabularies} vocabularies"
    )
    return (
        f"searched {searched} for {plural(report.sentences, 'sentence')}{shared}, "
        f"{plural(report.words, 'rarer word')}, names, ids and vectors: {len(report.left):,} found"
    )
