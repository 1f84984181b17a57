"""`add --careful` and `ask --report` as a person runs them: a stranger's file read apart, an answer taken along."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_documents import pdf

from openbook.book import open_book
from openbook.home import home
from openbook.lm.weights.pull import installed

pytestmark = pytest.mark.skipif(
    not {"smollm2", "minilm"} <= {model.name for model in installed()}, reason="needs: openbook models pull"
)
COMMAND = [sys.executable, "-c", "import sys; from openbook.cli import main; sys.exit(main())"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = folder / "home"
    own.mkdir(exist_ok=True)
    if not (own / "models").exists():
        (own / "models").symlink_to(home() / "models")
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBOOK_")} | {"OPENBOOK_HOME": str(own)}
    return subprocess.run([*COMMAND, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_a_strangers_files_and_a_report(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "comet.pdf").write_bytes(pdf("Maurice Delacourt led the comet team for eleven years."))
    (tmp_path / "inbox" / "many.pdf").write_bytes(pdf("x").replace(b"/Count 1", b"/Count 1000000"))
    added = run(tmp_path, "add", "inbox", "--careful", "--book", "b")
    assert added.returncode == 0 and added.stdout.startswith("1 document read"), added
    assert re.search(r"skipped .*many\.pdf: has 1,000,000 pages", added.stderr)
    told = run(tmp_path, "ask", "Who led the comet team?", "--book", "b", "--report", "why.md")
    assert told.returncode == 0, told.stderr
    document = open_book(tmp_path / "b").text("inbox/comet.pdf")
    notes = re.findall(
        r"^\[\^\d+\]: \*\*inbox/comet\\\.pdf\*\*, page 1: “(.+)”", (tmp_path / "why.md").read_text(), re.M
    )
    assert notes and all(note in document for note in notes)
    assert run(tmp_path, "why", "--book", "b", "--report", "why.svg").returncode == 0
    drawn = ElementTree.parse(tmp_path / "why.svg").getroot()  # noqa: S314  (ours)
    assert "Maurice" in "".join(drawn.itertext())
    refused = run(tmp_path, "why", "--book", "b", "--report", "why.docx")
    assert refused.returncode == 2 and ".md, .html, .svg, .png, .txt" in refused.stderr
