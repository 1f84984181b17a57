"""The page as it is committed: made from these sources, small, and with nothing that reaches off the machine."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from openbook.answer.palette import HUES, LEVELS, OWN

ROOT = Path(__file__).parents[2]
WEB, STATIC = ROOT / "web", ROOT / "openbook" / "serve" / "static"
SOURCES = ("index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts")
FIRST_LOAD = 100_000
LONGEST = 250  # lines of a source

PARSING = r"(?i)innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser"

pytestmark = pytest.mark.skipif(not WEB.is_dir(), reason="the page's source is not here: this is an installed package")


def test_the_build_is_of_these_sources() -> None:
    """As web/stamp.mjs sums them: path and bytes of each, in the order of the paths."""
    paths = {
        *SOURCES,
        *(p.relative_to(WEB).as_posix() for d in ("src", "public") for p in (WEB / d).rglob("*") if p.is_file()),
    }
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path}\n".encode() + (WEB / path).read_bytes() + b"\n")
    stamped = (STATIC / "sources.sha256").read_text().strip()
    assert total.hexdigest() == stamped, "web/ was changed since the last build: cd web && npm ci && npm run build"


def test_the_first_load_is_small() -> None:
    """All that a browser fetches before anything is asked, as the server packs it."""
    page = (STATIC / "index.html").read_text("utf-8")
    named = re.findall(r'(?:src|href)="\./([^"]+)"', page)
    assert {"page.js", "page.css"} <= set(named)
    packed = {name: len(gzip.compress((STATIC / name).read_bytes(), 9)) for name in ("index.html", *named)}
    assert sum(packed.values()) < FIRST_LOAD, packed


def test_nothing_inline_and_no_address_elsewhere() -> None:
    page = (STATIC / "index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|data:", page)
    for path in STATIC.iterdir():
        text = path.read_text("utf-8")
        addresses = re.findall(r"(?:https?|wss?)://[^\s\"'`)]+", text)
        assert all(found.startswith("http://www.w3.org/") for found in addresses), path  # names of XML, not addresses
        assert "@font-face" not in text and "@import" not in text and "url(" not in text


def test_nothing_is_parsed_as_html() -> None:
    """In our own sources: names and documents are only ever texts of nodes."""
    for path in (WEB / "src").rglob("*.ts*"):
        text = path.read_text("utf-8")
        found = re.findall(PARSING, text)
        assert not found, (path, found)
        assert text.count("\n") < LONGEST, f"{path} is long: find a seam"


def test_the_pages_colours_are_the_terminals() -> None:
    css = (WEB / "src/style/palette.css").read_text("utf-8")
    for name, colour in (*((f"s{i}", c) for i, c in enumerate(HUES, 1)), ("own", OWN)):
        assert f"--{name}: light-dark({colour.light}, {colour.dark});" in css
        assert f"--{name}-text: light-dark({colour.text}, {colour.dark});" in css
    levels = re.search(r"LEVELS = \[([^\]]+)\]", (WEB / "src/lib/reading.ts").read_text("utf-8"))
    assert levels and tuple(float(each) for each in levels[1].split(",")) == LEVELS


VITE = WEB / "node_modules" / "vite" / "bin" / "vite.js"


@pytest.mark.skipif(not (VITE.exists() and shutil.which("node")), reason="needs node's packages: cd web && npm ci")
def test_building_again_gives_the_same_page(tmp_path: Path) -> None:
    command = ["node", str(VITE), "build", "--outDir", str(tmp_path), "--emptyOutDir", "--logLevel", "error"]
    done = subprocess.run(command, cwd=WEB, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.name != "sources.sha256"}
    assert built == committed
