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
    from openbook.config import Config

DIFFERS = 1


def replayed(folder: Path, answer: dict[str, Any], model: str | None, as_json: bool) -> None:
    """Ask an answer again at its version, as it was asked; print whether it is the same, exit status 1 if not.

    `model`: what the person says that it was given by.
    """
    from openbook.answer.replay import how_it_ran, replay

    config = _as_it_ran(how_it_ran(answer), folder, model)
    from openbook.cli.books import encoder
    from openbook.cli.models import here

    version = answer["book"]["version"]
    from openbook.book.store import open_book
    from openbook.book.versions import gone

    if gone(folder, version):
        raise Fault(f"version {version}, at which this was answered, is gone from {folder}; it cannot be replayed")
    loaded = options.model_of(config, here(config.model or "smollm2"))
    found = replay(answer, open_book(folder, create=False, at=version), loaded, encoder(config))
    if as_json:
        print_json(_facts(found, version))
    else:
        _tell(found, version)
    if not found.same:
        raise typer.Exit(DIFFERS)


def _as_it_ran(run: dict[str, str], folder: Path, model: str | None) -> Config:
    """The settings of the answer's run; of models, only what this person's own word or the catalogue names.

    A book may come from somebody else, and so may the files that its answers name.
    """
    own = options.configure(book=folder, model=model)
    said = {"model": f"why --replay --model {run.get('model')}", "encoder": f"OPENBOOK_ENCODER={run.get('encoder')}"}
    for what, how in said.items():
        named = run.get(what)
        if named is not None and (what != "model" or model is None) and not _known(named, getattr(own, what)):
            raise Fault(f"this answer's {what} was {named}, which its file alone names; if you trust it, say so: {how}")
    try:
        return options.configure(**run | ({} if model is None else {"model": model}), book=folder)
    except typer.BadParameter as error:
        raise Fault(f"how this answer's model ran cannot be read back: {error.message}") from error


def _known(name: str, own: str | None) -> bool:
    """Whether it is what the settings name, or a model of the catalogue that is here."""
    from openbook.lm.weights.pull import find, installed

    return name == own or find(name) in installed()


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
