"""Questions of a file in SQuAD's format, with its paragraphs as a book: what several measurements begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from openbook.cli import options
from openbook.cli.books import encoder
from openbook.cli.output import progress_bar
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.config import Config
    from openbook.measure.squad import Question, Squad
    from openbook.mix.reading import Reader
    from openbook.mix.settings import Settings

File = Annotated[Path, typer.Argument(metavar="FILE", help="Questions in SQuAD's format, .json or .json.gz.")]
Count = Annotated[int, typer.Option(metavar="N", min=1, help="How many, of a fixed shuffle.")]
Skip = Annotated[int, typer.Option(metavar="N", min=0, help="Leave out this many first.")]
MaxTokens = Annotated[int, typer.Option(metavar="N", min=1, help="Longest answer; gold answers are short.")]


class Asked(NamedTuple):
    """The whole file, the questions that were chosen of it, and who answers them from its paragraphs."""

    data: Squad
    questions: list[Question]
    reader: Reader


def asked_of(file: Path, config: Config, settings: Settings, count: int, skip: int) -> Asked:
    """`count` questions of a fixed shuffle after the first `skip`, and the file's paragraphs as a book."""
    from openbook.cli.models import here
    from openbook.measure.squad import book_of, read_squad

    data = read_squad(file)
    if skip >= len(data.questions):
        raise Fault(f"--skip {skip} leaves out every question: {file} has {len(data.questions)}")
    model = options.model_of(config, here(config.model or "smollm2"))  # before the paragraphs: they take minutes
    embedder = encoder(config)
    with progress_bar() as progress:
        book = book_of(data, embedder, progress)
    from openbook.mix.reading import Reader

    return Asked(data, data.sample(count, skip=skip), Reader(book, model, embedder, settings))
