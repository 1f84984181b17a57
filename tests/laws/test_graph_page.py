"""The picture of a graph: the same each time, discs apart, every text of a document only ever text."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from openbook.answer.graph_page import render, render_graph, save_graph
from openbook.answer.graph_page.data import Picture, picture
from openbook.answer.graph_page.layout import MOST_PUSHED, ROOM, layout
from openbook.book.communities import communities
from openbook.book.embedder import HashedWords
from openbook.book.store import open_book

ATTACKS = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload="alert(1)">',
    "<!--<script>",
)


def drawn(seed, count, discs, relations):
    generator = np.random.default_rng(seed)
    discs_N = np.sort(np.concatenate([np.arange(discs), generator.integers(0, discs, max(0, count - discs))]))
    pairs = generator.integers(0, len(discs_N), (relations, 2))
    return discs_N, pairs[pairs[:, 0] != pairs[:, 1]], generator


@settings(max_examples=25)
@given(st.integers(0, 9999), st.integers(1, 60), st.integers(1, 12), st.integers(0, 80))
def test_discs_stand_apart_and_hold_their_own(seed, count, discs, relations):
    discs_N, pairs_D2, generator = drawn(seed, count, discs, relations)
    weights_D = generator.exponential(size=len(pairs_D2))
    places_N2, centres_C2, radii_C = layout(discs_N, pairs_D2, weights_D, seed)
    assert np.isfinite(places_N2).all() and np.isfinite(centres_C2).all()
    far_N = np.linalg.norm(places_N2 - centres_C2[discs_N], axis=1)
    assert (far_N <= radii_C[discs_N] - ROOM + 1e-6).all()
    for a in range(len(radii_C)):
        for b in range(a):
            assert np.linalg.norm(centres_C2[a] - centres_C2[b]) >= radii_C[a] + radii_C[b] - 1e-6
    again = layout(discs_N, pairs_D2, weights_D, seed)
    assert all((one == other).all() for one, other in zip((places_N2, centres_C2, radii_C), again, strict=True))


def test_no_two_entities_of_a_crowd_share_a_place():
    """A disc of more entities than push each other, and one in which all are joined to one."""
    for count in (40, MOST_PUSHED + 100):
        pairs = np.array([[0, i] for i in range(1, count)])
        places_N2, _, _ = layout(np.zeros(count, np.int64), pairs, np.ones(len(pairs)))
        far = np.linalg.norm(places_N2[:, None] - places_N2[None], axis=2)
        assert far[~np.eye(count, dtype=bool)].min() > ROOM / 4


def test_nothing_has_a_picture_too():
    places_N2, centres_C2, radii_C = layout(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0))
    assert len(places_N2) == len(centres_C2) == len(radii_C) == 0
    page = render(Picture("b", "b", {"entities": 0, "relations": 0, "communities": 0}, [], [], [], [], []))
    assert "Nothing that the documents name" in page


TEXTS = {
    "a.md": "Ingrid Vass led Comet Watch in Bergen. Ingrid Vass and Olaf Moe built the Northern Mirror for it.\n"
    "Comet Watch opened the Northern Mirror in Bergen with Olaf Moe.\n",
    "b.md": "The Larch Bridge was drawn by Petra Lund. Petra Lund and Aksel Holm sold it to Delta Works.\n"
    "Delta Works asked Aksel Holm to paint the Larch Bridge.\n",
}


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    made = open_book(tmp_path_factory.mktemp("books") / "<b>bold</b>.book")
    made.add(folder, encoder=HashedWords())
    return made


def test_a_picture_holds_what_the_graph_does(book):
    graph = book.graph()
    shown = picture(graph, communities(graph))
    names = {entity[0] for entity in shown.entities}
    assert {"Ingrid Vass", "Petra Lund"} <= names
    for a, b, weight, sentence in shown.relations:
        text = shown.sentences[sentence][2]
        assert weight > 0 and all(any(form in text for form in _forms(shown.entities[i])) for i in (a, b))
    texts = {name.split("/")[-1]: text for name, text in TEXTS.items()}
    for document, place, text in shown.sentences:
        found = texts[shown.documents[document].split("/")[-1]]
        assert text in found
        assert place == f"line {found[: found.index(text)].count(chr(10)) + 1}"
    assert all(0 <= number < len(shown.sentences) for e in shown.entities for number in e[6])
    json.dumps(shown.to_dict(), allow_nan=False)
    assert render_graph(graph, communities(graph)) == render_graph(graph, communities(graph))


def _forms(entity):
    return [entity[0], *(form for form in entity[7].split(", ") if form)]


def test_the_page_needs_nothing_else(book, tmp_path):
    graph = book.graph()
    path = save_graph(graph, communities(graph), tmp_path / "graph.html")
    page = path.read_text("utf-8")
    tree = LexborHTMLParser(page)
    assert not tree.css("link, iframe, img, object, form")
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(""", page)
    assert "default-src &#39;none&#39;" in page and "<b>bold" not in page
    assert all(node.attributes.get("onclick") is None for node in tree.css("*"))


def test_hostile_text_stays_text():
    """Names, titles, documents and sentences attack; the page has the elements that harmless text gives."""

    def page(say):
        entity = [say(0), "name", 0, 1.0, 2.0, 3.0, [0], say(1)]
        community = {"title": say(2), "key": [say(3)], "said": [0], "size": 1, "x": 0.0, "y": 0.0, "r": 9.0}
        counts = {"entities": 1, "relations": 0, "communities": 1}
        return render(Picture(say(0), say(1), counts, [community], [entity], [], [[0, say(2), say(3)]], [say(1)]))

    attacked, plain = (LexborHTMLParser(page(say)) for say in (lambda i: ATTACKS[i], lambda i: "harmless"))
    assert [node.tag for node in attacked.root.traverse()] == [node.tag for node in plain.root.traverse()]
    data = json.loads(attacked.css_first("#data").text())
    assert data["entities"][0][0] == ATTACKS[0] and data["sentences"][0][2] == ATTACKS[3]
