"""What is derived of a graph and kept: the same as derived anew, never believed where it is stale or damaged, and gone
with a document that is forgotten."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from forgettable import ENCODER, fill, raw, write
from hypothesis import given
from hypothesis import strategies as st
from test_graph import book_of, said
from test_graph_asked import Capitals

from openbook.book import open_book
from openbook.book.graph import kept, open_graph
from openbook.book.graph import opened as graphs
from openbook.book.graph.asking import Extracting, ask, choose
from openbook.book.graph.stored import FOLDER, Store, lines, read_listing, writing
from openbook.book.store import Book

NOTES = {
    "a": "Ada Quill met Boris Thorn in Northport. The World Health Organization (WHO) sings.",
    "b": "# Northport\n\n北京大学在北京。 Clara Finch left the river bridge. The river bridge stands.",
    "c": "",
}


@pytest.fixture(autouse=True)
def even_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LEAST", 0)


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One more each time that a graph is derived."""
    times: list[int] = []

    def derive(*given):
        times.append(1)
        return _derive(*given)

    _derive = graphs.derive
    monkeypatch.setattr(graphs, "derive", derive)
    return times


def only(book: Book) -> Path:
    return next((book.path / FOLDER).glob(kept.NAME))


def all_of(book: Book) -> object:
    graph = open_graph(open_book(book.path))
    d = graph.derived
    more = (d.names, d.words, d.types, d.ties, graph.documents, d.mentions_R4.tolist(), d.about_D.tolist())
    return said(graph), more, d.informative_E.tolist(), d.passage_S.tolist(), d.document_S.tolist()


@pytest.mark.parametrize("how", ["", "both"])
def test_it_is_read_as_it_was_derived(tmp_path: Path, anew: list[int], how: str) -> None:
    book = book_of(tmp_path, **NOTES)
    if how:
        choose(book, Extracting(how=how, made=Capitals.made))
        ask(book, Capitals())
    first = all_of(book)
    assert len(anew) == 1 and all_of(book) == first and len(anew) == 1
    assert open_graph(book).sentences([0])[0].text and len(anew) == 1


def test_what_changed_is_derived_anew(tmp_path: Path, anew: list[int]) -> None:
    book = book_of(tmp_path, **NOTES)
    book.tag("first")
    before = all_of(book)
    (tmp_path / "notes" / "a.md").write_text("Emil Stone met Dora Marsh.")
    book.add(tmp_path / "notes", encoder=ENCODER)
    assert open_graph(open_book(book.path)).find("Ada Quill") is None
    assert open_graph(open_book(book.path, at="first")).find("Ada Quill") is not None
    assert len(anew) == 3
    choose(book, Extracting(how="llm", made=Capitals.made))
    ask(book, Capitals())
    assert open_graph(open_book(book.path)).find("Emil") is not None
    choose(book, Extracting())
    assert open_graph(open_book(book.path)).find("Emil") is None
    scratch = open_book(tmp_path / "scratch")
    scratch.add(tmp_path / "notes", encoder=ENCODER)
    assert all_of(book)[0] == all_of(scratch)[0] and before != all_of(book)
    assert len(list((book.path / FOLDER).glob(kept.NAME))) <= kept.VERSIONS


def test_lines_that_are_others_are_derived_anew(tmp_path: Path) -> None:
    book = book_of(tmp_path, **NOTES)
    all_of(book)
    segment = next((book.path / FOLDER).glob("*.jsonl"))
    segment.write_text(segment.read_text().replace("Ada Quill", "Ida Quill"))
    assert "Ida Quill" in open_graph(open_book(book.path)).derived.shown


