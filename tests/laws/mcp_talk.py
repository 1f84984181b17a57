"""A desk with a tiny model and a folder of notes, and how its tests talk to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

import anyio
from mcp import Client

from openbook.book.embedder import HashedWords
from openbook.lm.model import LanguageModel
from openbook.mix.settings import Settings
from openbook.serve.desk import Desk
from openbook.serve.mcp import Server
from openbook.serve.shelf import Shelf, Shelved

CHANGES = {"add", "forget", "tag", "use"}
NOTES = {"comet.md": "# Comets\n\nMaurice led the comet team.\n", "a b/tail?.md": "The tail was long. It glowed."}


class Means:
    """A tiny model; counts how often it was asked for."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self.loads = model, 0

    def model(self) -> LanguageModel:
        self.loads += 1
        return self._model

    def settings(self) -> Settings:
        return Settings(max_tokens=8, margin=None, cut_repeats=False)

    def run(self, model: Any) -> dict[str, Any]:
        return {"fingerprint": "tiny"}


def notes_in(tmp_path: Path) -> Path:
    """A folder of notes, with what must not be read in it and beside it."""
    for name, text in NOTES.items():
        path = tmp_path / "notes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "notes" / ".secret.md").write_text("hidden words")
    (tmp_path / "private.md").write_text("private words")
    (tmp_path / "notes" / "out.md").symlink_to(tmp_path / "private.md")
    return tmp_path / "notes"


def desk_of(tmp_path: Path, model: LanguageModel) -> Desk:
    """Two books, both yet to be made; the notes may be added."""
    shelf = Shelf([Shelved(name, tmp_path / f"{name}.book", HashedWords) for name in ("papers", "home")])
    return Desk(shelf, Means(model), [notes_in(tmp_path)])


def talk(desk: Desk, conversation: Any, mode: str = "auto") -> Any:
    """Run a conversation with a client of this desk's server."""

    async def run() -> Any:
        async with Client(Server(desk), mode=mode) as client:
            return await conversation(client)

    return anyio.run(run)


def said(result: Any) -> str:
    return "\n".join(block.text for block in result.content)
