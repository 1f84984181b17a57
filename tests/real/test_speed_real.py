"""`openbook bench` as a command; llama.cpp, where the bench installed it, as the same model behind the same prompt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from openbook.lm.model import load_model
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.pull import installed
from openbook.measure.speed.entrants import Entrant
from openbook.measure.speed.environments import LLAMA_CPP, Environment
from openbook.measure.speed.files import Shape, random_llama
from openbook.measure.speed.material import Material
from openbook.measure.speed.process import Worker

HERE = {model.name: model.path for model in installed()}
pytestmark = pytest.mark.skipif(
    not {"smollm2", "minilm"} <= set(HERE), reason="needs the models: openbook models pull --all"
)
COMMAND = [sys.executable, "-c", "import sys; from openbook.cli import main; sys.exit(main())", "bench"]
TEXT = "Maurice Delacourt led the comet team for eleven years. It had nine members and one telescope.\n" * 8


def bench(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=120)


def test_the_command_races_alone_and_says_it_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path))
    shape = Shape(layers=1, width=64, inner=128, heads=4, kv_heads=2)
    model = random_llama(open_checkpoint(HERE["smollm2"]), "Q4_0", lambda words: None, shape)
    monkeypatch.undo()
    (tmp_path / "text.txt").write_text(TEXT)
    page = tmp_path / "speed.md"
    page.write_text("<!-- bench decode --><!-- /bench decode -->")
    options = ["--alone", "--quick", "--threads", "1", "--text", str(tmp_path / "text.txt"), "--model", str(model)]
    done = bench("decode", *options, "--json", "--page", str(page))
    assert done.returncode == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    ours, memory = made["races"][0]["entrants"]
    assert (ours["name"], memory["name"], memory["unit"]) == ("openbook", "memory read", "GB/s")
    assert len(ours["runs"]) == len(memory["runs"]) == 3
    assert "| openbook |" in page.read_text()


def test_bad_usage_and_what_cannot_be_drawn_are_said_at_once() -> None:
    unknown = bench("decoding")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "no race 'decoding'; there are decode," in unknown.stderr
    undrawn = bench("decode", "--plot", "speed.pdf")
    assert (undrawn.returncode, undrawn.stdout) == (1, "")
    assert "speed.pdf ends otherwise" in undrawn.stderr


def same_beginning(environment: Environment, entrant: Entrant) -> int:
    """With how many of eight tokens a rival's text begins as torch's in fp32 does."""
    worker = Worker(entrant.script, environment, threads=1)
    try:
        worker.call("open", **entrant.task())
        theirs = worker.run()["tokens"]
    finally:
        worker.close()
    model = load_model(HERE["smollm2"], precision="fp32")
    prompt = entrant.task()["prompts"][0]
    tokens_1T, ours = torch.tensor([prompt]), []
    cache = model.runner.cache([None], room=len(prompt) + 8)
    for _ in range(8):
        tokens_1T = model.runner.forward(tokens_1T, cache)[:, -1].argmax(-1, keepdim=True)
        ours.append(int(tokens_1T))
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 8)


@pytest.mark.skipif(not LLAMA_CPP.here, reason="llama.cpp is not installed; `openbook bench decode` does that")
def test_llama_cpp_writes_what_we_write(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    material = Material(open_checkpoint(HERE["smollm2"]).tokenizer(), tmp_path / "text.txt")
    task = {"race": "decode", "model": str(HERE["smollm2"]), "prompts": material.prompts(1, 64), "new": 8, "threads": 1}
    assert same_beginning(LLAMA_CPP, Entrant("llama.cpp", "llama_cpp", lambda: task, LLAMA_CPP)) >= 4
