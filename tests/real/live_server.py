"""A server in a process of its own, with the small real model and a book of made-up notes, for the tests' clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from openbook.errors import Fault

NOTES = {
    "comet.md": "# The comet team\n\nThe comet Halvorsen was first seen in March 1961 from the hills above Bergen. The "
    "team that followed it was led by Maurice Lindqvist, who had built the plate camera.\n",
    "garden.md": "# The garden\n\nThe observatory garden has eleven apple trees. They were planted by Ingrid Solberg "
    "in 1948. In autumn the apples are pressed to juice.\n",
}
QUESTION = "Who planted the apple trees?"


def needs_models() -> None:
    """Skip where the small model or the encoder is not here."""
    from openbook.lm.weights.pull import locate

    for name in ("smollm2", "minilm"):
        try:
            locate(name, fetch=False)
        except Fault:
            pytest.skip(f"needs the model {name}: openbook models pull {name}")


class Server:
    """A running `openbook serve`: its address, its process, what it has said."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address
        self.said: list[str] = []
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()

    def _listen(self) -> None:
        for line in self.process.stderr or ():
            self.said.append(line)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal and wait; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(120)


@contextmanager
def serving(book: Path, *options: str, **environment: str) -> Iterator[Server]:
    """`openbook serve` on a book, at a port that is free."""
    command = [sys.executable, "-c", "from openbook.cli import main; main()"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("OPENBOOK_") or "HOME" in name}
    process = subprocess.Popen(
        [*command, "serve", "--book", str(book), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=book.parent,
        env={**own, **environment},
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"http://\S+", line)
        if found is None:
            raise AssertionError(f"it did not start: {line}{process.stderr.read() if process.stderr else ''}")
        yield Server(process, found[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


def book_of(folder: Path, notes: dict[str, str] | None = None) -> Path:
    """A book of notes, made with the real encoder."""
    from openbook.book.store import open_book

    source = folder / "notes"
    source.mkdir()
    for name, text in (notes or NOTES).items():
        (source / name).write_text(text)
    open_book(folder / "notes.book").add(source)
    return folder / "notes.book"


def openai_client(server: Server) -> Any:
    """The official client."""
    openai = pytest.importorskip("openai", reason="needs the openai package")
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=300)
