"""`openbook why --replay`: an answer asked again at its version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from openbook.cli import options
from openbook.cli.output import complain, out, plural, print_json
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.answer.replay import Replayed

DIFFERS = 1


def replayed(folder: Path, answer: dict[str, Any], as_json: bool) -> None:
    """Ask an answer again at its version, as it was asked; print whether it is the same, exit status 1 if not."""
    from openbook.answer.replay import how_it_ran, replay

    run = how_it_ran(answer)
    config = options.configure(**{name: value for name, value in run.items() if value is not None}, book=folder)
    from openbook.cli.books import encoder
    from openbook.cli.models import here

    version = answer["book"]["version"]
    from openbook.book.store import open_book
    from openbook.book.versions import gone

    if gone(folder, version):
        raise Fault(f"version {version}, at which this was answered, is gone from {folder}; it cannot be replayed")
    model = options.model_of(config, here(config.model or "smollm2"))
    found = replay(answer, open_book(folder, create=False, at=version), model, encoder(config))
    if as_json:
        print_json(_facts(found, version))
    else:
        _tell(found, version)
    if not found.same:
        raise typer.Exit(DIFFERS)


def _facts(found: Replayed, version: int) -> dict[str, Any]:
    names = ("same", "first", "was", "now", "largest")
    return {"version": version, **{name: getattr(found, name) for name in names}, "replayed": found.answer.to_dict()}


def _tell(found: Replayed, version: int) -> None:
    count = plural(len(found.answer.tokens), "token")
    if found.same:
        apart = "every probability too" if found.largest == 0 else f"probabilities differ by up to {found.largest:.1g}"
        out().print(f"the same at version {version}, token for token: {count}, {apart}", markup=False)
    else:
        complain(f"not the same at version {version}: token {found.first} was {found.was!r} and is {found.now!r}")
