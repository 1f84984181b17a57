"""Law 6: what `forget` removed is in no table, index, cache or file of the book, and can no longer be evidence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from forgettable import ENCODER, answer, fill, raw, write

from openbook.answer.history import numbers, recall
from openbook.book import BookFault, find, open_book
from openbook.book.forget import Forgotten
from openbook.book.store import Book
from openbook.cli import main
from openbook.errors import Fault


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return write(tmp_path / "notes")


@pytest.fixture
def book(tmp_path: Path, notes: Path) -> Book:
    return fill(tmp_path / "book", notes)


def test_nothing_is_left_and_that_is_proved(book: Book) -> None:
    for word in (b"Quillfeather", b"silver", b"candlesticks"):
        assert word in raw(book)
    done = book.forget("notes/mill.md")
    assert done.documents == ("notes/mill.md",)
    for word in (b"Quillfeather", b"silver", b"candlesticks", b"notes/mill.md"):
        assert word not in raw(book)
    report = book.prove(done.traces)
    assert report.left == []
    assert report.sentences >= 3 and report.words >= 8 and report.shared == 1
    assert report.vocabularies and report.vocabulary and report.cells and report.files
    assert [d.name for d in book.documents()] == ["notes/comet.md", "notes/river.md"]
    for by in ("bm25", "dense", "fused"):
        found = find(book, "Quillfeather silver mill sluice", encoder=ENCODER, by=by)
        assert {hit.passage.document for hit in found} <= {"notes/comet.md", "notes/river.md"}


def test_versions_that_never_held_it_stay(book: Book) -> None:
    book.forget("notes/mill.md")
    assert [v.tags for v in book.versions() if v.whole] == [(), ("before",), ()]
    assert [v.made for v in book.versions()][-1] == "forget"
    assert len(open_book(book.path, at="before").documents()) == 2
    assert book.use("before") and len(book.documents()) == 2


def test_a_version_where_it_was_only_deleted_holds_it_still(book: Book, notes: Path) -> None:
    (notes / "mill.md").unlink()
    book.add(notes, encoder=ENCODER)
    hiding = book.version
    (notes / "owl.md").write_text("An owl sleeps in the attic.")
    book.add(notes, encoder=ENCODER)
    book.tag("hides")  # Lance has hidden the rows by then, and the index has the words
    book.tag("deleted", hiding)
    with pytest.raises(BookFault, match="deleted, hides"):
        book.forget("notes/mill.md")
    assert book.prove(book.forget("notes/mill.md", tags=True).traces).left == []
    assert {name for v in book.versions() for name in v.tags} == {"before"}
    assert len(book.documents()) == 3


def test_a_tag_keeps_a_version_until_it_is_said(book: Book) -> None:
    book.tag("reviewed")
    book.tag("again")
    before = raw(book)
    with pytest.raises(BookFault, match=r"tagged versions again, reviewed.*--tags"):
        book.forget("notes/mill.md")
    assert raw(book) == before
    assert book.forget("notes/mill.md", tags=True).tags == ("again", "reviewed")


def test_going_back_to_before_it_needs_no_new_rows(book: Book) -> None:
    now = book.version
    book.use("before")
    done = book.forget("notes/mill.md")
    assert set(done.versions) >= {now} and book.prove(done.traces).left == []
    assert len(book.documents()) == 2


@pytest.mark.parametrize("by", ["name", "path", "id", "relative"])
def test_a_document_is_named_in_many_ways(book: Book, notes: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(notes)
    stored = next(d for d in book.documents() if d.name == "notes/mill.md")
    said = {"name": stored.name, "path": str(notes / "mill.md"), "id": stored.id, "relative": "mill.md"}[by]
    assert book.forget(said).documents == ("notes/mill.md",)


def test_what_may_be_two_documents_is_refused(
    book: Book, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mill.md").write_text("Another mill.")
    book.add(tmp_path / "mill.md", encoder=ENCODER)
    monkeypatch.chdir(notes)
    with pytest.raises(BookFault, match=r"'notes/mill\.md'; say its whole path"):
        book.forget("mill.md")  # the document mill.md, or the file here?
    monkeypatch.chdir(tmp_path)
    assert book.forget("mill.md").documents == ("mill.md",)
    assert "notes/mill.md" in {document.name for document in book.documents()}


def test_what_is_unknown_is_refused_and_nothing_is_done(book: Book) -> None:
    before = raw(book)
    with pytest.raises(BookFault, match=r"no document 'notes/nix\.md'"):
        book.forget("notes/mill.md", "notes/nix.md")
    with pytest.raises(BookFault, match="nothing to forget"):
        book.forget()
    assert raw(book) == before


def test_quotes_in_names_are_no_syntax(tmp_path: Path, notes: Path) -> None:
    name = "it's \"so\" OR name IN ('x').md"
    (notes / name).write_text("Odd names are names all the same, said the clerk.")
    book = open_book(tmp_path / "book")
    book.add(notes, encoder=ENCODER)
    done = book.forget(f"notes/{name}")
    assert len(book.documents()) == 3 and book.prove(done.traces).left == []


def test_answers_that_hold_it_are_blanked_and_others_stay(book: Book) -> None:
    ours = [
        answer(book, "notes/mill.md"),
        answer(book, "notes/x", "He hid the silver under the grindstone of the mill."),
    ]
    ours.append(answer(book, "notes/x", "The miller Quillfeather hid the silver under the grindstone of the mill."))
    other = answer(book, "notes/comet.md")
    (book.path / "answers" / ".000009.json.abc").write_text("half")
    (book.path / "answers" / "000007.json").write_text("{")
    done = book.forget("notes/mill.md")
    assert done.answers == 3  # named, quoted, unreadable; a part of a sentence is not the sentence
    assert recall(book.path, other)["tokens"] == []
    for number in (ours[0], ours[2]):
        with pytest.raises(Fault, match="was forgotten"):
            recall(book.path, number)
    assert recall(book.path, ours[1])
    assert numbers(book.path) == [1, 2, 3, 4, 7]
    assert [left.what[:13] for left in book.prove(done.traces).left] == []


@pytest.mark.parametrize(
    "text", ["[]", '"x"', '{"sources": 5}', '{"sources": [5]}', '{"a":' * 900 + "1" + "}" * 900, "[" * 9999],
    ids=lambda text: text[:9],
)  # fmt: skip
def test_what_is_no_answer_stands_in_nobodys_way(book: Book, text: str) -> None:
    answer(book, "notes/long-gone.md")
    (book.path / "answers" / "000000.json").write_text(text)
    assert book.forget("notes/long-gone.md").answers >= 1
    with pytest.raises(BookFault, match="no document"):
        book.forget("notes/longer-gone.md")


def test_a_damaged_journal_is_one_line(book: Book) -> None:
    for text in ("", "[]", "{}", '{"documents": {}, "tags": true}', '{"documents": [1]}', "[" * 9999):
        (book.path / "forgetting.json").write_text(text)
        with pytest.raises(BookFault, match=r"forgetting\.json is damaged"):
            book.forget()


def test_an_answer_given_meanwhile_is_not_kept(book: Book) -> None:
    reader = open_book(book.path)
    book.forget("notes/mill.md")
    with pytest.raises(Fault, match="is gone"):
        answer(reader, "notes/mill.md")
    with pytest.raises(BookFault, match="open the book again"):
        reader.documents()


def test_what_is_only_in_an_answer_is_known(book: Book, notes: Path) -> None:
    answer(book, "notes/long-gone.md")
    assert book.forget("notes/long-gone.md").answers == 1


def test_keys_and_values_go(book: Book) -> None:
    folder = book.path / "kv" / "model"
    folder.mkdir(parents=True)
    table = book.passages_table
    assert table is not None
    rows = table.to_table(columns=["id", "document"]).to_pylist()
    for name in (*(f"{row['id']}.0f" for row in rows), "closed.0f", "together.0f"):
        (folder / f"{name}.kv").write_bytes(b"")
    (folder / "model.json").write_text("{}")
    book.forget("notes/mill.md")
    kept = {row["id"] for row in rows if row["document"] != "notes/mill.md"}
    assert {path.name for path in folder.iterdir()} == {*(f"{id}.0f.kv" for id in kept), "closed.0f.kv", "model.json"}


def test_an_index_over_vectors_is_made_anew(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of a large book, made here for a small one."""
    monkeypatch.setattr("openbook.book.dense.EXACT", 20)
    monkeypatch.setattr("openbook.book.dense.ROWS", 16)
    for index in range(40):
        (notes / f"{index}.md").write_text(f"A stone {index} lies in the river, and number{index}th it is.")
    book = open_book(tmp_path / "large")
    book.add(notes, encoder=ENCODER)
    before = {path.parent.name for path in book.path.rglob("index.idx")}
    done = book.forget("notes/mill.md", "notes/7.md")
    after = {path.parent.name for path in book.path.rglob("index.idx")}
    assert before and after and not before & after
    assert book.prove(done.traces).left == []
    assert find(book, "number8th", k=1, encoder=ENCODER)[0].passage.document == "notes/8.md"


