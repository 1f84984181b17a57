"""The command on a text that somebody else wrote: `check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from openbook.cli import options
from openbook.cli.answers import print_answer, save_page
from openbook.cli.output import bar_if_told, print_json
from openbook.cli.ready import reader_for
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.answer.check import Check
    from openbook.mix.reading import Reader

UNSUPPORTED = 3


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog="Example:  openbook check draft.txt --docs notes/ --html checked.html")(check)


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The text to check; - reads it from standard input.")],
    question: Annotated[
        str | None, typer.Option("--question", "-q", metavar="Q", help="What the text is an answer to.")
    ] = None,
    book: options.Book = None,
    docs: options.Docs = None,
    model: options.Model = None,
    passages: Annotated[
        int | None, typer.Option(metavar="K", help="Passages looked up for each sentence, 1 to 64; else 5.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", metavar="", help="Exit with status 3 where anything is unsupported.")
    ] = False,
    precision: options.Precision = None,
    backend: options.Backend = None,
    kv_codec: options.KvCodec = None,
    kv_layout: options.KvLayout = None,
    as_json: options.AsJson = False,
    html: options.Html = None,
) -> None:
    """Hold a text against your documents: which passage carries each word, and which words nothing carries.

    The verdict says what could have made a model write the words, not whether the passage proves them.
    """
    text = _text(file)
    config = options.configure(
        book=book, model=model, passages=passages,
        precision=precision, backend=backend, kv_codec=kv_codec, kv_layout=kv_layout,
    )  # fmt: skip
    made = _checked(reader_for(config, docs), text, question)
    facts = made.to_dict()
    if as_json:
        print_json(facts)
    else:
        print_answer(facts)
    if html is not None:
        save_page(facts, html)
    if strict and not made.supported:
        raise typer.Exit(UNSUPPORTED)


def _checked(reader: Reader, text: str, question: str | None) -> Check:
    from openbook.answer.check import check

    with bar_if_told() as reader.progress:
        return check(text, reader, question)


def _text(file: Path) -> str:
    """The text of a file, or of standard input; bounded before it is read."""
    from openbook.book.documents import Unreadable, load

    limit = 4 * 100_000  # bytes of the longest text there may be
    if str(file) == "-":
        data = sys.stdin.buffer.read(limit + 1)
        if len(data) > limit:
            raise Fault("the text on standard input is too long to be checked at once; check it in parts")
    else:
        try:
            data = load(file.expanduser(), limit).data
        except Unreadable as error:
            raise Fault(f"{file} cannot be checked: {error.reason}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Fault(f"{file} is not text in UTF-8 (byte {error.start}); convert it first") from error
