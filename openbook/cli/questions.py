"""Questions of a file in SQuAD's format, with its paragraphs as a book: what several measurements begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from openbook.cli import options
from openbook.cli.books import encoder
from openbook.cli.output import progress_bar
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.config import Config
    from openbook.measure.squad import Question, Squad
    from openbook.mix.reading import Reader
    from openbook.mix.settings import Settings


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
    embedder = encoder(config)
    with progress_bar() as progress:
        book = book_of(data, embedder, progress)
    name = here(config.model or "smollm2")
    from openbook.mix.reading import Reader

    reader = Reader(book, options.model_of(config, name), embedder, settings)
    return Asked(data, data.sample(count, skip=skip), reader)
