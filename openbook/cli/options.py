"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Book = Annotated[
    Path | None,
    typer.Option("--book", "-b", metavar="DIR", help="The book's folder.", show_default="./.openbook"),
]
Docs = Annotated[
    Path | None,
    typer.Option(
        "--docs", "-d", metavar="PATH", help="A folder or file: make or refresh a book for it first, and use that."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else.")]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write the evidence as a web page to this file.")
]
