"""Options that several commands share, and the settings they make."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from openbook.config import Config

OUTPUT = "Output"

# An empty metavar keeps typer from writing <bool> beside a flag.
Book = Annotated[Path | None, typer.Option("--book", "-b", metavar="DIR", help="The book's folder; else ./.openbook.")]
Docs = Annotated[
    Path | None,
    typer.Option("--docs", "-d", metavar="PATH", help="A folder or file: make or refresh a book for it, and use that."),
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="One JSON document instead.", rich_help_panel=OUTPUT)]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write the evidence to a web page.", rich_help_panel=OUTPUT),
]


def configure(**given: Any) -> Config:
    """The settings of this run: options given (None: not) over environment over openbook.toml over defaults."""
    from openbook.config import BadOption, load_config

    try:
        config = load_config(**given)
    except BadOption as error:
        raise typer.BadParameter(str(error)) from error
    if config.threads:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)  # read when torch is imported, which is after this
    return config
