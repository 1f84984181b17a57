"""Answers kept: whole or not there, numbers that only grow, the latest thousand."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from openbook.answer import history
from openbook.answer.history import keep, last_book, numbers, recall
from openbook.cli.answers import keep_answer
from openbook.errors import Fault


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for a book, and a home of its own."""
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    folder = tmp_path / "a bòok"
    folder.mkdir()
    (folder / "HEAD").write_text("000000\n")
    return folder


def answer(text: str = "yes") -> dict[str, Any]:
    return {"question": "彗星?", "answer": text, "tokens": [], "lone": "\udcff"}


def test_what_is_kept_comes_back(book: Path) -> None:
    assert keep(book, answer("one")) == 1
    assert keep(book, answer("two")) == 2
    assert recall(book) == answer("two")
    assert recall(book, 1) == answer("one")
    assert last_book() == book
    assert {p.name for p in (book / "answers").iterdir()} == {"000001.json", "000002.json", "lock"}


def test_the_oldest_leave_and_numbers_go_on(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    for index in range(7):
        keep(book, answer(str(index)))
    assert numbers(book) == [5, 6, 7]
    assert recall(book, 5)["answer"] == "4"
    with pytest.raises(Fault, match=r"no answer 2 .*kept there: answers 5 to 7"):
        recall(book, 2)


def test_many_at_once_get_numbers_of_their_own(book: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda i: keep(book, answer(str(i))), range(40)))
    assert sorted(given) == numbers(book) == list(range(1, 41))
    assert all(recall(book, number)["answer"] == str(i) for i, number in enumerate(given))


def test_a_full_disk_leaves_nothing_behind(
    book: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(book, answer("one"))

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        keep(book, answer("two"))
    assert {p.name for p in (book / "answers").iterdir()} == {"000001.json", "lock"}
    keep_answer(book, answer("two"))  # the answer was given: the command line only warns
    assert "not kept for `openbook why`: No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert recall(book)["answer"] == "one"


def test_where_there_is_none_it_says_how(book: Path) -> None:
    with pytest.raises(Fault, match="nothing was asked yet"):
        last_book()
    with pytest.raises(Fault, match="no answers are kept in"):
        recall(book)
    keep(book, answer())
    (book / "HEAD").unlink()
    with pytest.raises(Fault, match="is gone"):
        last_book()


@pytest.mark.parametrize("name", ["²", "00001", "0000001", "٣٣٣٣٣٣", "1" * 200, "latest"])
def test_other_files_beside_answers_are_no_answers(book: Path, name: str) -> None:
    keep(book, answer("one"))
    (book / "answers" / f"{name}.json").write_text("{}")
    assert numbers(book) == [1]
    assert keep(book, answer("two")) == 2


def test_a_file_too_big_for_an_answer_is_not_read(book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(book, answer("one" * 100))
    monkeypatch.setattr(history, "LONGEST", 200)
    with pytest.raises(Fault, match=r"000001\.json is not an answer; delete it"):
        recall(book)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", json.dumps("x"), "[" * 200_000])
def test_a_damaged_answer_is_a_fault(book: Path, content: str) -> None:
    keep(book, answer())
    (book / "answers" / "000001.json").write_text(content)
    with pytest.raises(Fault, match=r"000001\.json is .*; delete it"):
        recall(book)