def test_a_byte_that_is_another_is_never_believed(tmp_path: Path) -> None:
    book = book_of(tmp_path, **NOTES)
    before, path, places = all_of(book), only(book), graphs.places_of(book)
    whole = path.read_bytes()

    @given(st.integers(0, len(whole) - 1), st.booleans())
    def never(at: int, cut: bool) -> None:
        path.write_bytes(whole[:at] if cut else whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        assert kept.recall(book.path / FOLDER, whole[:32], places) is None

    never()
    assert all_of(book) == before and path.read_bytes() == whole
    assert kept.recall(book.path / FOLDER, whole[:32], places) is not None


NUMBERS = [
    "kinds_E",
    "document_S",
    "passage_S",
    "about_D",
    "mentions_R4",
    "entity_N",
    "spans_S2",
    "ties_T4",
    "types_of",
]
OTHERS = ["normals", "names", "informative_E"]
PARTS = [f"{name}.{part}" for name in ("count_PE", "said_SE", "count_PW") for part in ("indices", "indptr", "shape")]


def spoiled(arrays: dict[str, np.ndarray], name: str, how: str) -> dict[str, np.ndarray]:
    changed = arrays[name].copy()
    if how == "short":
        changed = changed[:-1]
    elif how == "object":
        changed = np.array([{}], dtype=object)
    elif name in ("normals", "names"):
        changed[0:8] = np.frombuffer(np.int64(1 << 40 if how == "large" else -3).tobytes(), np.uint8)
    elif name == "informative_E":
        changed = changed.astype(np.float32)
    else:
        changed.reshape(-1)[0] = 1 << 30 if how == "large" else -2
    return {**arrays, name: changed}


def test_numbers_out_of_place_are_not_believed_though_the_hash_fits(tmp_path: Path) -> None:
    book = book_of(tmp_path, **NOTES)
    choose(book, Extracting(how="both", made=Capitals.made))
    ask(book, Capitals())
    before, path, places = all_of(book), only(book), graphs.places_of(book)
    head = path.read_bytes()
    with np.load(io.BytesIO(head[64:])) as held:
        arrays = dict(held)
    bad = {(name, how) for name in [*NUMBERS, *PARTS, *OTHERS] for how in ("large", "negative", "short", "object")}
    # A span past the end of its text is an empty sentence, and of mentions there may be any number.
    for name, how in sorted(bad - {("spans_S2", "large"), ("mentions_R4", "short")}):
        packed = io.BytesIO()
        np.savez(packed, **spoiled(arrays, name, how))
        data = packed.getvalue()
        path.write_bytes(head[:32] + hashlib.sha256(data).digest() + data)
        assert kept.recall(book.path / FOLDER, head[:32], places) is None, (name, how)
    assert all_of(book) == before


def test_nothing_packed_is_unpacked(tmp_path: Path) -> None:
    book = book_of(tmp_path, **NOTES)
    open_graph(book)
    path, places = only(book), graphs.places_of(book)
    key = path.read_bytes()[:32]
    with np.load(io.BytesIO(path.read_bytes()[64:])) as held:
        arrays = dict(held)
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    for data in (packed.getvalue(), b"no archive", b"PK\x03\x04 none either"):
        path.write_bytes(key + hashlib.sha256(data).digest() + data)
        assert kept.recall(book.path / FOLDER, key, places) is None


def test_it_is_opened_while_another_process_joins_the_segments(tmp_path: Path, monkeypatch) -> None:
    book, seen = book_of(tmp_path, **NOTES), 0
    before, folder = all_of(book), book.path / FOLDER

    def stale(of: Path) -> object:
        """The listing; at first as it was before a writer replaced all that it names."""
        nonlocal seen
        found, seen = read_listing(of), seen + 1
        if seen == 1:
            with writing(folder):
                Store(folder)._replace(0, [(line for _, line in lines(folder, lambda key: True))])
        return found

    monkeypatch.setattr(kept, "read_listing", stale)
    assert all_of(book) == before and seen > 1


def test_what_is_forgotten_is_not_kept(tmp_path: Path) -> None:
    book = fill(tmp_path / "book", write(tmp_path / "notes"))
    book.graph()
    path = only(book)
    left = path.read_bytes()
    assert b"quillfeather" in left
    done = book.forget("notes/mill.md")
    assert not path.exists() and b"uillfeather" not in raw(book) and book.prove(done.traces).left == []
    path.write_bytes(left)
    assert any(leftover.where.endswith(path.name) for leftover in book.prove(done.traces).left)
    assert book.graph().find("Quillfeather") is None


def test_where_nothing_can_be_kept_it_is_derived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = book_of(tmp_path, **NOTES)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    open_graph(book)
    before = all_of(book)
    only(book).unlink()
    monkeypatch.setattr(kept.os, "fsync", full)
    assert all_of(book) == before
    assert not list((book.path / FOLDER).glob(f"{kept.NAME}*")) and not list((book.path / FOLDER).glob("*.new"))
