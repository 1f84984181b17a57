"""The books of one process, below every protocol: what is opened when, who changes them, what a forget leaves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from openbook.book.embedder import HashedWords
from openbook.book.manifest import BookFault
from openbook.book.store import Book, open_book
from openbook.errors import Fault
from openbook.lm.model import LanguageModel
from openbook.mix.settings import Settings
from openbook.serve.engine import Busy
from openbook.serve.shelf import WRITERS_WAITING, Absent, Shelf, Shelved

SETTINGS = Settings(passages=2, retrieved=2, margin=None, max_tokens=4)


@pytest.fixture
def shelved(tmp_path: Path) -> Shelved:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "comet.md").write_text("Maurice led the comet team.")
    (tmp_path / "notes" / "garden.md").write_text("Eleven apple trees stand in the garden.")
    open_book(tmp_path / "notes.book").add(tmp_path / "notes", encoder=HashedWords())
    made = Shelved("notes", tmp_path / "notes.book", HashedWords)
    made.budget(1 << 24, 1 << 24)
    return made


def test_it_is_light_until_it_is_needed() -> None:
    """An assistant starts the server with itself: what it starts must not have read torch or Lance before."""
    told = "import sys, openbook.serve.desk, openbook.cli.mcp; print({'torch', 'lance', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_book_is_opened_once_a_version_and_made_by_an_addition_alone(shelved: Shelved, tmp_path: Path) -> None:
    assert shelved.at() is shelved.at()
    first = shelved.at()
    assert shelved.at(0) is shelved.at(0) is not first
    assert shelved.use(0) == (first.version, first.version + 1)
    assert shelved.at(first.version).version == first.version and shelved.at().count == 0
    with pytest.raises(Absent) as nowhere:
        shelved.at("nosuchtag")
    assert nowhere.value.code == "version_not_found"
    absent = Shelved("none", tmp_path / "none.book", HashedWords)
    for asked in (absent.at, lambda: absent.use(0), lambda: absent.forget(["x"])):
        with pytest.raises(Absent, match="none is empty"):
            asked()
    assert not absent.path.exists()
    assert absent.change(lambda book: book.version) == 0 and absent.at().count == 0


def test_one_changes_a_book_at_a_time(shelved: Shelved) -> None:
    at_work, most = [0], [0]

    def work(book: Book) -> None:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        threading.Event().wait(0.02)
        at_work[0] -= 1

    threads = [threading.Thread(target=shelved.change, args=(work,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_changes_wait_without_a_thread_and_not_too_many(shelved: Shelved) -> None:
    go = threading.Event()

    async def run() -> None:
        waiting = [asyncio.create_task(shelved.in_turn(lambda: go.wait(60))) for _ in range(WRITERS_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="8 changes of notes wait"):
            await shelved.in_turn(lambda: None)
        readers = [asyncio.to_thread(shelved.at) for _ in range(4 * WRITERS_WAITING)]
        assert len(set(await asyncio.gather(*readers))) == 1  # the threads are theirs
        go.set()
        assert all(await asyncio.gather(*waiting))
        assert await shelved.in_turn(lambda: 7) == 7

    asyncio.run(run())


def test_what_is_kept_after_a_forget_is_not_for_who_can_still_read_what_went(
    shelved: Shelved, tiny_model: LanguageModel
) -> None:
    old = shelved.at()
    [going] = [passage for passage in old.passages() if passage.document == "notes/comet.md"]
    before, early = shelved.kept_for(tiny_model), shelved.reader(old, tiny_model, SETTINGS)
    done, report, version = shelved.forget(["notes/comet.md"], prove=True)
    assert done.documents == ("notes/comet.md",) and report is not None and not report.left
    assert version == shelved.at().version > old.version
    assert shelved.kept_for(tiny_model) is not before and early.kept is before and before.disk is None
    with pytest.raises(BookFault, match="was forgotten; ask again"):  # it waited for the model meanwhile, say
        shelved.reader(old, tiny_model, SETTINGS)
    late = shelved.reader(shelved.at(), tiny_model, SETTINGS)
    late.begin("Who led it?", late.find("Who led it?"))
    assert late.kept is not None
    late.kept.flush()
    files = {path.name for path in (shelved.path / "kv").rglob("*.kv")}
    assert files and not any(name.startswith(going.id) for name in files)


def test_what_begins_to_be_kept_while_a_document_goes_stays_off_the_disk(
    shelved: Shelved, tiny_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores, forget = [], Book.forget

    def forgetting(book: Book, *documents: str, **how: bool) -> object:
        stores.append(shelved.kept_for(tiny_model))
        return forget(book, *documents, **how)

    monkeypatch.setattr(Book, "forget", forgetting)
    shelved.forget(["notes/comet.md"])
    assert stores[0].disk is None and shelved.kept_for(tiny_model).disk is not None


def test_a_forget_of_what_no_version_holds_changes_nothing(shelved: Shelved, tiny_model: LanguageModel) -> None:
    kept, version = shelved.kept_for(tiny_model), shelved.at().version
    with pytest.raises(Absent, match=r"'none\.md'") as nowhere:
        shelved.forget(["notes/comet.md", "none.md"])
    assert nowhere.value.code == "document_not_found"
    assert shelved.kept_for(tiny_model) is kept and kept.disk is not None and shelved.at().version == version


def test_an_answer_is_given_also_where_it_cannot_be_kept(shelved: Shelved) -> None:
    facts = {"answer": "x", "tokens": [], "book": {"version": shelved.at().version}}
    assert shelved.keep(facts) == {**facts, "id": 1}
    assert shelved.keep({**facts, "book": {"version": 99}})["id"] is None


def test_books_are_found_by_name(shelved: Shelved) -> None:
    shelf = Shelf([shelved])
    assert shelf.named() is shelf.named("notes") is shelved and list(shelf) == [shelved]
    with pytest.raises(Fault, match="no book 'other'; there are: notes"):
        shelf.named("other")
