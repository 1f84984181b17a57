"""Rivals, each in a virtual environment of its own under openbook's home: nothing of theirs comes near ours.

Every version is pinned (`rivals/NAME.txt`). An environment is named after its rival's version, made once, and whole
only when its record is written, so a stopped installation is begun again.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openbook.errors import Fault
from openbook.home import home

RECORD = "openbook-rival.txt"
LAST_WORDS = 300
TICK = 5.0
"""Seconds after which who waits is told that it still runs."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Environment:
    """A rival's packages. `compiled` are built here from source, with `variables` set."""

    name: str
    packages: tuple[str, ...]
    compiled: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def pins(self) -> Path:
        """The file with the version of every package."""
        return Path(__file__).parent / "rivals" / f"{self.name}.txt"

    @property
    def version(self) -> str:
        """Of the first package, which is the rival."""
        return self.pinned()[0].split("==")[1]

    def pinned(self) -> list[str]:
        """The packages asked for, each with its version."""
        lines = self.pins.read_text(encoding="utf-8").splitlines()
        found = {line.split("==")[0].lower().replace("_", "-"): line for line in lines if "==" in line}
        return [found[name] for name in self.packages]

    @property
    def folder(self) -> Path:
        """Where it is installed."""
        return home() / "rivals" / f"{self.name}-{self.version}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def recipe(self) -> str:
        """What it was made of: another recipe or Python is another environment."""
        made = [sys.version, *self.compiled, *(f"{key}={value}" for key, value in sorted(self.variables.items()))]
        return "\n".join([*made, self.pins.read_text(encoding="utf-8")])

    @property
    def here(self) -> bool:
        """Whether it is installed whole, as this version of openbook wants it."""
        try:
            return (self.folder / RECORD).read_text(encoding="utf-8") == self.recipe
        except OSError:
            return False

    def install(self, tell: Tell) -> None:
        """Make it if it is not here, telling what is done. Raises `Fault` with pip's last words if it cannot be."""
        if self.here:
            return
        if self.compiled and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            raise Fault(
                f"{self.name} is compiled for this machine, and there is no C++ compiler; install g++ or clang++"
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        log = self.folder.with_name(f"{self.folder.name}.log")
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w", encoding="utf-8") as said:
                for what, command in self.commands():
                    self._run(command, said, tell, what)
            (self.folder / RECORD).write_text(self.recipe, encoding="utf-8")
        except OSError as error:
            raise Fault(f"{self.folder} cannot be written ({error}); set OPENBOOK_HOME to a folder that can") from error
        except subprocess.CalledProcessError as error:
            raise Fault(
                f"{self.name} could not be installed: {_last_words(log)}; the whole of it is in {log}"
            ) from error

    def commands(self) -> list[tuple[str, list[str]]]:
        """What makes it, each with words for who waits."""
        pip = self._pip()
        made = [sys.executable, "-m", "venv", str(self.folder)]
        return [(f"{self.name}: an environment", made), (f"{self.name} {self.version}: installing", pip)]

    def _pip(self) -> list[str]:
        command = [str(self.python), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        command += ["--progress-bar=off", "--only-binary=:all:", "--constraint", str(self.pins)]
        if self.compiled:
            command += [f"--no-binary={','.join(self.compiled)}", "--verbose"]
        return [*command, *self.pinned()]

    def _run(self, command: list[str], log: object, tell: Tell, what: str) -> None:
        """Run to its end, telling now and then that it still runs."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        began = time.monotonic()
        tell(f"{what} …")
        with subprocess.Popen(  # noqa: S603 our own command
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,  # type: ignore[call-overload]
            env={**environment, **self.variables}, start_new_session=True,
        ) as running:  # fmt: skip
            try:
                while running.poll() is None:
                    try:
                        running.wait(TICK)
                    except subprocess.TimeoutExpired:
                        tell(f"{what}, {time.monotonic() - began:.0f} s …")
            except BaseException:
                _kill(running)
                raise
        if running.returncode:
            raise subprocess.CalledProcessError(running.returncode, command)


def _kill(running: subprocess.Popen[bytes]) -> None:
    """End it with all that it has started: pip's compilers would go on without pip."""
    if hasattr(os, "killpg"):
        os.killpg(running.pid, signal.SIGKILL)
    else:
        running.kill()


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "fatal"))] or lines or ["no output"]
    return errors[-1][:LAST_WORDS]


LLAMA_CPP = Environment(
    "llama.cpp",
    ("llama-cpp-python",),
    compiled=("llama-cpp-python",),
    # With every instruction this processor has; without its vision library, which no race uses.
    variables={"CMAKE_ARGS": "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"},
)
TRANSFORMERS = Environment("transformers", ("transformers", "torch"))
SENTENCES = Environment("sentence-transformers", ("sentence-transformers", "torch"))
CONTEXT_CITE = Environment("context-cite", ("context-cite", "torch", "transformers"))
