"""Answers kept: whole or not there, numbers that only grow, the latest thousand."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.answer import history
from openbook.answer.history import Headline, file_of, headline, keep, last_book, numbers, recall
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


TEXT = st.text(st.characters(exclude_categories=[])) | st.lists(st.sampled_from(['"', "\\", "\n", "é", "a"])).map(
    "".join
)


@given(st.dictionaries(st.sampled_from(["question", "answer", "abstained", "reason", "x"]), TEXT | st.booleans()), TEXT)
def test_a_headline_says_what_the_whole_answer_says(
    tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any], text: str
) -> None:
    """Whatever is in the answer, in whatever order, with whatever left out."""
    folder = tmp_path_factory.mktemp("book")
    (folder / "answers").mkdir()
    ordinary = {"question": text, "answer": text[::-1], "abstained": len(text) % 2 == 0, "tokens": [{"text": text}]}
    for number, kept in enumerate([ordinary, {**facts, "tokens": []}, ordinary | facts], 1):
        history._write(
            file_of(folder, number), json.dumps(kept, ensure_ascii=False).encode("utf-8", "backslashreplace")
        )
        whole = recall(folder, number)
        said = Headline(str(whole.get("question", "")), str(whole.get("answer", "")), bool(whole.get("abstained")))
        assert headline(folder, number) == said


@pytest.mark.parametrize("long", [10, 100_000])
def test_a_headline_costs_no_look_at_the_evidence(book: Path, monkeypatch: pytest.MonkeyPatch, long: int) -> None:
    tokens = [{"text": "token", "responsibility": {"p1": 0.5}}] * 1_000
    keep(book, {"question": "q" * long, "answer": "yes", "abstained": False, "tokens": tokens})
    monkeypatch.setattr(history, "_read", lambda *given: pytest.fail("it was read whole"))
    assert headline(book, 1) == Headline("q" * long, "yes", False)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"forgotten": "2026-11-22"}', '{"question": "q", "answer": "a"}'])
def test_what_is_no_answer_has_no_headline(book: Path, content: str) -> None:
    keep(book, answer())
    (book / "answers" / "000001.json").write_text(content)
    for number in (1, 2):
        with pytest.raises(Fault):
            headline(book, number)
