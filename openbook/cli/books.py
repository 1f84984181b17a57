"""Commands on books: `add`, `find`; and which book a command means."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openbook.cli import options
from openbook.cli.output import complain, one_line, out, plural, print_json, progress_bar, remark
from openbook.errors import Fault
from openbook.home import home

if TYPE_CHECKING:
    from openbook.book.adding import Added
    from openbook.book.embedder import Embedder
    from openbook.book.retrieve import Hit
    from openbook.book.store import Book
    from openbook.config import Config

SHOWN_SKIPPED = 20
BROADEST = 100
"""Columns of text a line has at most: longer lines are hard to read."""


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command(epilog="Example:  openbook add notes/ report.pdf --book work.book")(add)
    app.command(epilog="Example:  openbook find 'comet team' -k 3")(find)


def add(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Files and folders to read.")],
    book: options.Book = None,
    neighbours: Annotated[
        bool,
        typer.Option("--neighbours", metavar="", help="Have a model remember the text too: kNN-LM (ask --lambda-knn)."),
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="M", help="Whose neighbours; else smollm2.")
    ] = None,
    careful: Annotated[
        bool,
        typer.Option(
            "--careful",
            metavar="",
            help="Files of strangers: read each in a process apart, bounded in memory and time.",
        ),
    ] = False,
) -> None:
    """Read files and folders into a book; again: update what changed."""
    config = options.configure(book=book, model=model)
    for path in paths:
        if not os.path.lexists(path.expanduser()):  # before the encoder is loaded, and before a book is made
            raise Fault(f"{path} does not exist; nothing was added")
    from openbook.book.store import open_book

    opened = open_book(config.book)
    added = _add(opened, paths, encoder(config), careful)
    holds = f"{one_line(opened.path)} holds {plural(opened.count, 'passage')}"
    print(f"{summary(added)} in {added.seconds:.1f} s; {holds}")
    if neighbours:
        print(_memorise(opened, config))


def _memorise(book: Book, config: Config) -> str:
    """Have the model remember what it has not read yet; what that came to."""
    from openbook.cli.models import here

    model = options.model_of(config, here(config.model or "smollm2"))
    from openbook.mix.memorise import memorise

    with progress_bar() as progress:
        made = memorise(book, model, progress)
    return f"{plural(made.rows, 'neighbour')} of {plural(made.documents, 'document')} in {made.seconds:.1f} s"


def find(
    query: Annotated[str, typer.Argument(help="What to look for, in words or as a question.")],
    book: options.Book = None,
    docs: options.Docs = None,
    at: options.At = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, max=1000, help="How many passages.")] = 5,
    by: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="fused, bm25, dense; or on through names: graph, pagerank. Else fused."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Find the passages that fit a query, without asking the model."""
    config = options.configure(book=book)
    if not query.strip():
        raise Fault("the query is empty; say what to look for")
    opened, embedder = open_for(config, docs, at)
    from openbook.book.documents import tidy
    from openbook.book.retrieve import find as search
    from openbook.book.retrieve import hit_dicts

    if by in ("graph", "pagerank"):
        with progress_bar() as progress:
            opened.graph(progress)
    hits = search(opened, tidy(query), k, embedder, by=by or "fused")
    if as_json:
        seen = {"path": str(opened.path), "version": opened.version}
        print_json({"query": query, "book": seen, "hits": hit_dicts(hits)})
    else:
        show(hits)


def encoder(config: Config) -> Embedder:
    """The text encoder of the settings, fetched first if it is not here."""
    from openbook.cli.models import here

    name = here(config.encoder or "minilm")
    from openbook.lm.encoder import load_encoder

    return load_encoder(name)


