"""The prover finds whatever is left of a document, wherever it is, and says so where it cannot see."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forgettable import ENCODER, MILL, fill, write

from openbook.book import BookFault, open_book
from openbook.book.store import Book
from openbook.book.traces import Needles, Traces


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return write(tmp_path / "notes")


@pytest.fixture
def book(tmp_path: Path, notes: Path) -> Book:
    return fill(tmp_path / "book", notes)


def plant_file(book: Book, secret: Traces) -> None:
    (book.path / "answers").mkdir()
    (book.path / "answers" / "000001.json.new").write_text("The miller Quillfeather hid the golden candlesticks.")


def plant_word(book: Book, secret: Traces) -> None:
    (book.path / "notes.log").write_text("zebedee\n")


def plant_json(book: Book, secret: Traces) -> None:
    said = 'x "q" The miller Quillfeather hid the silver under the grindstone of the mill.\nAnd so on.'
    (book.path / "x.json").write_text(json.dumps({"a": [{"b": said}]}))


def plant_name(book: Book, secret: Traces) -> None:
    (book.path / "y.json").write_text(json.dumps([{"document": "notes/mill.md"}]))


def plant_packed(book: Book, secret: Traces) -> None:
    (book.path / "old.gz").write_bytes(gzip.compress(MILL.encode()))


def plant_zipped(book: Book, secret: Traces) -> None:
    np.savez_compressed(book.path / "old.npz", text=np.frombuffer(MILL.encode(), np.uint8))


def plant_key(book: Book, secret: Traces) -> None:
    (book.path / "kv" / "model").mkdir(parents=True)
    (book.path / "kv" / "model" / f"{min(secret.passages)}.00.kv").write_bytes(b"")


def plant_pointer(book: Book, secret: Traces) -> None:
    (book.path / "neighbours").mkdir()
    (book.path / "neighbours" / "rows.bin").write_bytes(b"\0" * 7 + min(secret.names).encode() + b"\0")


def plant_vector(book: Book, secret: Traces) -> None:
    (book.path / "index.bin").write_bytes(b"abc" + min(secret.vectors) + b"abc")


def plant_link(book: Book, secret: Traces) -> None:
    (book.path / "out").symlink_to(book.path.parent)


PLANTED: list[Callable[[Book, Traces], None]] = [
    plant_file, plant_word, plant_json, plant_name, plant_packed, plant_zipped, plant_key, plant_pointer,
    plant_vector, plant_link,
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_the_prover_finds_what_is_planted(book: Book, plant: Callable[[Book, Traces], None]) -> None:
    secret = book.forget("notes/mill.md").traces
    plant(book, secret)
    assert book.prove(secret).left


@pytest.mark.parametrize("plant", [plant_packed, plant_zipped], ids=lambda plant: plant.__name__)
def test_the_prover_reads_on_where_it_stopped(
    book: Book, plant: Callable[[Book, Traces], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = book.forget("notes/mill.md")
    plant(book, done.traces)
    monkeypatch.setattr("openbook.book.prove.UNPACKED", 20)  # shorter than a sentence
    assert any("unpacked" in left.where for left in book.prove(done.traces).left)


@pytest.mark.parametrize("table", ["documents.lance", "passages.lance"])
def test_the_prover_finds_an_old_file_of_rows(book: Book, tmp_path: Path, table: str) -> None:
    shutil.copytree(book.path / table / "data", tmp_path / "saved")
    secret = book.forget("notes/mill.md").traces
    shutil.copytree(tmp_path / "saved", book.path / table / "data", dirs_exist_ok=True)
    left = book.prove(secret).left
    assert any("rows of it" in found.what for found in left)
    assert any(found.where.endswith("column text") for found in left)


def test_the_prover_finds_words_in_a_dictionary(book: Book, tmp_path: Path) -> None:
    """The index before the forgetting: packed, so its bytes show no word."""
    shutil.copytree(book.path / "passages.lance" / "_indices", tmp_path / "saved")
    secret = book.forget("notes/mill.md").traces
    shutil.copytree(tmp_path / "saved", book.path / "passages.lance" / "_indices", dirs_exist_ok=True)
    left = [found for found in book.prove(secret).left if "dictionary" in found.what]
    assert {"zebede", "silver", "sluic"} & {found.what.split("'")[1] for found in left}
    assert all("_indices" in found.where for found in left)


def test_deleting_alone_is_found_out(book: Book, notes: Path) -> None:
    """What `add` does with a document that vanished: hidden, not forgotten."""
    secret = book.forget("notes/mill.md").traces
    book.add(notes, encoder=ENCODER)
    (notes / "mill.md").unlink()
    book.add(notes, encoder=ENCODER)
    assert len(book.documents()) == 2
    assert book.prove(secret).left


def test_a_prover_that_sees_nothing_says_so(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = book.forget("notes/mill.md").traces
    monkeypatch.setattr("openbook.book.prove._batches", lambda path: iter(()))
    monkeypatch.setattr(Needles, "within", lambda self, data: set())
    assert any("proves nothing" in found.what for found in book.prove(secret).left)


def test_what_cannot_be_read_is_not_proved(book: Book) -> None:
    secret = book.forget("notes/mill.md").traces
    (book.path / "x.json").write_text("{")
    assert [(left.where, left.what[:14]) for left in book.prove(secret).left] == [("x.json", "cannot be read")]
    damaged = next((book.path / "passages.lance" / "data").iterdir())
    for data in (damaged.read_bytes()[:-40] + b"\xff" * 36 + b"LANC", b"", None):
        damaged.unlink()
        if data is not None:
            damaged.write_bytes(data)
        with pytest.raises(BookFault, match="cannot be used"):
            book.prove(secret)
        with pytest.raises(BookFault, match="cannot be used"):
            list(open_book(book.path).passages())
