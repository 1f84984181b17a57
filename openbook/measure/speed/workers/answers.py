"""openbook answering: seconds to the first token of a question, in a process that stays and in one that starts."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from openbook.home import home
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.model import load_model
from openbook.mix.prompt import Framing
from openbook.mix.reading import make_of
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, Branch, Branches

BUDGET = 1 << 40
"""Bytes: nothing that is kept is evicted."""
COMMAND = "import sys; from openbook.cli import main; sys.exit(main())"


def open(race: str, threads: int, **task: Any) -> FirstToken | Startup:
    """Ready for a race; every other argument is the race's own."""
    torch.set_num_threads(threads)
    if race == "startup":
        return Startup(**task)
    return FirstToken(**task)


class FirstToken:
    """The question read under every passage and the closed book, until the first token's distribution is known.

    `kept`: where the passages' keys and values are: "nowhere", in "memory", or on "disk", read by a store that holds
    nothing in memory yet (the system still holds the files' pages, as on a machine that has answered before).
    """

    def __init__(self, model: str, passages: Sequence[str], questions: Sequence[str], kept: str) -> None:
        self.model, self.questions, self.kept, self.asked = load_model(model), questions, kept, 0
        self.framing, self.make = Framing(self.model.tokenizer), make_of(self.model)
        rows = [Branch(Label(f"p{i}", "passage"), f"p{i}", (text,)) for i, text in enumerate(passages)]
        self.rows = [*rows, CLOSED_BOOK]
        home().mkdir(parents=True, exist_ok=True)
        self.folder = tempfile.TemporaryDirectory(prefix="bench-", dir=home())  # not in memory, as /tmp may be
        self.memory = PrefixStore(BUDGET, make=self.make)
        self.facts = {"engine": f"openbook, {self.model.served}", "passages kept": kept}
        store = self.store()
        self.ask(store)
        if store is not None:
            store.flush()

    def store(self) -> PrefixStore | None:
        """Where this run finds the passages."""
        if self.kept == "disk":
            return PrefixStore(BUDGET, Path(self.folder.name), BUDGET, self.make)
        return self.memory if self.kept == "memory" else None

    def ask(self, store: PrefixStore | None) -> float:
        """Seconds of a question that was not asked before."""
        question = self.questions[self.asked % len(self.questions)]
        self.asked += 1
        began = time.perf_counter()
        first = Branches(self.model, self.framing, self.rows, question, room=64, store=store).start()
        first.amax().item()
        return time.perf_counter() - began

    def run(self) -> dict[str, Any]:
        """The next question, in milliseconds."""
        return {"value": 1e3 * self.ask(self.store())}


class Startup:
    """`openbook ask` as a process: from its start to the first byte on its terminal, which is the answer's first token.

    It runs in a home of its own, so that whoever benches still has their last answer.
    """

    def __init__(self, model: str, book: str, question: str) -> None:
        script = Path(sys.executable).with_name("openbook")
        start = [str(script)] if script.is_file() else [sys.executable, "-c", COMMAND]
        self.command = [*start, "ask", question, "--book", book, "--model", model, "--anyway", "--max-tokens", "4"]
        self.home = tempfile.TemporaryDirectory()
        (Path(self.home.name) / "models").symlink_to(home() / "models", target_is_directory=True)
        self.facts = {"engine": "openbook ask"}

    def run(self) -> dict[str, Any]:
        """One process, in seconds."""
        master, slave = pty.openpty()
        environment = {**os.environ, "OPENBOOK_HOME": self.home.name, "TERM": "xterm"}
        with tempfile.TemporaryFile() as errors:
            began = time.perf_counter()
            process = subprocess.Popen(self.command, stdout=slave, stderr=errors, env=environment)  # noqa: S603 ours
            os.close(slave)
            first = _read(master)
            seconds = time.perf_counter() - began
            while _read(master):
                pass
            os.close(master)
            if process.wait() or not first:
                errors.seek(0)
                raise RuntimeError(f"openbook ask failed: {errors.read().decode(errors='replace').strip()}")
        return {"value": seconds}


def _read(master: int) -> bytes:
    try:
        return os.read(master, 1 << 16)
    except OSError:  # how Linux says that the other side has closed
        return b""