def check_there(config: Config, docs: Path | None, at: str | None = None) -> None:
    """Raise `Fault` where the book or the documents a command means are not there: before anything slow is done."""
    if docs is not None and at is not None:
        raise Fault("--docs brings a book up to date, --at looks at an old version; give one of them")
    if docs is not None and not docs.expanduser().exists():
        raise Fault(f"{docs} does not exist; --docs takes a folder or a file of documents")
    if docs is None and not config.book.expanduser().exists():
        raise Fault(
            f"there is no book at {config.book}; make one with: openbook add FOLDER --book {config.book} "
            "(or ask a folder directly with --docs FOLDER)"
        )


def open_for(config: Config, docs: Path | None, at: str | None = None) -> tuple[Book, Embedder]:
    """The book a command means, and its encoder: the one made of `docs` and brought up to date, else the one set."""
    from openbook.book.store import open_book

    check_there(config, docs, at)
    if docs is not None:
        return _of_documents(config, docs)
    book = open_book(config.book, create=False, at=at)
    return book, encoder(config)


def book_for(docs: Path) -> Path:
    """Where the book of a folder or file given as `--docs` is kept."""
    whole = Path(os.path.abspath(docs.expanduser()))  # noqa: PTH100  (as the book counts: links stay links)
    digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:12]
    return home() / "books" / f"{whole.name or 'root'}-{digest}"


def _of_documents(config: Config, docs: Path) -> tuple[Book, Embedder]:
    from openbook.book.store import open_book

    path = book_for(docs)
    embedder = encoder(config)
    with _turn(path):
        book = open_book(path)
        added = _add(book, [docs], embedder)
    if added.documents or added.dropped:
        complain(summary(added))
    return book, embedder


@contextmanager
def _turn(book: Path) -> Iterator[None]:
    """Wait until another `--docs` on the same folder is done: a person with two terminals made no mistake."""
    book.parent.mkdir(parents=True, exist_ok=True)
    with book.with_name(book.name + ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _add(book: Book, paths: list[Path], embedder: Embedder, careful: bool = False) -> Added:
    with progress_bar() as progress:
        added = book.add(*paths, encoder=embedder, progress=progress, wait=complain, careful=careful)
    for skipped in added.skipped[:SHOWN_SKIPPED]:
        complain(f"skipped {skipped.name}: {skipped.reason}")
    if len(added.skipped) > SHOWN_SKIPPED:
        complain(f"skipped {len(added.skipped) - SHOWN_SKIPPED:,} more")
    for note in added.notes[:SHOWN_SKIPPED]:
        remark(note)
    return added


def summary(added: Added) -> str:
    """What an `add` did in one line: `2 documents read, 14 passages, 1 skipped`."""
    words = [f"{plural(added.documents, 'document')} read", plural(added.passages, "passage")]
    counts = {"unchanged": added.unchanged, "replaced": added.replaced, "dropped": added.dropped}
    words += [f"{count:,} {what}" for what, count in counts.items() if count]
    if added.skipped:
        words.append(f"{len(added.skipped):,} skipped")
    if added.ignored:
        words.append(f"{added.ignored:,} of other kinds left out")
    return ", ".join(words)


def show(hits: list[Hit]) -> None:
    """Print the passages found, with their places; nothing in them reaches the terminal as a command."""
    from rich.text import Text

    from openbook.answer.page.values import clean

    console = out()
    for rank, hit in enumerate(hits, 1):
        p = hit.passage
        place = f"page {p.page}" if p.page is not None else f"line {p.line}"
        title = Text.assemble((f"{rank} ", "bold"), (one_line(p.document), "bold cyan"), (f"  {place}", "dim"))
        title.append(f"  {hit.score:.2f} (meaning {hit.dense:.2f}, words {hit.lexical:.1f})", "dim")
        console.print(title, soft_wrap=True)
        if hit.through:
            console.print(Text("  through " + one_line(", ".join(step.name for step in hit.through)), "dim"))
        for line in Text(clean(p.text)).wrap(console, max(8, min(console.width, BROADEST) - 2)):
            indented = Text("  ") + line
            indented.rstrip()
            console.print(indented, soft_wrap=True)
        console.print()
