"""A book: what `add` does, what stays, what is refused, and that a version is whole or not there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from openbook.book import BookFault, find, open_book
from openbook.book.embedder import HashedWords
from openbook.book.manifest import writing
from openbook.book.store import Book
from openbook.book.writer import Writer

WORDS = ("comet", "orbit", "stone", "river", "glass", "lantern", "copper", "violin", "harbour", "meadow", "ember")


def write(folder: Path, count: int = 3, seed: int = 0) -> Path:
    """A folder of small documents, the same for the same seed."""
    draw = random.Random(seed)
    folder.mkdir(exist_ok=True)
    for index in range(count):
        body = "\n\n".join(" ".join(draw.choices(WORDS, k=12)).capitalize() + "." for _ in range(3))
        (folder / f"d{index:03d}.md").write_text(f"# Title {index}\n\n{body}\n")
    return folder


def ids(book: Book) -> set[str]:
    """Ids of all passages of a book."""
    table = book.passages_table
    return set() if table is None else set(table.to_table(columns=["id"])["id"].to_pylist())


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return write(tmp_path / "notes")


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return open_book(tmp_path / "book")


ENCODER = HashedWords()


def test_a_new_book_is_empty_and_opens_again(book: Book) -> None:
    assert (book.version, book.count, book.documents()) == (0, 0, [])
    assert open_book(book.path, create=False).version == 0


def test_add_stores_what_is_there_and_places_are_exact(book: Book, notes: Path) -> None:
    added = book.add(notes, encoder=ENCODER)
    assert (added.documents, added.unchanged, added.replaced, added.dropped) == (3, 0, 0, 0)
    assert [d.name for d in book.documents()] == ["notes/d000.md", "notes/d001.md", "notes/d002.md"]
    again = open_book(book.path)
    assert again.version == book.version > 0
    for hit in find(again, "comet", encoder=ENCODER):
        passage = hit.passage
        assert passage == again.passage(passage.id)
        assert passage.text == again.text(passage.document)[passage.start : passage.end]


def test_add_again_touches_only_what_changed(book: Book, notes: Path) -> None:
    book.add(notes, encoder=ENCODER)
    before, version = ids(book), book.version
    assert book.add(notes, encoder=ENCODER).unchanged == 3
    assert (ids(book), book.version) == (before, version)
    (notes / "d001.md").write_text("# Other\n\nSomething else entirely.\n")
    (notes / "d002.md").unlink()
    (notes / "d003.md").write_text("New here.")
    added = book.add(notes, encoder=ENCODER)
    assert (added.documents, added.replaced, added.unchanged, added.dropped) == (2, 1, 1, 1)
    fresh = open_book(book.path.parent / "fresh")
    fresh.add(notes, encoder=ENCODER)
    assert ids(book) == ids(fresh)


def test_a_touched_file_is_unchanged_and_a_change_of_the_same_size_is_seen(book: Book, notes: Path) -> None:
    book.add(notes, encoder=ENCODER)
    os.utime(notes / "d000.md", ns=(1, 1))
    assert book.add(notes, encoder=ENCODER).unchanged == 3
    old = (notes / "d000.md").read_text()
    (notes / "d000.md").write_text(old[::-1])
    assert book.add(notes, encoder=ENCODER).replaced == 1


def test_only_what_came_from_a_root_is_dropped_with_it(book: Book, notes: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", 2, seed=1)
    book.add(notes, other, encoder=ENCODER)
    for file in other.iterdir():
        file.unlink()
    assert book.add(notes, encoder=ENCODER).dropped == 0
    assert book.add(other, encoder=ENCODER).dropped == 2
    assert len(book.documents()) == 3
    with pytest.raises(BookFault, match="no readable documents"):
        book.add(other, encoder=ENCODER)


def test_two_folders_of_one_name_keep_their_documents_apart(book: Book, tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        book.add(write(tmp_path / parent / "notes", 1), encoder=ENCODER)
    names = [d.name for d in book.documents()]
    assert len(set(names)) == 2
    assert "notes/d000.md" in names
    assert len(ids(book)) == book.count
    assert book.add(tmp_path / "a", tmp_path / "b", encoder=ENCODER).unchanged == 2


def test_what_became_unreadable_is_dropped_and_reported(book: Book, notes: Path) -> None:
    book.add(notes, encoder=ENCODER)
    (notes / "d000.md").write_bytes(bytes(range(32)) * 40)
    added = book.add(notes, encoder=ENCODER)
    assert added.dropped == 1
    assert [(Path(s.name).name, s.reason) for s in added.skipped] == [("d000.md", "looks binary")]
    assert "notes/d000.md" not in [d.name for d in book.documents()]


def test_a_name_that_is_no_text_is_reported(book: Book, notes: Path) -> None:
    Path(os.fsdecode(os.fsencode(notes) + b"/gr\xfcn.md")).write_text("green")
    added = book.add(notes, encoder=ENCODER)
    assert added.documents == 3
    assert [s.reason for s in added.skipped] == ["its name is not UTF-8; rename it"]


def test_the_store_of_keys_and_values_forgets_removed_passages_alone(book: Book, notes: Path) -> None:
    book.add(notes, encoder=ENCODER)
    for id in ids(book):
        (book.path / "kv" / "model").mkdir(parents=True, exist_ok=True)
        (book.path / "kv" / "model" / f"{id}.safetensors").write_bytes(b"")
    (notes / "d000.md").unlink()
    book.add(notes, encoder=ENCODER)
    assert {path.stem for path in (book.path / "kv" / "model").iterdir()} == ids(book)


def test_what_a_killed_writer_left_of_removed_passages_is_swept(
    book: Book, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.add(notes, encoder=ENCODER)
    folder = book.path / "kv" / "model"
    folder.mkdir(parents=True)
    for id in ids(book):
        (folder / f"{id}.safetensors").write_bytes(b"")
    (folder / "model.json").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "_forget_kv", killed)
        (notes / "d000.md").unlink()
        with pytest.raises(KeyboardInterrupt):
            open_book(book.path).add(notes, encoder=ENCODER)
    book = open_book(book.path)
    assert ids(book) < {path.stem for path in folder.glob("*.safetensors")}
    assert book.add(notes, encoder=ENCODER).unchanged == 2
    assert {path.stem for path in folder.glob("*.safetensors")} == ids(book)
    assert (folder / "model.json").exists()


def killed(writer: Writer, gone: Callable[[object], bool]) -> None:
    if gone.__name__ != "<lambda>":  # a sweep finds nothing yet
        raise KeyboardInterrupt


def test_links_to_files_elsewhere_are_reported(book: Book, notes: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("Nobody asked for this.")
    (notes / "out.md").symlink_to(tmp_path / "secret.md")
    (notes / "hop.md").symlink_to("out.md")
    (notes / "in.md").symlink_to("d001.md")
    (tmp_path / "way").symlink_to(notes)
    added = book.add(tmp_path / "way", encoder=ENCODER)
    assert added.documents == 4
    assert {Path(s.name).name: s.reason for s in added.skipped} == dict.fromkeys(
        ("hop.md", "out.md"), "is a link to a file elsewhere; add that file itself"
    )


def test_batches_are_committed_one_by_one(book: Book, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.book.adding.COMMIT_DOCUMENTS", 1)

    def interrupt(done: int, total: int, name: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        book.add(notes, encoder=ENCODER, progress=interrupt)
    assert len(open_book(book.path).documents()) == len(book.documents()) == 2
    assert find(book, "comet", encoder=ENCODER)
    added = book.add(notes, encoder=ENCODER)
    assert (added.documents, added.unchanged) == (1, 2)


def test_many_small_commits_are_joined_and_found(book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.book.tables.COMPACT_ABOVE", 3)
    monkeypatch.setattr("openbook.book.adding.COMMIT_DOCUMENTS", 1)
    book.add(write(tmp_path / "notes", 5), encoder=ENCODER)
    assert book.passages_table is not None
    assert len(book.passages_table.get_fragments()) < 5
    assert len(book.documents()) == 5
    assert find(book, "title 4", k=1, encoder=ENCODER, by="bm25")[0].passage.document == "notes/d004.md"


def test_a_reader_keeps_its_version_while_another_writes(book: Book, notes: Path) -> None:
    book.add(notes, encoder=ENCODER)
    reader, seen = open_book(book.path), ids(book)
    (notes / "d000.md").unlink()
    book.add(notes, encoder=ENCODER)
    assert ids(reader) == seen != ids(book)


def test_a_second_writer_is_told_so(book: Book, notes: Path) -> None:
    with writing(book.path), pytest.raises(BookFault, match="another process"):
        book.add(notes, encoder=ENCODER, wait=False)


@pytest.mark.parametrize("text", ["", "banana", "999999", "\x00\x00"])
def test_a_damaged_head_is_one_line_with_a_remedy(book: Book, text: str) -> None:
    (book.path / "HEAD").write_text(text)
    with pytest.raises(BookFault, match="write 000000 into") as caught:
        open_book(book.path)
    assert "\n" not in str(caught.value)


def test_damage_elsewhere_is_one_line_too(book: Book, notes: Path) -> None:
    book.add(notes, encoder=ENCODER)
    for file in (book.path / "passages.lance" / "_versions").iterdir():
        file.unlink()
    with pytest.raises(BookFault, match=r"passages\.lance"):
        find(open_book(book.path), "comet", encoder=ENCODER)
    (book.path / "versions" / f"{book.version:06d}.json").write_text("{")
    with pytest.raises(BookFault, match="cannot be read"):
        open_book(book.path)


def test_what_is_no_book_is_refused(tmp_path: Path, notes: Path) -> None:
    with pytest.raises(BookFault, match="not a book and not empty"):
        open_book(notes)
    with pytest.raises(BookFault, match="is a file"):
        open_book(notes / "d000.md")
    with pytest.raises(BookFault, match="no book at"):
        open_book(tmp_path / "none", create=False)


def test_what_cannot_be_added_is_refused(book: Book, notes: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in ((tmp_path / "missing", "does not exist"), (tmp_path / "empty", "Markdown, text, HTML, PDF")):
        with pytest.raises(BookFault, match=words):
            book.add(path, encoder=ENCODER)
    with pytest.raises(BookFault, match="is a book"):
        book.add(book.path, encoder=ENCODER)
    (tmp_path / "empty" / "broken.pdf").write_bytes(b"no")
    with pytest.raises(BookFault, match="is not a PDF"):
        book.add(tmp_path / "empty", encoder=ENCODER)
    book.add(notes, encoder=ENCODER)
    with pytest.raises(BookFault, match="made with the encoder hashed-words-64"):
        book.add(notes, encoder=HashedWords(32))


def test_a_full_disk_is_one_line_and_the_book_still_opens(
    book: Book, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book.add(notes, encoder=ENCODER)
    before, version = ids(book), book.version
    (notes / "d003.md").write_text("Another one.")
    with monkeypatch.context() as patch:

        def full(table: object, columns: object) -> None:
            raise OSError("LanceError(IO): No space left on device (os error 28), rust/lance/src/x.rs:1")

        patch.setattr("openbook.book.writer._insert", full)
        with pytest.raises(BookFault, match="is full; free some space"):
            book.add(notes, encoder=ENCODER)
    again = open_book(book.path)
    assert (again.version, ids(again)) == (version, before)
    assert again.add(notes, encoder=ENCODER).documents == 1


CHILD = """
import os, random, signal, sys
from pathlib import Path
import lance, numpy, pyarrow
from openbook.book import adding, open_book, writer
from openbook.book.embedder import HashedWords

