"""Names by spaCy: its absence is said in a line; with it, a real pipeline in a real package, made here."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_graph import book_of

from openbook.book import BookFault, open_book
from openbook.book.graph import open_graph, spacy
from openbook.book.graph.asking import Extracting, choose
from openbook.book.graph.extract import extractors

TEXTS = {"a": "Ada Quill met the old miller in northport on 3 May.", "b": "北京大学在北京。"}


@pytest.fixture(autouse=True)
def looked_for_anew():
    spacy._package.cache_clear()
    spacy._model.cache_clear()
    yield
    spacy._package.cache_clear()
    spacy._model.cache_clear()


def test_what_is_missing_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = book_of(tmp_path, **TEXTS)
    assert "spacy" in extractors()
    monkeypatch.setattr(spacy, "find_spec", lambda name: None)
    with pytest.raises(BookFault, match=r"pip install openbook\[spacy\]"):
        open_graph(book, by="spacy")
    monkeypatch.setattr(spacy, "find_spec", lambda name: name if name == "spacy" else None)
    with pytest.raises(BookFault, match="en_core_web_sm"):
        open_graph(book, by="spacy")
    with pytest.raises(BookFault, match="en_core_web_sm"):
        choose(book, Extracting("spacy"))  # it would be chosen for all that come
    assert open_graph(book).find("Ada Quill") is not None


@pytest.mark.skipif(find_spec("spacy") is None, reason="spaCy is not installed: pip install openbook[spacy]")
def test_names_of_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import spacy as library

    pipeline = library.blank("en")
    patterns = [{"label": "GPE", "pattern": [{"LOWER": "northport"}]}, {"label": "DATE", "pattern": "3 May"}]
    pipeline.add_pipe("entity_ruler").add_patterns([*patterns, {"label": "PERSON", "pattern": "Ada Quill"}])
    package = tmp_path / "packages" / "en_core_web_sm"
    package.mkdir(parents=True)
    pipeline.to_disk(package / "data")
    (package / "__init__.py").write_text(
        "import pathlib, spacy\n__version__ = '9.9'\n"
        "def load():\n    return spacy.load(pathlib.Path(__file__).parent / 'data')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.delitem(sys.modules, "en_core_web_sm", raising=False)
    book = book_of(tmp_path, **TEXTS)
    graph = open_graph(book, by="spacy")
    names = {name for name in graph.derived.normals if graph.find(name).sentences}
    assert {"ada quill", "northport"} <= names and "3 may" not in names
    assert any("北京" in name for name in names)  # no model of that language: as in print
    assert spacy.installed().endswith("en_core_web_sm-9.9")
    choose(book, Extracting("spacy"))
    assert open_graph(open_book(book.path)).find("northport") is not None
    sys.modules.pop("en_core_web_sm", None)
