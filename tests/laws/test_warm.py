"""A book warmed beforehand: stored is exactly what questions ask for, within the budget, whatever interrupts."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openbook
from openbook.answer.ask import write
from openbook.answer.warm import Warmed, warm
from openbook.book.embedder import HashedWords
from openbook.book.store import Book, open_book
from openbook.cli import main
from openbook.cli.warm import summary
from openbook.errors import Fault
from openbook.lm.cache import stored
from openbook.lm.model import LanguageModel
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings

COUNT = 7


@pytest.fixture(autouse=True)
def a_disk_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "SPARE_BYTES", 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Book:
    return book_in(tmp_path_factory.mktemp("books"))


@pytest.fixture
def book(made: Book) -> Book:
    """A book of `COUNT` passages, one a document, none of them warm."""
    return cold(made)


def cold(book: Book) -> Book:
    shutil.rmtree(book.path / "kv", ignore_errors=True)
    return book


def book_in(folder: Path) -> Book:
    (folder / "notes").mkdir(parents=True)
    for i in range(COUNT):
        (folder / "notes" / f"d{i}.md").write_text(f"# Number {i}\n\nThe bridge {i} is {i}12 metres long.\n")
    book = open_book(folder / "book")
    book.add(folder / "notes", encoder=HashedWords())
    assert book.count == COUNT
    return book


def counted(model: LanguageModel, stop_after: int | None = None) -> tuple[LanguageModel, list[int]]:
    """The model, and a list of the lengths of all texts it reads; interrupted after so many."""
    runner, read = copy.copy(model.runner), []
    real = model.runner.prefill

    def prefill(text):  # type: ignore[no-untyped-def]
        if stop_after is not None and len(read) == stop_after:
            raise KeyboardInterrupt
        read.append(len(text))
        return real(text)

    runner.prefill = prefill  # type: ignore[method-assign]
    return replace(model, runner=runner), read


def size(book: Book) -> int:
    return sum(file.stat().st_size for file in (book.path / "kv").glob("*/*"))


def test_after_it_a_question_reads_no_passage(book, tiny_model):
    how = Settings(max_tokens=6, margin=None)
    afresh = write(Reader(book, tiny_model, HashedWords(), how), "How long is bridge 3?").to_dict()
    done = warm(cold(book), tiny_model)
    assert (done.stored, done.computed, done.left, done.pending) == (COUNT, COUNT, 0, 0)
    assert done.bytes == done.whole_bytes == size(book)
    model, read = counted(tiny_model)
    kept = write(Reader(book, model, HashedWords(), how), "How long is bridge 3?").to_dict()
    assert read == []
    kept.pop("timings"), afresh.pop("timings")
    assert kept == afresh
    again = openbook.warm(book, model)
    assert read == [] and (again.stored, again.computed, again.bytes) == (COUNT, 0, done.bytes)


@given(st.integers(0, COUNT + 1), st.integers(0, COUNT + 1))
@settings(max_examples=30)
def test_interrupted_it_goes_on(made, tiny_model, first, second):
    book, read_in_all = cold(made), 0
    for stop_after in (first, second, None):
        model, read = counted(tiny_model, stop_after)
        try:
            warm(book, model)
        except KeyboardInterrupt:
            assert len(read) == stop_after
        read_in_all += len(read)
    assert read_in_all == COUNT + 1  # the closed book too; nothing was read twice


@given(st.floats(0.2, 1.2))
@settings(max_examples=30)
def test_a_limit_is_kept_and_what_is_there_stays(made, tiny_model, share):
    whole = warm(cold(made), tiny_model).bytes
    limit = int(share * whole)
    book = cold(made)
    done = warm(book, tiny_model, limit=limit)
    assert size(book) == done.bytes <= limit and done.whole_bytes == whole
    assert done.stored == done.computed == COUNT - done.left
    assert (done.left == 0) == (limit >= whole)
    files = {file: file.stat().st_ino for file in (book.path / "kv").glob("*/*")}
    again = warm(book, tiny_model, limit=limit)
    assert again.computed == 0 and again.stored == done.stored
    assert files == {file: file.stat().st_ino for file in (book.path / "kv").glob("*/*")}


def test_what_is_of_no_use_any_more_makes_way(book, tiny_model):
    old = replace(tiny_model, fingerprint="older")
    whole = warm(book, old).bytes
    done = warm(book, tiny_model, limit=whole)
    assert done.left == 0 and size(book) == whole
    assert warm(book, old, limit=2 * whole).computed == COUNT


def test_a_book_without_passages_and_a_budget_without_bytes_are_faults(book, tmp_path, tiny_model):
    with pytest.raises(Fault, match="holds no passages yet"):
        warm(open_book(tmp_path / "empty"), tiny_model)
    with pytest.raises(Fault, match="raise kv_disk"):
        warm(book, tiny_model, limit=0)


@pytest.fixture
def command(book, tiny_model, monkeypatch, capsys):
    """`openbook warm` on a book, with the tiny model under every name: exit status, standard output and error."""
    monkeypatch.setattr("openbook.cli.models.here", lambda name: name)
    monkeypatch.setattr("openbook.cli.options.model_of", lambda config, name: tiny_model)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["warm", "--book", str(book.path), *arguments])
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


def test_the_command_says_what_fits(command):
    status, told, _ = command("--limit", "200kB", "--json")
    facts = json.loads(told)
    assert status == 0 and 0 < facts["stored"] < COUNT and facts["bytes"] <= facts["budget"] == 200_000
    assert facts["left"] == COUNT - facts["stored"]
    status, told, _ = command()
    assert status == 0 and f"{COUNT} of {COUNT} are stored" in told and "does not fit" not in told
    status, told, _ = command()
    assert status == 0 and told.startswith("nothing to read; 7 of 7")


def test_a_limit_that_is_none_and_one_above_what_questions_keep_are_named(command, monkeypatch):
    status, _, error = command("--limit", "much")
    assert status == 2 and "say it like 500MB" in error
    monkeypatch.setenv("OPENBOOK_KV_DISK", "1GB")
    status, _, error = command("--limit", "2GB")
    assert status == 1 and "above kv_disk, 1.0 GB" in error and "OPENBOOK_KV_DISK=2GB" in error


def test_the_summary_says_how_to_keep_the_rest():
    done = Warmed(1000, 700, 700, 0, 140_000, 0, 70.0, 4 * 10**9, 6 * 10**9, 4 * 10**9)
    assert summary(done) == (
        "700 passages read in 70.0 s (2,000 tokens/s); 700 of 1,000 are stored in 4.0 GB of 4.0 GB; the rest does not "
        "fit, all would take 6.0 GB: raise kv_disk, or keep them in fewer bits with --kv-codec int8"
    )