adding.COMMIT_DOCUMENTS = 2
left = int(sys.argv[3])
publish = writer.publish

def announce(path, manifest):
    publish(path, manifest)
    os.write(1, f"{manifest.version}\\n".encode())

def count(frame, event, argument):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

writer.publish = announce
book = open_book(sys.argv[1])
sys.setprofile(count)
book.add(sys.argv[2], encoder=HashedWords())
sys.setprofile(None)
print("calls", -left)
"""


def child(book: Path, notes: Path, calls: int) -> list[str]:
    """Add in another process that kills itself after so many calls; the versions it announced as stored."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(book), str(notes), str(calls)], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -9), done.stderr
    return done.stdout.split()


def test_killed_at_any_moment_a_book_opens_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    notes, path = write(tmp_path / "notes", 8), tmp_path / "book"
    whole = open_book(tmp_path / "whole")
    whole.add(notes, encoder=ENCODER)
    total = int(child(tmp_path / "counted", notes, 0)[-1])
    draw = random.Random(7)
    for round_ in range(6):
        # Before an eighth nothing has been written yet; after a half all has, and the child would end by itself.
        announced = child(path, notes, draw.randrange(total // 8, total // 2))
        book = open_book(path)
        assert book.version >= max(map(int, (a for a in announced if a.isdigit())), default=0), round_
        stored = {d.name: d.passages for d in book.documents()}
        assert sum(stored.values()) == book.count == len(ids(book))
        assert ids(book) <= ids(whole)
        if book.count:
            assert find(book, "comet", encoder=ENCODER)
    book = open_book(path)
    book.add(notes, encoder=ENCODER)
    assert ids(book) == ids(whole)
    assert len(book.documents()) == 8
