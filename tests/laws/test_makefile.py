"""`make ask`: what was asked reaches openbook as it was written; an abstention is no failure of make."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
MAKEFILE = Path(__file__).parents[2] / "Makefile"
STAND_IN = """#!/bin/sh
printf '%s\\0' "$@" > "$TOLD"
test "$1" = ask || exit 0
exit "${STATUS:-0}"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout that is set up, whose openbook writes down what it was told."""
    shutil.copy(MAKEFILE, tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for path, text in ((".venv/bin/openbook", STAND_IN), (".venv/bin/python", ""), (".venv/.run", "")):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    return tmp_path


def make(place: Path, *arguments: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    # The tests themselves run under make, which tells its children about itself.
    ours = ("Q", "DOCS", "PYTHON", "MFLAGS")
    clean = {name: value for name, value in os.environ.items() if name not in ours and not name.startswith("MAKE")}
    env = {**clean, "TOLD": str(place / "told"), **variables}
    done = subprocess.run(
        [shutil.which("make") or "make", *arguments], cwd=place, env=env, capture_output=True, text=True, timeout=60
    )
    told = place / "told"
    return done, told.read_text().split("\0")[:-1] if told.exists() else []


@pytest.mark.parametrize(
    "question",
    [
        "Who?",
        'a "quoted" word',
        "it's `touch owned` $(touch owned)",
        "$(shell touch owned) costs $5",
        "-h",
        "a; touch owned",
    ],
)
@pytest.mark.parametrize("as_variable", [False, True])
def test_a_question_is_only_text(place: Path, question: str, as_variable: bool) -> None:
    docs = 'my "notes" `touch owned`'
    given = {"Q": question, "DOCS": docs}
    done, told = make(place, "ask", **given) if as_variable else make(place, "ask", f"Q={question}", f"DOCS={docs}")
    assert (done.returncode, done.stderr) == (0, "")
    assert told == ["ask", "--docs", docs, "--", question]
    assert not (place / "owned").exists()


def test_an_abstention_is_no_failure_and_a_fault_is(place: Path) -> None:
    done, _ = make(place, "ask", STATUS="3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert make(place, "ask", STATUS="1")[0].returncode == 2


@pytest.mark.parametrize("version", ["3.10", "none"])
def test_an_old_python_is_one_clear_line(place: Path, version: str) -> None:
    shutil.rmtree(place / ".venv")
    tools = place / "tools"
    tools.mkdir()
    for name in ("sh", "test", "rm"):
        (tools / name).symlink_to(shutil.which(name) or "")
    if version != "none":
        (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
        (tools / "python3").chmod(0o755)
    command = [shutil.which("make") or "make", "ask"]
    done = subprocess.run(command, cwd=place, env={"PATH": str(tools)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("openbook needs Python 3.11 or later"), done.stderr
