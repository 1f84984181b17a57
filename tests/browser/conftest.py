"""The page in a real browser, before a real server with a real model. What is not here is skipped, with the reason."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsing import BULLETIN, FAQ, HOSTILE, KARLSHOLT, PATIENCE, SHUTTLE, pdf

from openbook.book import open_book
from openbook.book.faq.pairs import MEDIA
from openbook.home import home
from openbook.lm.weights.pull import installed

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MODELS = {"smollm2", "minilm"}
COMMAND = [sys.executable, "-c", "import sys; from openbook.cli import main; sys.exit(main())"]


@dataclass(frozen=True)
class Served:
    """A server at work, and the folder of its books."""

    url: str
    folder: Path
    process: subprocess.Popen[str]


def drivable() -> Any:
    """Playwright's module; skips where it or a browser is not here."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    return playwright


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser a file, no longer: while Playwright is at work no other test can run an event loop."""
    playwright = drivable()
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as p:
        yield p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`openbook serve` over two books: an observatory's, and one of hostile documents."""
    drivable()
    if not {model.name for model in installed()} >= MODELS:
        pytest.skip("needs the models: openbook models pull --all")
    folder = tmp_path_factory.mktemp("served")
    own = folder / "home"
    own.mkdir()
    (own / "models").symlink_to(home() / "models")
    env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBOOK_")} | {"OPENBOOK_HOME": str(own)}
    env |= {"OMP_NUM_THREADS": env.get("OMP_NUM_THREADS", "1"), "COLUMNS": "200"}
    notes = {"notes/karlsholt.md": KARLSHOLT, "notes/shuttle.md": SHUTTLE, "bulletin.pdf": pdf(BULLETIN)}
    for book, held in (("observatory", notes), ("hostile", HOSTILE)):
        for name, text in held.items():
            path = folder / book / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "faq.csv").write_text(FAQ)
    with contextlib.chdir(folder):
        for book in ("observatory", "hostile"):
            open_book(f"{book}.book").add(book)
        open_book("observatory.book").add("faq.csv", as_media=MEDIA)
    command = [*COMMAND, "serve", "--book", "observatory.book", "--book", "hostile.book", "--port", "0"]
    log = (folder / "serve.log").open("w+")
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + (folder / "serve.log").read_text()
        yield Served(found[0], folder, process)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
        log.close()


Open = Callable[..., "Page"]


@pytest.fixture
def opened(browser: Browser, served: Served) -> Iterator[Open]:
    """Opens the page; in the end nothing may have been said on its console, and nobody else's script may have run."""
    contexts, said, pages = [], [], []

    def open_page(place: str = "ask", book: str = "observatory", width: int = 1280, **how: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True, **how)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        pages.append(page)
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{served.url}/#/{place}")
        if book != "observatory":
            page.get_by_label("Book", exact=True).select_option(book)
        return page

    yield open_page
    owned = [page.evaluate("document.documentElement.dataset.owned ?? null") for page in pages if not page.is_closed()]
    for context in contexts:
        context.close()
    assert owned == [None] * len(owned)
    # A status that the page tells its reader about is no fault of the page.
    assert [text for text in said if "Failed to load resource" not in text] == []
