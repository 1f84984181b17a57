"""Law 6: what `forget` removed is in no table, index, cache or file of the book, and can no longer be evidence."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.answer.history import keep, numbers, recall
from openbook.book import BookFault, find, indices, open_book
from openbook.book.embedder import HashedWords
from openbook.book.forget import Forgotten
from openbook.book.fst import Dictionary
from openbook.book.store import Book
from openbook.book.traces import Needles, Traces, pieces, words
from openbook.cli import main
from openbook.errors import Fault

ENCODER = HashedWords()
MILL = """# The mill

The miller Quillfeather hid the silver under the grindstone of the mill.
Nobody but Zebedee knew of it; the sluice was opened at night.

Every document in this folder ends with this very sentence, which is nobody's.
"""


def write(folder: Path) -> Path:
    """Two documents that stay and one to forget, which has a sentence in common with them."""
    folder.mkdir()
    common = "Every document in this folder ends with this very sentence, which is nobody's.\n"
    (folder / "comet.md").write_text("# Comet\n\nThe comet was seen over the harbour in the winter.\n\n" + common)
    (folder / "river.md").write_text("# River\n\nThe river is crossed by nine bridges of stone.\n\n" + common)
    (folder / "mill.md").write_text(MILL)
    return folder


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return write(tmp_path / "notes")


@pytest.fixture
def book(tmp_path: Path, notes: Path) -> Book:
    """Version 1 of the documents, then with the secret changed, as it has been in many a book."""
    book = open_book(tmp_path / "book")
    (notes / "mill.md").rename(tmp_path / "mill.md")
    book.add(notes, encoder=ENCODER)
    book.tag("before")
    (tmp_path / "mill.md").rename(notes / "mill.md")
    book.add(notes, encoder=ENCODER)
    (notes / "mill.md").write_text(MILL.replace("silver", "golden candlesticks"))
    book.add(notes, encoder=ENCODER)
    return book


def raw(book: Book) -> bytes:
    return b"\n".join(file.read_bytes() for file in book.path.rglob("*") if file.is_file())


def answer(book: Book, document: str, text: str = "It is so.") -> int:
    """An answer kept with the book that has a document for its source."""
    source = {"id": "p1", "kind": "passage", "document": document, "text": text}
    at = {"path": str(book.path), "version": book.version}
    return keep(book.path, {"question": "?", "answer": text, "tokens": [], "sources": [source], "book": at})


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


# -- Interrupted ------------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys
import lance, numpy, pyarrow, pyarrow.dataset
from openbook.book import forget, indices, open_book, prove

left = int(sys.argv[2])

def count(frame, event, argument):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

book = open_book(sys.argv[1])
sys.setprofile(count)
book.forget(*sys.argv[3:])
sys.setprofile(None)
print(-left)
"""


