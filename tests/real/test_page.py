"""The evidence page in a real browser: its own script runs under its own policy, and nobody else's does."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sample_answer import sample
from selectolax.lexbor import LexborHTMLParser

from openbook.answer.html import render_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

# Each would set a mark on the page if anything of it ran.
OWN = "document.documentElement.dataset.owned=1"
ATTACKS = (
    f"</script><script>{OWN}</script>",
    f"<img src=x onerror={OWN}>",
    f'"><svg onload="{OWN}">',
    f"' autofocus onfocus='{OWN}",
    "<!--<script>",
    "</script x",
    "__proto__",
)


def browsed(answer: dict[str, Any], folder: Path) -> tuple[LexborHTMLParser, str]:
    """The page's elements after its script ran, and what the browser said on its console."""
    page = folder / "why.html"
    page.write_text(render_html(answer), encoding="utf-8")
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    said = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return LexborHTMLParser(done.stdout), said


def test_the_script_runs_under_the_policy_and_builds_the_strip(tmp_path: Path) -> None:
    tree, said = browsed(sample(), tmp_path)
    assert said == ""
    assert len(tree.css("#strip > i")) == len(sample()["tokens"])
    heights = [re.search(r"height: ([\d.]+)%", column.attributes["style"] or "") for column in tree.css("#strip b")]
    assert all(heights) and max(float(h[1]) for h in heights if h) == 100
    assert [node.attributes["id"] for node in tree.css(".passage.open")] == ["s0"]


def test_rows_that_are_no_rows_are_dropped_as_the_page_drops_them(tmp_path: Path) -> None:
    """The script finds its sources by their place in the page, which has none for an array, a number or null."""
    answer = sample()
    for name in ("sources", "tokens"):
        answer[name] = [[], *answer[name][:1], None, 7, ["x"], "row", *answer[name][1:]]
    (tmp_path / "one").mkdir()
    tree, said = browsed(answer, tmp_path / "one")
    plain, _ = browsed(sample(), tmp_path)
    assert said == ""
    assert [node.html for node in tree.css("#strip > i")] == [node.html for node in plain.css("#strip > i")]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """Every string of the answer attacks; nothing runs, and the page has the elements that harmless text gives."""
    answer, harmless = copy.deepcopy(sample()), copy.deepcopy(sample())

    def attack(value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            return value if key == "kind" else ATTACKS[len(value) % len(ATTACKS)] + value
        if isinstance(value, dict):
            return {attack(k) if key == "responsibility" else k: attack(v, k) for k, v in value.items()}
        return [attack(item, key) for item in value] if isinstance(value, list) else value

    answer = attack(answer)
    answer["answer"] = "".join(token["text"] for token in answer["tokens"])
    at = 0
    for token in answer["tokens"]:
        token["span"] = [at, at + len(token["text"])]
        at += len(token["text"])
    for one in (answer, harmless):
        one["citations"] = []
    tree, said = browsed(answer, tmp_path)
    plain, _ = browsed(harmless, tmp_path)
    assert said == "" and "data-owned" not in tree.css_first("html").attributes
    assert [node.tag for node in tree.root.traverse()] == [node.tag for node in plain.root.traverse()]  # type: ignore[union-attr]
    assert len(tree.css("#strip > i")) == len(answer["tokens"])
