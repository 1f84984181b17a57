"""Draws the README's pictures from a real answer of today's code: the terminal as SVG, the page as PNG.

.venv/bin/python bench/pictures.py [QUESTION] [--docs docs]        (the page needs chromium on the PATH)
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from openbook.answer.html import render_html
from openbook.answer.terminal import show

HERE = Path(__file__).parent.parent / "docs" / "pictures"
QUESTION = "Where are fetched models kept?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--docs", default="docs")
    options = parser.parse_args()
    command = [Path(sys.executable).with_name("openbook"), "ask", options.question, "--docs", options.docs, "--json"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    answer["book"]["path"] = "~/.cache/openbook/books/docs"  # whoever draws need not show where they live
    console = Console(record=True, width=84, force_terminal=True, color_system="truecolor", file=io.StringIO())
    show(answer, console)
    (HERE / "terminal.svg").write_text(console.export_svg(title=f'openbook ask "{options.question}"'), encoding="utf-8")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium on the PATH: the page was not drawn")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(render_html(answer), encoding="utf-8")
        shot = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1180,980"]
        subprocess.run([chromium, *shot, f"--screenshot={HERE / 'page.png'}", page.as_uri()], check=True)


if __name__ == "__main__":
    main()
