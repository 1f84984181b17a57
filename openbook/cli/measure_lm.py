"""`eval lm`: perplexity of held-out text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.output import complain, out, print_json, progress_bar

if TYPE_CHECKING:
    from openbook.config import Config
    from openbook.measure.lm import Subject

SUSPECT = 0.25
"""From this share of copied tokens on it is said that the book may hold the very texts."""
EPILOG = "Example:  openbook eval lm held-out/*.txt --book notes.book --tokens 2000"


def lm(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Held-out texts, of any kind that is read.")],
    book: options.Book = None,
    way: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A way of foretelling, or a pattern; more than once.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Foretell the first N of each file; else all.")
    ] = None,
    window: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens that are read at once.")] = 256,
    overlap: Annotated[
        int, typer.Option(metavar="N", min=1, help="Of them, tokens of the window before: context alone.")
    ] = 128,
    model: options.Model = None,
    precision: options.Precision = None,
    backend: options.Backend = None,
    kv_codec: options.KvCodec = None,
    as_json: options.AsJson = False,
) -> None:
    """Perplexity of held-out text under several ways of foretelling it; the book must not hold that text."""
    if overlap >= window:
        raise typer.BadParameter(f"--overlap is {overlap}; it must be below --window, {window}")
    config = options.configure(book=book, model=model, precision=precision, backend=backend, kv_codec=kv_codec)
    from openbook.book.documents import read

    texts = [read(file).text for file in files]
    from openbook.measure.lm import measure, ways

    chosen = list(ways(book is not None, named=way or ()).items())
    subject = _subject(config, book is not None)
    with progress_bar() as progress:
        made = measure(subject, texts, chosen, length=window, overlap=overlap, tokens=tokens, progress=progress)
    if subject.kept is not None:
        subject.kept.flush()
    facts: dict[str, Any] = {
        "files": [str(file) for file in files],
        "tokens": made.tokens,
        "bytes": made.bytes,
        "window": window,
        "overlap": overlap,
        "model": subject.model.name,
        "machine": _machine(subject),
        "book": None if subject.book is None else {"path": str(subject.book.path), "version": subject.book.version},
        "copied": made.share_copied,
        "ways": made.figures(),
    }
    if as_json:
        print_json(facts)
    else:
        _show(facts)
    if made.share_copied >= SUSPECT:
        complain(
            f"the book says {100 * made.share_copied:.0f} % of these texts word for word; was it to be without them?"
        )


def _subject(config: Config, with_book: bool) -> Subject:
    from openbook.cli.models import here

    name = here(config.model or "smollm2")
    from openbook.measure.lm import Subject

    model = options.model_of(config, name)
    if not with_book:
        return Subject(model)
    from openbook.book.store import open_book
    from openbook.cli.books import encoder
    from openbook.mix.reading import passage_cache

    opened = open_book(config.book, create=False)
    return Subject(model, opened, encoder(config), kept=passage_cache(opened, model, config.kv_memory, config.kv_disk))


def _machine(subject: Subject) -> str:
    import torch

    from openbook.measure.machine import processor

    return f"{processor()}, {torch.get_num_threads()} threads, {subject.model.served}"


def _show(facts: dict[str, Any]) -> None:
    from rich.table import Column, Table

    console = out()
    head = f"{facts['tokens']:,} tokens in windows of {facts['window']} overlapping by {facts['overlap']}"
    console.print(f"{head}; {facts['model']}; {facts['machine']}", markup=False)
    console.print(f"{100 * facts['copied']:.1f} % of them stand in the book word for word, in runs of 13 words or more")
    names = ("perplexity", "bits a byte", "against the first", "… where new", "seconds")
    grid = Table("way", *(Column(name, justify="right") for name in names))
    for name, by in facts["ways"].items():
        change = f"{100 * (by['against'] - 1):+.1f} % ± {100 * by['against'] * by['error']:.1f}"
        new = "" if by["new"] is None else f"{by['new']:.2f} ({100 * (by['new_against'] - 1):+.1f} %)"
        grid.add_row(name, f"{by['perplexity']:.2f}", f"{by['bits_per_byte']:.3f}", change, new, f"{by['seconds']:.1f}")
    console.print(grid)