def child(path: Path, calls: int, *documents: str) -> int | None:
    """Forget in another process that kills itself after so many calls; how many there were if it came to the end."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(calls), *documents], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -9), done.stderr
    return int(done.stdout) if done.returncode == 0 else None


def child_of_the_clock(path: Path, seconds: float, *documents: str) -> None:
    """Killed from outside, so also in the middle of what Lance does."""
    command = [sys.executable, "-c", CHILD.replace("sys.setprofile(count)", "print(flush=True)"), str(path), "0"]
    with subprocess.Popen([*command, *documents], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.kill()


def killed_and_finished(book: Book, path: Path, secret: Traces, when: int | float) -> None:
    shutil.copytree(book.path, path)
    if isinstance(when, int):
        child(path, when, "notes/mill.md")
    else:
        child_of_the_clock(path, when, "notes/mill.md")
    there = {d.name for d in open_book(path).documents()}
    assert there - {"notes/mill.md"} == {"notes/comet.md", "notes/river.md"}
    assert find(open_book(path), "comet", k=1, encoder=ENCODER)[0].passage.document == "notes/comet.md"
    opened = open_book(path)
    if (path / "forgetting.json").exists():
        with pytest.raises(BookFault, match="openbook forget"):
            opened.use(opened.version)
        opened.forget()
    elif "notes/mill.md" in there:
        opened.forget("notes/mill.md")
    assert {d.name for d in opened.documents()} == {"notes/comet.md", "notes/river.md"}
    assert opened.prove(secret).left == []
    shutil.rmtree(path)


def whole(book: Book, tmp_path: Path) -> tuple[int, Traces]:
    """How many calls a forget takes, and what is to be looked for after it."""
    answer(book, "notes/mill.md")
    (book.path / "kv" / "model").mkdir(parents=True)
    counted = shutil.copytree(book.path, tmp_path / "counted")
    traces = open_book(shutil.copytree(book.path, tmp_path / "traced")).forget("notes/mill.md").traces
    total = child(counted, 0, "notes/mill.md")
    assert total
    return total, traces


def test_killed_at_any_moment_it_is_before_or_after_and_can_be_finished(book: Book, tmp_path: Path) -> None:
    total, traces = whole(book, tmp_path)
    draw = random.Random(3)
    for _ in range(3):
        killed_and_finished(book, tmp_path / "killed", traces, draw.randrange(total // 20, total))


@pytest.mark.sweep
def test_killed_at_many_moments(book: Book, tmp_path: Path) -> None:
    total, traces = whole(book, tmp_path)
    for calls in range(total // 20, total, max(1, total // 60)):
        killed_and_finished(book, tmp_path / "killed", traces, calls)


@pytest.mark.sweep
def test_killed_by_the_clock(book: Book, tmp_path: Path) -> None:
    _, traces = whole(book, tmp_path)
    draw = random.Random(5)
    for _ in range(20):
        killed_and_finished(book, tmp_path / "killed", traces, draw.uniform(0.02, 0.9))


# -- What the prover stands on ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.lists(st.binary(min_size=16, max_size=40), max_size=6), st.data())
def test_needles_are_found_wherever_they_are(hay: bytes, needles: list[bytes], data: st.DataObject) -> None:
    for needle in data.draw(st.lists(st.sampled_from(needles), max_size=3)) if needles else []:
        at = data.draw(st.integers(0, len(hay)))
        hay = hay[:at] + needle + hay[at:]
    assert Needles(needles).within(hay) == {needle for needle in needles if needle in hay}


def test_needles_over_the_ends_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.book.traces.AT_ONCE", 64)
    needle = bytes(range(40))
    for at in range(140):
        assert Needles([needle]).within(bytes(at) + needle + bytes(9)) == {needle}


def test_pieces_cover_a_text() -> None:
    text = "A first sentence, quite short. " + "word " * 80 + "end.\nAnother line of it, which goes on.\n"
    assert all(piece in text and len(piece.encode()) >= 16 for piece in pieces(text))
    assert words("The Mill, 1911; x1 Zürich 彗星很亮") == {"the", "mill", "zürich", "彗星很亮"}


@pytest.mark.parametrize("count", [1, 40, 400])
def test_a_dictionary_has_the_words_of_its_index_and_no_others(tmp_path: Path, count: int) -> None:
    import lance
    import pyarrow as pa
    from lance.file import LanceFileReader

    draw = random.Random(count)
    letters = string.ascii_letters + string.digits + "éüßñабвгд彗星很亮的水" + "_/.-"
    texts = [" ".join("".join(draw.choices(letters, k=draw.randint(1, 9))) for _ in range(10)) for _ in range(count)]
    table = lance.write_dataset(pa.table({"searched": pa.array(texts, pa.string())}), str(tmp_path / "t.lance"))
    table.create_scalar_index("searched", "INVERTED", **indices.FULL_TEXT)
    how = {name: value for name, value in indices.FULL_TEXT.items() if name != "with_position"}
    want = {token.text for text in texts for token in lance.tokenize(text, **how)}
    found: set[str] = set()
    for file in (tmp_path / "t.lance" / "_indices").rglob("*tokens.lance"):
        for row in LanceFileReader(str(file)).read_all().to_table().to_pylist():
            dictionary = Dictionary(row["_token_fst_bytes"])
            listed = set(dictionary)
            assert len(listed) == dictionary.count and all(word in dictionary for word in listed)
            assert not any(word + "q" in dictionary for word in listed if word + "q" not in listed)
            found |= listed
    assert found == want


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_a_damaged_dictionary_is_a_fault(data: bytes) -> None:
    try:
        dictionary = Dictionary((3).to_bytes(8, "little") + data)
        list(dictionary)
        assert "word" not in dictionary or "word" in set(dictionary)
    except BookFault:
        pass


def test_a_forgotten_is_shown_without_what_it_was(book: Book) -> None:
    done = book.forget("notes/mill.md")
    assert isinstance(done, Forgotten) and "Quillfeather" not in repr(done)
