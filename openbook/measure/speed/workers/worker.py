"""A contestant's process: loads the file it is given, then obeys JSON lines on standard input, one answer a line.

    {"call": NAME, "with": {…}}   calls that function of the file; `open` makes the contestant ready: {"answer": facts}
    {"run": true}                 one timed run of what was opened: {"answer": {"value": …, …}}

What fails is {"error": words}; the traceback is on standard error. Standard output belongs to the answers: whatever an
engine prints there goes to standard error. Nothing is imported but the standard library and what the file asks for.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any


def load(path: Path) -> ModuleType:
    """The file as a module under a name of its own: `llama_cpp.py` must not hide the package it imports."""
    spec = importlib.util.spec_from_file_location(f"contestant_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Contestant:
    """The file's functions, and what its `open` has made ready."""

    def __init__(self, path: Path) -> None:
        self.module = load(path)
        self.opened: Any = None

    def obey(self, order: dict[str, Any]) -> Any:
        """What the order asks for, as plain values."""
        if "run" in order:
            if self.opened is None:
                raise RuntimeError("nothing is open yet")
            return self.opened.run()
        call = getattr(self.module, order["call"])
        if order["call"] != "open":
            return call(**order["with"])
        self.opened = None
        gc.collect()  # the engine that was open gives back its memory before the next one takes its own
        self.opened = call(**order["with"])
        return self.opened.facts


def main() -> None:
    """Obey until standard input ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        contestant: Contestant | None = None
        for line in sys.stdin:
            try:
                contestant = contestant or Contestant(Path(sys.argv[1]))
                reply = {"answer": contestant.obey(json.loads(line))}
            except Exception as error:  # whatever an engine raises is the asker's to read
                traceback.print_exc()
                reply = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(reply) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
