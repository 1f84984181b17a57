"""Files from strangers: their names stay names, what they do is bounded, and one bad file costs no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openbook.book import BookFault, open_book, uploads
from openbook.book.embedder import HashedWords
from openbook.book.store import Book
from openbook.book.uploads import MAX_BYTES, MAX_PARTS, here, original, place, receive, safe_name, staging

ENCODER = HashedWords()
COMET = b"# Comets\n\nMaurice led the comet team.\n"
BITS = [*"a.b/\\ :~%\0\n\u202e\u200bé漢*", "\ud800", "..", "../", "nul.", "CON", "com1"]
hostile = st.lists(st.sampled_from(BITS), max_size=30).map("".join)


@given(hostile | st.text(max_size=400))
@example("../../etc/passwd")
@example("C:\\Windows\\System32\\drivers\\etc\\hosts")
@example("/" * 300)
@example("COM1.txt/..\\.ssh/authorized_keys")
@example("gpj\u202efdp.exe")
def test_a_name_never_leaves_its_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    safe = safe_name(name)
    parts = safe.split("/")
    assert 1 <= len(parts) <= MAX_PARTS
    for part in parts:
        assert part and part == part.strip(". ") and len(part.encode()) <= MAX_BYTES
        assert part.isprintable() or part.encode()  # no control character
        assert not any(ord(c) < 32 or c in '\\:*?"<>|\x7f' for c in part)
        assert part.split(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1", "lpt1")
    folder = Path("/srv/book")
    assert Path(os.path.normpath(folder / safe)).is_relative_to(folder) and not Path(safe).is_absolute()
    assert safe_name(safe) == safe


@pytest.mark.parametrize(
    "name", ["comet.md", "notes/comet tail.md", "Übersicht (2).pdf", "彗星/尾.txt", "a.b.tar.gz", "Makefile"]
)
def test_a_plain_name_is_left_as_it_is(name: str) -> None:
    assert safe_name(name) == name


def test_a_long_name_keeps_its_ending() -> None:
    assert safe_name("x" * 1_000 + ".pdf").endswith("x.pdf")


def uploaded(book: Book, *files: tuple[str, bytes]) -> object:
    with staging(book.path) as folder:
        staged = []
        for number, (name, data) in enumerate(files):
            (folder / str(number)).write_bytes(data)
            staged.append((name, folder / str(number)))
        return receive(book, staged, encoder=ENCODER)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return open_book(tmp_path / "book")


def test_an_upload_is_read_kept_and_forgotten(book: Book, tmp_path: Path) -> None:
    uploaded(book, ("../../notes/comet.md", COMET), ("tail.txt", b"The tail is long. It was measured."))
    assert [d.name for d in book.documents()] == ["notes/comet.md", "tail.txt"]
    assert original(book, "notes/comet.md") == COMET
    kept = sorted(p for p in (book.path / "uploads").rglob("*") if p.is_file())
    assert len(kept) == 2 and not list(tmp_path.glob("notes"))
    done = book.forget("notes/comet.md")
    assert [p.name for p in (book.path / "uploads").rglob("*") if p.is_file()] == ["tail.txt"]
    assert book.prove(done.traces).left == []


def originals(book: Book) -> list[str]:
    return sorted(path.name for path in (book.path / "uploads").rglob("*") if path.is_file())


def test_a_forget_that_was_killed_takes_the_original_too(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    uploaded(book, ("comet.md", COMET), ("tail.txt", b"The tail is long."))
    with monkeypatch.context() as patch:
        patch.setattr("openbook.book.uploads.retain", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            book.forget("comet.md")
    assert originals(book) == ["comet.md", "tail.txt"]
    open_book(book.path).forget()  # what was interrupted is finished; the rows that named the path are gone by now
    assert originals(book) == ["tail.txt"]


def test_what_an_upload_that_was_killed_left_is_no_secret_keeper(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("openbook.book.writer.Writer.commit", killed)
        with pytest.raises(KeyboardInterrupt):
            uploaded(book, ("comet.md", COMET))
    assert originals(book) == []
    with monkeypatch.context() as patch:
        patch.setattr("openbook.book.adding.settle", killed)
        with pytest.raises(KeyboardInterrupt):
            uploaded(book, ("comet.md", COMET))
    assert "Maurice" in open_book(book.path).text("comet.md") and original(open_book(book.path), "comet.md") is None
    assert uploaded(open_book(book.path), ("comet.md", COMET)).unchanged == 1
    assert original(open_book(book.path), "comet.md") == COMET


def test_originals_go_with_the_last_version_that_holds_them(book: Book) -> None:
    uploaded(book, ("comet.md", COMET))
    before = book.version
    uploaded(book, ("tail.txt", b"The tail is long."))
    book.use(before)
    assert originals(book) == ["comet.md", "tail.txt"]
    book.prune(1)
    assert originals(book) == ["comet.md"]


def test_bad_files_cost_the_good_ones_nothing(book: Book) -> None:
    added = uploaded(
        book,
        ("a.pdf", b"%PDF-1.4 no"),
        ("comet.md", COMET),
        ("b.docx", b"PK\x03\x04rest"),
        ("c.bin", bytes(range(32)) * 9),
    )
    assert [d.name for d in book.documents()] == ["comet.md"]
    assert [s.name for s in added.skipped] == ["a.pdf", "b.docx", "c.bin"]
    assert all(str(book.path) not in s.reason for s in added.skipped)
    assert [p.name for p in (book.path / "uploads").rglob("*") if p.is_file()] == ["comet.md"]


def test_a_bad_file_does_not_replace_a_good_one(book: Book) -> None:
    uploaded(book, ("comet.md", COMET))
    with pytest.raises(BookFault, match="binary"):
        uploaded(book, ("comet.md", b"\0" * 100))
    assert "Maurice" in book.text("comet.md") and original(book, "comet.md") == COMET
    assert uploaded(book, ("comet.md", b"Vass led it.")).replaced == 1
    assert "Vass" in book.text("comet.md") and original(book, "comet.md") == b"Vass led it."
    assert uploaded(book, ("comet.md", b"Vass led it.")).unchanged == 1


def test_names_that_meet(book: Book, tmp_path: Path) -> None:
    (tmp_path / "comet.md").write_bytes(COMET)
    book.add(tmp_path / "comet.md", encoder=ENCODER)
    uploaded(book, ("comet.md", b"One."), ("./comet.md", b"Two."))
    assert [d.name for d in book.documents()] == ["comet (2).md", "comet.md", "uploads/comet.md"]
    assert "Maurice" in book.text("comet.md")


def test_links_and_devices_are_no_uploads(book: Book, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret words")
    with staging(book.path) as folder:
        (folder / "0").symlink_to("/dev/zero")
        os.mkfifo(folder / "1")
        (folder / "2").write_bytes(COMET)
        added = receive(book, [("a.txt", folder / "0"), ("b.txt", folder / "1"), ("c.md", folder / "2")], ENCODER)
    assert [s.name for s in added.skipped] == ["a.txt", "b.txt"] and added.documents == 1
    linked = open_book(tmp_path / "linked")
    (tmp_path / "elsewhere").mkdir()
    (linked.path / "uploads").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BookFault, match="is a link"), staging(linked.path):
        pass


def test_a_link_in_a_book_that_others_made_is_not_followed(book: Book, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("not ours")
    (book.path / "uploads").mkdir()
    for name in ("comet.md", "tail.md"):
        place(book.path, name).parent.symlink_to(outside)
    uploaded(book, ("comet.md", COMET))
    assert original(book, "comet.md") == COMET
    book.forget("comet.md")
    assert [path.name for path in outside.iterdir()] == ["kept.txt"] and not list((book.path / "uploads").iterdir())


def test_a_moved_book_knows_its_uploads(book: Book, tmp_path: Path) -> None:
    uploaded(book, ("comet.md", COMET))
    moved = open_book(book.path.rename(tmp_path / "moved"))
    assert original(moved, "comet.md") == COMET
    assert uploaded(moved, ("comet.md", COMET)).unchanged == 1
    assert uploaded(moved, ("comet.md", b"Vass led it.")).replaced == 1
    moved.forget("comet.md")
    assert not [p for p in (moved.path / "uploads").rglob("*") if p.is_file()]


def test_an_original_that_changed_is_no_original(book: Book, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(COMET)
    book.add(tmp_path / "a.md", encoder=ENCODER)
    assert original(book, "a.md") == COMET
    (tmp_path / "a.md").write_bytes(b"root:x:0:0")
    assert original(book, "a.md") is None
    assert here(book.path, "/etc/passwd") == "/etc/passwd"


def test_what_a_killed_server_left_is_swept(book: Book) -> None:
    (book.path / "uploads" / ".staged-dead").mkdir(parents=True)
    (book.path / "uploads" / ".staged-dead" / ".lock").touch()
    (book.path / "uploads" / ".staged-young").mkdir()
    (book.path / "uploads" / ".staged-young" / ".lock").touch()
    os.utime(book.path / "uploads" / ".staged-dead" / ".lock", (0, 0))
    with staging(book.path) as mine:
        os.utime(mine / ".lock", (0, 0))  # old, and at work
        assert {p.name for p in (book.path / "uploads").iterdir()} == {mine.name, ".staged-young"}
        with staging(book.path):
            assert mine.exists()
    assert [p.name for p in (book.path / "uploads").iterdir()] == [".staged-young"]


def test_who_sweeps_while_another_begins_takes_nothing_from_it(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    locked, swept = uploads.fcntl.flock, []

    def flock(file: object, how: int) -> None:
        if not swept:  # between the making of the lock's file and the lock
            swept.append(file)
            uploads._sweep(book.path / "uploads")
        locked(file, how)

    monkeypatch.setattr(uploads.fcntl, "flock", flock)
    with staging(book.path) as mine:
        (mine / "0").write_bytes(COMET)
        with staging(book.path):
            assert (mine / "0").read_bytes() == COMET
    assert not list((book.path / "uploads").iterdir())
