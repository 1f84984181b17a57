"""`openbook ask` on a warm book, the whole process: from its start to the first token on the terminal.

The command runs as a person runs it, its output a terminal of this script's own; the clock stops at the first byte it
prints, which is the first token of the answer. CPU time is the process's own up to there, which other programs on the
machine disturb less. The keys and values of the passages are on disk: a question is asked once before, uncounted.

    .venv/bin/python bench/startup.py [--passages 1000] [--runs 7] [--model smollm2] [--phases]
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

TRACE = "OPENBOOK_BENCH_TRACE"
PHASES = {
    "torch": ("import torch",),
    "numpy": ("import numpy",),
    "lance": ("import lance",),
    "typer": ("import typer",),
    "rich.console": ("import rich",),
    "pydantic_settings": ("import pydantic",),
    "tokenizers": ("import tokenizers",),
    "openbook.cli.options": ("settings", "configure"),
    "openbook.book.store": ("open book", "open_book"),
    "openbook.book.retrieve": ("retrieve", "find"),
    "openbook.lm.encoder": ("load encoder", "load_encoder"),
    "openbook.lm.model": ("load model", "load_model"),
    "openbook.mix.prompt": ("frame passages", "Framing.prefix"),
    "openbook.mix.sources.branches": ("prefixes", "Branches._prefixes"),
    "openbook.lm.backends.torch": ("restore cache", "TorchRunner.cache"),
    "openbook.mix.reading": ("question read", "Reader.begin"),
}
"""What a phase is: the import of a module, or a function of it; phases may contain or overlap each other."""


class Tracer(MetaPathFinder):
    """Times imports as they happen and functions once their module is there, without importing anything itself."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, float, float]] = []

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """The module's own spec, its loader wrapped; only for modules of `PHASES`."""
        if name not in PHASES:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = Watched(spec.loader, self, *PHASES[name])  # type: ignore[assignment]
        return spec

    def watch(self, owner: Any, name: str, phase: str) -> None:
        """Put a clock around `owner.name`."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.time()
            try:
                return function(*args, **kwargs)
            finally:
                self.spans.append((phase, began, time.time()))

        setattr(owner, name, timed)


class Watched(Loader):
    """A loader that times the import and then puts the clock around the phase's function."""

    def __init__(self, loader: Loader, tracer: Tracer, phase: str, function: str | None = None) -> None:
        self.loader, self.tracer, self.phase, self.function = loader, tracer, phase, function

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        """As the module's own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """As the module's own loader does, timed."""
        began = time.time()
        self.loader.exec_module(module)
        if self.function is None:
            self.tracer.spans.append((self.phase, began, time.time()))
            return
        *owners, name = self.function.split(".")
        for owner in owners:
            module = getattr(module, owner)
        self.tracer.watch(module, name, self.phase)


def traced(arguments: list[str]) -> int:
    """The child of `--phases`: the command itself, with its spans written to the file that the environment names."""
    tracer = Tracer()
    tracer.spans.append(("interpreter", float(os.environ["OPENBOOK_BENCH_BEGAN"]), time.time()))
    sys.meta_path.insert(0, tracer)
    from openbook.cli import main

    try:
        return main(arguments)
    finally:
        Path(os.environ[TRACE]).write_text(json.dumps(tracer.spans), encoding="utf-8")


class Run:
    """One process: seconds and CPU seconds to its first byte on the terminal, and its spans where it was traced."""

    def __init__(self, command: list[str]) -> None:
        master, slave = pty.openpty()
        with tempfile.TemporaryDirectory() as folder:
            spans = Path(folder) / "spans.json"
            began = time.time()
            environment = {**os.environ, TRACE: str(spans), "OPENBOOK_BENCH_BEGAN": repr(began), "TERM": "xterm"}
            with (Path(folder) / "err").open("w+b") as errors:
                process = subprocess.Popen(command, stdout=slave, stderr=errors, env=environment)
                os.close(slave)
                first = _read(master)
                self.seconds = time.time() - began
                self.cpu = _cpu_seconds(process.pid)
                while first and _read(master):
                    pass
                os.close(master)
                if process.wait() or not first:
                    errors.seek(0)
                    raise SystemExit(f"{' '.join(command)} failed: {errors.read().decode(errors='replace')}")
            self.began = began
            self.spans: list[tuple[str, float, float]] = json.loads(spans.read_text()) if spans.exists() else []


def _read(master: int) -> bytes:
    try:
        return os.read(master, 1 << 16)
    except OSError:  # Linux's way of saying that the other side has closed
        return b""


def _cpu_seconds(pid: int) -> float:
    """User and system time of a running process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(runs: Sequence[Run]) -> None:
    """Median and range of what was measured."""
    for name, values in (("wall", [run.seconds for run in runs]), ("CPU", [run.cpu for run in runs])):
        print(f"{name:5} {statistics.median(values):6.2f} s  ({min(values):.2f} to {max(values):.2f})")


def show_phases(run: Run) -> None:
    """The spans of one process in the order they began: milliseconds from its start, and how long."""
    print("phases of one more run; they may contain or overlap each other (ms: begins, takes)")
    for phase, began, ended in sorted(run.spans, key=lambda span: (span[1], -span[2])):
        print(f"{1e3 * (began - run.began):8.0f} {1e3 * (ended - began):8.0f}  {phase}")
    print(f"{1e3 * run.seconds:8.0f}           first token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--phases", action="store_true")
    options = parser.parse_args()
    from ask import warm_book

    book = warm_book(options.passages)
    title = random.Random(1).choice([document.title for document in book.documents()])
    asked = ["ask", f"Who founded the {title}?", "--anyway", "--max-tokens", "4"]
    asked += ["--book", str(book.path), "--model", options.model]
    ask = [str(Path(sys.executable).with_name("openbook")), *asked]
    Run(ask)
    runs = [Run(ask) for _ in range(options.runs)]
    from openbook.measure.machine import processor

    threads = os.environ.get("OMP_NUM_THREADS", f"{os.cpu_count()}")
    print(f"{processor()}, {threads} threads, {options.model}, {book.count} passages; median (range) of {len(runs)}")
    report(runs)
    if options.phases:
        show_phases(Run([sys.executable, __file__, "--traced", *asked]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--traced"]:
        sys.exit(traced(sys.argv[2:]))
    main()
