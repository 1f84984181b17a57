"""Versions: a line one can go back on, names that last, readers that keep what they opened, clean-up around them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from openbook.book import BookFault, find, manifest, open_book
from openbook.book.embedder import HashedWords
from openbook.book.manifest import writing
from openbook.book.store import Book
from openbook.cli import main

ENCODER = HashedWords()


def names(book: Book) -> list[str]:
    return [document.name for document in book.documents()]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Three documents."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for name, text in (("comet", "A comet has a tail."), ("river", "A river has banks."), ("owl", "An owl has ears.")):
        (folder / f"{name}.md").write_text(f"# {name}\n\n{text}\n")
    return folder


@pytest.fixture
def book(tmp_path: Path, notes: Path) -> Book:
    """A book of three listed versions: empty; three documents; one gone, one changed, one new."""
    book = open_book(tmp_path / "book")
    book.add(notes, encoder=ENCODER)
    book.tag("first")
    (notes / "owl.md").unlink()
    (notes / "river.md").write_text("# river\n\nA river has banks, and a mouth.\n")
    (notes / "mill.md").write_text("# mill\n\nA mill has a wheel.\n")
    book.add(notes, encoder=ENCODER)
    return book


def test_every_add_is_one_version_of_the_list(book: Book) -> None:
    listed = [v for v in book.versions() if v.whole]
    assert [(v.made, v.documents, v.tags) for v in listed] == [("", 0, ()), ("add", 3, ("first",)), ("add", 3, ())]
    assert [v.live for v in listed] == [False, False, True]
    assert len(book.versions()) > 3  # the batch, and its index, are versions of their own


def test_going_back_is_a_new_version_and_can_be_undone(book: Book) -> None:
    before, now = book.version, names(book)
    assert book.use("first") == before + 1
    assert names(book) == names(open_book(book.path)) == ["notes/comet.md", "notes/owl.md", "notes/river.md"]
    assert [h.passage.document for h in find(book, "owl", k=1, encoder=ENCODER)] == ["notes/owl.md"]
    book.use(before)
    assert names(book) == now
    assert book.use(book.version) == book.version  # nothing to do, no version


def test_after_going_back_a_book_is_written_on_from_there(book: Book, notes: Path) -> None:
    book.use("first")
    (notes / "lamp.md").write_text("A lamp has a wick.")
    assert book.add(notes, encoder=ENCODER).replaced == 1
    assert "notes/lamp.md" in names(book)
    assert names(open_book(book.path, at="first")) == ["notes/comet.md", "notes/owl.md", "notes/river.md"]


def test_use_opens_no_table(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("a table was opened")

    monkeypatch.setattr("openbook.book.tables.open_at", opened)
    monkeypatch.setattr("openbook.book.tables.writable", opened)
    book.use("first")


def test_diff_names_what_came_changed_and_went(book: Book) -> None:
    found = book.diff("first")
    assert [(d.name, d.before, d.after) for d in found.added] == [("notes/mill.md", 0, 1)]
    assert [d.name for d in found.changed] == ["notes/river.md"]
    assert [(d.name, d.before, d.after) for d in found.gone] == [("notes/owl.md", 1, 0)]
    assert found.same == 1
    back = book.diff(book.version, "first")
    assert (back.added, back.gone) == (
        tuple(type(d)(d.name, d.after, d.before) for d in found.gone),
        tuple(type(d)(d.name, d.after, d.before) for d in found.added),
    )
    assert book.diff(0, "first").same == book.diff(0, 0).same == 0


def test_a_version_opened_is_only_read(book: Book, notes: Path) -> None:
    old = open_book(book.path, at="first")
    assert len(names(old)) == 3
    for write in (lambda: old.add(notes, encoder=ENCODER), lambda: old.use("first"), lambda: old.prune(1)):
        with pytest.raises(BookFault, match="to look at"):
            write()


@pytest.mark.parametrize("name", ["", "7", "7up", "a b", "../x", "a\n", "-x", "x" * 65, "\udcff"])
def test_what_cannot_be_a_tag_is_refused(book: Book, name: str) -> None:
    with pytest.raises(BookFault, match="cannot be a tag"):
        book.tag(name)


@pytest.mark.parametrize("ref", [99, -1, "99", "nix", "", "²", "1" * 30, "9" * 5000], ids=lambda ref: str(ref)[:9])
def test_what_is_no_version_is_refused(book: Book, ref: int | str) -> None:
    for look in (book.use, book.diff, lambda ref: book.tag("x", ref), lambda ref: open_book(book.path, at=ref)):
        with pytest.raises(BookFault, match=r"has no (version|tag)"):
            look(ref)


@pytest.mark.parametrize("text", ["{", "[]", '{"a": "b"}', '{"a": -1}', '{"a": true}', "[" * 9999], ids=lambda t: t[:9])
def test_damaged_tags_are_one_line(book: Book, text: str) -> None:
    (book.path / "tags.json").write_text(text)
    with pytest.raises(BookFault, match=r"tags\.json") as caught:
        book.versions()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"documents_table": 1.5}, {"passages_table": "main"}, {"passages": True}, {"format": 9}, {"since": []}]
)
def test_a_damaged_version_is_one_line(book: Book, change: dict[str, object]) -> None:
    path = manifest.path_of(book.path, book.version)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BookFault, match=r"damaged|cannot be read|has format"):
        open_book(book.path)
    path.write_text('{"a":' * 9999)
    with pytest.raises(BookFault, match=r"cannot be read .*go back to version") as caught:
        open_book(book.path)
    assert "\n" not in str(caught.value)


def test_what_is_cleaned_up_while_it_is_listed_is_passed_over(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    read, left = manifest.read_manifest, manifest.numbers(book.path)[1:]

    def overtaken(path: Path, version: int) -> manifest.Manifest:
        manifest.path_of(book.path, 0).unlink(missing_ok=True)
        return read(path, version)

    monkeypatch.setattr(manifest, "read_manifest", overtaken)
    assert [v.number for v in book.versions()] == left


def test_who_opens_a_book_while_the_next_version_comes_sees_that(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    read, before = manifest.read_manifest, book.version

    def overtaken(path: Path, version: int) -> manifest.Manifest:
        if version == before:  # the next one is published and the last one cleaned up
            manifest.publish(path, replace(read(path, before), version=before + 1))
            manifest.path_of(path, before).unlink()
        return read(path, version)

    monkeypatch.setattr(manifest, "read_manifest", overtaken)
    assert open_book(book.path).version == before + 1


def size(book: Book) -> int:
    return sum(file.stat().st_size for file in book.path.rglob("*") if file.is_file())


def test_clean_up_keeps_the_newest_the_tagged_and_what_readers_hold(book: Book, notes: Path) -> None:
    (notes / "more.md").write_text("More.\n")
    book.add(notes, encoder=ENCODER)
    reader, middle, before = open_book(book.path, at=4), 4, size(book)
    pruned = book.prune(1)
    assert pruned.held == (middle,)
    assert [v.number for v in book.versions()] == [2, middle, book.version]
    assert len(names(reader)) == 3
    del reader
    assert book.prune(1).removed == (middle,)
    book.untag("first")
    assert book.prune(1).removed == (2,)
    assert size(book) < before
    assert len(names(open_book(book.path))) == 4
    assert find(open_book(book.path), "mill", k=1, encoder=ENCODER, by="bm25")


def test_clean_up_after_going_back_gives_the_space_back(book: Book) -> None:
    book.use("first")
    assert book.prune(1).held == ()
    data = list((book.path / "passages.lance" / "data").iterdir())
    held = b"".join(file.read_bytes() for file in data)
    assert b"mill" not in held
    assert len(names(open_book(book.path))) == 3


def test_clean_up_keeps_the_neighbours_of_what_stays(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[set[tuple[str, str]]] = []
    (book.path / "neighbours").mkdir()
    monkeypatch.setattr("openbook.book.tending.retain", lambda path, documents: kept.append(documents))
    book.prune(1)
    book.untag("first")
    book.prune(1)
    assert [len(documents) for documents in kept] == [5, 3]  # one changed, one gone, one new


def test_whatever_counts_was_brought_to_the_disk(tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and folder that a version needs, before HEAD names it: Lance itself never calls fsync."""
    synced: set[str] = set()
    fsync, publish = os.fsync, manifest.publish

    def record(handle: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    def check(path: Path, fresh: manifest.Manifest) -> None:
        there = [p for p in path.rglob("*.lance/**/*") if p.name != "latest_version_hint.json"]
        missing = {str(p) for p in there if not p.is_dir() or any(p.iterdir())} - synced
        assert missing == set()
        publish(path, fresh)
        assert {str(path / "HEAD.new"), str(path), str(path / "versions")} <= synced

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", record)
    for module in ("writer", "versions"):
        monkeypatch.setattr(f"openbook.book.{module}.publish", check)
    book = open_book(tmp_path / "synced")
    book.add(notes, encoder=ENCODER)
    assert str(tmp_path) in synced  # the name of the book itself
    (notes / "owl.md").write_text("# owl\n\nAn owl has eyes.\n")
    book.add(notes, encoder=ENCODER)
    book.use(2)
    book.forget("notes/owl.md")


def test_the_hint_of_lance_may_be_lost(book: Book, notes: Path) -> None:
    """The one file that is written in place and not synced: torn or old, nothing depends on it."""
    for text in ("", "{", '{"version":1}'):
        for path in book.path.rglob("latest_version_hint.json"):
            path.write_text(text)
        (notes / "owl.md").write_text(f"An owl, {text}.")
        assert book.add(notes, encoder=ENCODER).documents == 1
        assert "notes/owl.md" in names(open_book(book.path))


def test_a_writer_waits_for_another_and_says_so(book: Book, notes: Path) -> None:
    told: list[str] = []

    class Waited(Exception):
        pass

    def wait(line: str) -> None:
        told.append(line)
        raise Waited

    with writing(book.path):
        for write in (lambda: book.add(notes, encoder=ENCODER, wait=wait), lambda: book.use("first", wait=wait)):
            with pytest.raises(Waited):
                write()
        with pytest.raises(BookFault, match="being written"):
            book.use("first", wait=False)
        assert names(open_book(book.path))  # readers do not wait
        book.tag("now")  # nor do names
    assert len(told) == 2
    assert "waiting" in told[0]


def test_a_book_of_the_first_format_is_read_and_written_on(book: Book, notes: Path) -> None:
    for path in (book.path / "versions").glob("*.json"):
        fields = json.loads(path.read_text())
        del fields["made"], fields["since"]
        path.write_text(json.dumps({**fields, "format": 1}))
    old = open_book(book.path)
    (notes / "lamp.md").write_text("A lamp has a wick.")
    assert old.add(notes, encoder=ENCODER).documents == 1
    assert len(old.versions()) > 4
    (book.path / "HEAD").write_text("000003")
    path = book.path / "versions" / "000003.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(BookFault, match="format 9"):
        open_book(book.path)


def test_the_commands(book: Book, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("openbook.cli.history.remark", told.append)
    at = ["--book", str(book.path)]

    def run(*arguments: str) -> str:
        assert main([*arguments, *at]) == 0
        return capsys.readouterr().out

    assert "first" in run("versions")
    assert json.loads(run("versions", "--json", "--all"))["versions"][-1]["live"] is True
    assert run("tag", "second") == f"second is version {book.version}\n"
    assert "+ notes/mill.md  1 passage" in run("diff", "first", "second")
    assert told == ["version 2 to 4: 1 added, 1 changed, 1 gone, 1 same"]
    assert json.loads(run("diff", "first", "--json"))["same"] == 1
    assert f"back: openbook use {book.version}" in run("use", "first")
    assert "already" in run("use", "first")
    assert "no tag" in run("tag", "second", "--delete")
    assert main(["use", "second", *at]) == 1
    assert "has no tag 'second'" in capsys.readouterr().err
    assert len(json.loads(run("versions", "--prune", "1", "--json"))["versions"]) == 3  # the one this test holds too


def test_a_reader_without_permission_to_write_reads(book: Book) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    for folder in (book.path, book.path / "versions"):
        folder.chmod(0o500)
    assert len(names(open_book(book.path))) == 3
