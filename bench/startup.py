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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType
from typing import Any

TRACE, BEGAN = "OPENBOOK_BENCH_TRACE", "OPENBOOK_BENCH_BEGAN"
IMPORTS = ("torch", "numpy", "lance", "typer", "rich.console", "pydantic_settings", "tokenizers", "jinja2")
FUNCTIONS = {
    "openbook.cli.options": {"configure": "settings"},
    "openbook.book.store": {"open_book": "open book"},
    "openbook.book.retrieve": {"find": "retrieve"},
    "openbook.lm.encoder": {"load_encoder": "load encoder"},
    "openbook.lm.model": {"load_model": "load model"},
    "openbook.lm.weights.checkpoint": {
        "open_checkpoint": "open checkpoint",
        "Checkpoint.tokenizer": "read vocabulary",
        "Checkpoint.fingerprint": "fingerprint",
    },
    "openbook.lm.weights.tokenizer_json": {"build": "build tokenizer"},
    "openbook.lm.weights.chat": {"render": "chat template"},
    "openbook.mix.sources.branches": {"Branches._prefixes": "prefixes", "Branches._ask": "question"},
    "openbook.lm.backends.torch": {"TorchRunner.load": "weights", "TorchRunner.cache": "restore cache"},
    "openbook.lm.backends.native": {"NativeRunner.load": "weights", "NativeRunner.cache": "restore cache"},
    "openbook.mix.reading": {"Reader.begin": "read question"},
}
"""What is a phase besides the import of a module: functions of ours; phases may contain or overlap each other."""

Span = tuple[str, float, float, float]
"""A phase, when it began and ended, and the CPU seconds of the process meanwhile."""


class Tracer(MetaPathFinder):
    """Times imports as they happen and functions once their module is there, without importing anything itself."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """The module's own spec, its loader wrapped; only for modules with a phase."""
        if name not in IMPORTS and name not in FUNCTIONS:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = Watched(spec.loader, self)  # type: ignore[assignment]
        return spec

    @contextmanager
    def span(self, phase: str) -> Iterator[None]:
        """Note what happens inside as one phase."""
        began, cpu = time.time(), time.process_time()
        try:
            yield
        finally:
            self.spans.append((phase, began, time.time(), time.process_time() - cpu))

    def watch(self, module: Any, path: str, phase: str) -> None:
        """Put a clock around a function of a module or class; one that is not there (another backend's) is not."""
        *owners, name = path.split(".")
        owner = module
        for each in owners:
            owner = getattr(owner, each, None)
        function = None if owner is None else vars(owner).get(name)
        if isinstance(function, classmethod | FunctionType):
            plain = function.__func__ if isinstance(function, classmethod) else function

            @wraps(plain)
            def timed(*args: Any, **kwargs: Any) -> Any:
                with self.span(phase):
                    return plain(*args, **kwargs)

            setattr(owner, name, classmethod(timed) if isinstance(function, classmethod) else timed)


class Watched(Loader):
    """A loader that times the import, or puts the clocks around the module's functions."""

    def __init__(self, loader: Loader, tracer: Tracer) -> None:
        self.loader, self.tracer = loader, tracer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> Any:
        """As the module's own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """As the module's own loader does, timed."""
        if module.__name__ in IMPORTS:
            with self.tracer.span(f"import {module.__name__.partition('.')[0]}"):
                self.loader.exec_module(module)
            return
        self.loader.exec_module(module)
        for path, phase in FUNCTIONS[module.__name__].items():
            self.tracer.watch(module, path, phase)


def traced(arguments: list[str]) -> int:
    """The child of `--phases`: the command itself, with its spans written to the file that the environment names."""
    tracer = Tracer()
    tracer.spans.append(("interpreter", float(os.environ[BEGAN]), time.time(), time.process_time()))
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
            environment = {**os.environ, TRACE: str(spans), BEGAN: repr(began), "TERM": "xterm"}
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
            self.spans: list[Span] = json.loads(spans.read_text()) if spans.exists() else []


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
    """The phases of one process in the order they began, those of one name together: milliseconds from its start."""
    print("phases of one more run; they may contain or overlap each other")
    print(f"{'begins':>8} {'takes':>8} {'CPU':>8}  ms")
    by_name: dict[str, list[Span]] = {}
    for span in sorted(run.spans, key=lambda span: (span[1], -span[2])):
        by_name.setdefault(span[0], []).append(span)
    for name, spans in by_name.items():
        times = f" ({len(spans)} times)" if len(spans) > 1 else ""
        takes, cpu = sum(end - start for _, start, end, _ in spans), sum(span[3] for span in spans)
        print(f"{1e3 * (spans[0][1] - run.began):8.0f} {1e3 * takes:8.0f} {1e3 * cpu:8.0f}  {name}{times}")
    print(f"{1e3 * run.seconds:8.0f} {'':8} {1e3 * run.cpu:8.0f}  first token")


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
