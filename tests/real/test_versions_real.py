"""Versions as a person meets them, with the small real model: ask, go on, ask again at the version, forget, prove."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openbook.home import home
from openbook.lm.weights.pull import installed

pytestmark = pytest.mark.skipif(
    not {"smollm2", "minilm"} <= {model.name for model in installed()},
    reason="needs the models: openbook models pull smollm2 minilm",
)
COMMAND = [sys.executable, "-c", "import sys; from openbook.cli import main; sys.exit(main())"]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command in a folder and a home of its own, with the models that are here."""
    own = tmp_path / "home"
    own.mkdir()
    (own / "models").symlink_to(home() / "models")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENBOOK_")}
    env = {**clean, "OPENBOOK_HOME": str(own), "COLUMNS": "120"}

    def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done

    return run


def test_an_answer_is_replayed_and_forgotten(run: Run, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "comet.md").write_text("# The comet\n\nMaurice Delacourt led the comet team for eleven years.\n")
    run("add", "notes")
    question = ("ask", "Who led the comet team?")
    first = json.loads(run(*question, "--json").stdout)
    run(*question, "--temperature", "1.2", "--seed", "11", "--json")
    (notes / "later.md").write_text("# The comet\n\nAda Bellweather led the comet team from 1999 on.\n")
    run("add", "notes")
    assert "the same at version" in run("why", "2", "--replay").stdout
    old = json.loads(run(*question, "--at", str(first["book"]["version"]), "--json").stdout)
    assert old["answer"] == first["answer"]
    assert "Delacourt" in old["answer"]
    told = run("forget", "notes/comet.md", "--prove", "--yes").stdout
    assert "notes/comet.md forgotten" in told and "0 found" in told
    assert not any(b"Delacourt" in file.read_bytes() for file in (tmp_path / ".openbook").rglob("*") if file.is_file())
    assert "was forgotten" in run("why", "1", "--replay", status=1).stderr
    left = json.loads(run(*question, "--json", "--anyway").stdout)
    assert {s.get("document") for s in left["sources"]} <= {"notes/later.md", None}