def test_after_it_the_document_can_be_added_again(book: Book, notes: Path) -> None:
    book.forget("notes/mill.md")
    assert book.add(notes, encoder=ENCODER).documents == 1
    assert find(book, "Zebedee", k=1, encoder=ENCODER)[0].passage.document == "notes/mill.md"


def test_many_at_once_and_all_of_them(book: Book) -> None:
    done = book.forget("notes/mill.md", "notes/comet.md", "notes/river.md", tags=True)
    assert book.count == 0 and book.documents() == []
    assert book.prove(done.traces).left == []


def test_the_command(book: Book, notes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--book", str(book.path)]
    secret = (notes / "mill.md", notes.parent / "kept.md")
    assert main(["forget", "notes/mill.md", "--prove", "--yes", *at]) == 0
    assert "0 found" in capsys.readouterr().out
    shutil.copy(secret[0], book.path / "left.md")
    assert main(["forget", str(secret[0]), "--prove", *at]) == 1  # forgotten already: proved by the file itself
    told = capsys.readouterr()
    assert "left.md: " in told.err and "0 found" not in told.out
    assert main(["forget", "notes/mill.md", *at]) == 1
    assert "no document" in capsys.readouterr().err
    assert main(["forget", "notes/river.md", "--tags", "--json", "--prove", *at]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["documents"] == ["notes/river.md"] and facts["proof"]["left"] == [] and facts["tags"] == ["before"]


def test_a_forgotten_is_shown_without_what_it_was(book: Book) -> None:
    done = book.forget("notes/mill.md")
    assert isinstance(done, Forgotten) and "Quillfeather" not in repr(done)
