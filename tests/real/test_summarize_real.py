"""Summaries with the real model and encoder, and the picture of a graph in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from selectolax.lexbor import LexborHTMLParser

from openbook.answer.graph_page import render, save_graph
from openbook.answer.graph_page.data import Picture
from openbook.answer.summarize import Plan, summarize_with
from openbook.book.communities import communities
from openbook.book.embedder import HashedWords
from openbook.book.store import Book, open_book
from openbook.errors import Fault
from openbook.mix.reading import Reader

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NOTES = {
    "bees.md": "Bees carry pollen from flower to flower and so feed whole valleys. A hive of bees in Norway made forty "
    "kilos of honey in 2020. Beekeepers in Norway lose a third of their hives in a hard winter.\n",
    "bread.md": "Bread dough rises because yeast gives off gas. The bakery in Oslo sells eight hundred loaves a day. "
    "The bakery in Oslo burns birch wood in its oven.\n",
    "tides.md": "Tides follow the moon and the sun. The harbour wall in Bergen was raised after the flood of 1990. "
    "Fishermen in Bergen leave with the ebb.\n",
}


def notes_in(folder: Path) -> Path:
    for name, text in NOTES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    from openbook.lm.encoder import load_encoder
    from openbook.lm.model import load_model

    try:
        encoder, model = load_encoder(), load_model()
    except Fault as error:
        pytest.skip(f"no model here: {error}")
    book = open_book(tmp_path_factory.mktemp("books") / "notes.book")
    book.add(notes_in(tmp_path_factory.mktemp("notes")), encoder=encoder)
    return Reader(book, model, encoder)


@pytest.mark.parametrize("over", ["passages", "retrieval"])
def test_points_of_what_was_asked_for_come_first(reader: Reader, over: str) -> None:
    summary = summarize_with(reader, "What do these notes say about bees and beekeepers?", Plan(over, points=3))
    assert summary.points and summary.points[0].evidence[0].passage.document.endswith("bees.md")
    assert all(point.bits > 0 for point in summary.points)


def test_a_written_point_names_its_passage(reader: Reader) -> None:
    summary = summarize_with(reader, "What do bees do?", Plan("passages", points=3, write=True))
    assert summary.points and summary.points[0].answer is not None
    assert summary.points[0].evidence[0].passage.document.endswith("bees.md")


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    made = open_book(tmp_path_factory.mktemp("books") / "notes.book")
    made.add(notes_in(tmp_path_factory.mktemp("notes")), encoder=HashedWords())
    return made


def browsed(page: Path, place: str = "") -> tuple[LexborHTMLParser, str]:
    """The page's elements after its script ran, and what the browser said on its console."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}",
        "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", page.as_uri() + place,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return LexborHTMLParser(done.stdout), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_the_picture_runs_under_its_policy_and_shows_a_name(book: Book, tmp_path: Path) -> None:
    graph = book.graph()
    page = save_graph(graph, communities(graph), tmp_path / "graph.html")
    tree, said = browsed(page, "#Oslo")
    assert said == ""
    detail = tree.css_first("#detail")
    assert detail is not None and "hidden" not in detail.attributes
    assert "Oslo" in detail.text() and "bread.md" in detail.text() and detail.css("mark")
    width = re.search(r'width="(\d+)"', tree.css_first("#canvas").html or "")  # type: ignore[union-attr]
    assert width and int(width[1]) > 100


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_hostile_names_do_not_run(tmp_path: Path) -> None:
    own = "document.documentElement.dataset.owned=1"
    attack = f'</script><script>{own}</script><img src=x onerror={own}>"><svg onload="{own}">'
    entity = [attack, "name", 0, 1.0, 2.0, 3.0, [0], attack]
    community = {"title": attack, "key": [attack], "said": [0], "size": 1, "x": 0.0, "y": 0.0, "r": 9.0}
    counts = {"entities": 1, "relations": 0, "communities": 1}
    page = tmp_path / "graph.html"
    shown = Picture(
        attack, attack, counts, [community], [entity, entity], [[0, 1, 1.0, 0]], [[0, attack, attack]], [attack]
    )
    page.write_text(render(shown), encoding="utf-8")
    from urllib.parse import quote

    tree, said = browsed(page, "#" + quote(attack, safe=""))
    assert said == "" and "data-owned" not in (tree.css_first("html").attributes if tree.css_first("html") else {})
    assert attack in (tree.css_first("#detail").text() if tree.css_first("#detail") else "")
