"""A contestant as a process that stays loaded: orders out, answers in, a line of JSON each."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openbook.errors import Fault
from openbook.measure.speed.environments import Environment

WORKERS = Path(__file__).parent / "workers"
LAST_WORDS = 300
# What would let one contestant's idle threads take a core from the next, or tell them apart by how the bench was begun.
SCRUBBED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "OMP_PLACES")


class Worker:
    """A running process of `workers/SCRIPT.py`, in a rival's environment or (None) in ours."""

    def __init__(self, script: str, environment: Environment | None, threads: int) -> None:
        self.name = environment.name if environment else "openbook"
        python, alone = (str(environment.python), "-I") if environment else (sys.executable, "-P")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 closed in `close`
        self._process = subprocess.Popen(  # noqa: S603 our own command
            [python, alone, str(WORKERS / "worker.py"), str(WORKERS / f"{script}.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, 
            env=surroundings(threads), encoding="utf-8",
        )  # fmt: skip

    def call(self, name: str, **given: Any) -> Any:
        """What a function of the script returns."""
        return self._ask({"call": name, "with": given})

    def run(self) -> dict[str, Any]:
        """One timed run of what was opened."""
        answer: dict[str, Any] = self._ask({"run": True})
        return answer

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._said.close()

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 both are pipes
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Fault(f"the process of {self.name} ended: {self._last_words()}")
        reply = json.loads(line)
        if "error" in reply:
            raise Fault(f"{self.name}: {reply['error']}")
        return reply["answer"]

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:LAST_WORDS] if lines else f"status {self._process.poll()}, nothing said"


def surroundings(threads: int) -> dict[str, str]:
    """The environment of every contestant: the same threads, and nothing about how idle ones wait."""
    kept = {key: value for key, value in os.environ.items() if key not in SCRUBBED}
    count = str(threads)
    return {**kept, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "TOKENIZERS_PARALLELISM": "true"}


# It ends with whoever asked for it, however they end: a bench that is killed leaves nothing that spins.
WHILE_ASKED = "asker = os.getppid()\nprint(flush=True)\nwhile os.getppid() == asker: pass"


@contextlib.contextmanager
def busy_program() -> Iterator[int]:
    """While this lasts another program (its process id) computes without end, on the first core if one can say so."""
    spin = "import os\nif hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    command = [sys.executable, "-I", "-c", spin + WHILE_ASKED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as spinning:  # noqa: S603 our own command
        try:
            assert spinning.stdout is not None  # noqa: S101 it is a pipe
            spinning.stdout.readline()  # it spins from here on
            yield spinning.pid
        finally:
            spinning.kill()
