"""Pairs in a book: versions, learning, undoing, forgetting; and the command."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from openbook.answer.faq import near, reply
from openbook.book import BookFault, open_book
from openbook.book.documents import Unreadable
from openbook.book.embedder import HashedWords
from openbook.book.faq.knowledge import Knowledge, open_knowledge
from openbook.book.faq.learn import LOG, named, read_log
from openbook.book.faq.pairs import MEDIA
from openbook.book.faq.read import pairs_of
from openbook.book.faq.undo import undo
from openbook.book.store import Book
from openbook.cli import main

ENCODER = HashedWords()
HELP = """question,answer
How do I reset the router?,Hold the small button for ten seconds. The lamp goes out when it is done.
My router keeps rebooting,Check the power supply of the router. If it is hot then replace it.
How do I change the wifi password?,Open the settings page and choose Wireless. Type a new password twice.
How do I cancel my contract?,Write a letter to Quillfeather one month before the contract ends.
如何重置路由器？,按住按钮十秒钟。指示灯会熄灭。
كيف أعيد تشغيل الجهاز؟,اضغط على الزر لمدة عشر ثوان. ثم انتظر حتى ينطفئ الضوء.
"""


@pytest.fixture
def help(tmp_path: Path) -> Path:
    path = tmp_path / "help.csv"
    path.write_text(HELP, encoding="utf-8")
    return path


@pytest.fixture
def book(tmp_path: Path, help: Path) -> Book:
    book = open_book(tmp_path / "book")
    book.add(help, encoder=ENCODER, as_media=MEDIA, made="faq add")
    return book


def answers(book: Book, question: str) -> str:
    return reply(question, open_knowledge(book, ENCODER), threshold=0.0).text


def learned(book: Book, folder: Path, *judged: tuple[str, str, bool]) -> None:
    log = folder / "log.jsonl"
    with log.open("a", encoding="utf-8") as file:
        for question, pair, accepted in judged:
            file.write(json.dumps({"question": question, "pair": pair, "accepted": accepted}) + "\n")
    book.add(log, encoder=ENCODER, as_media=LOG, made="faq learn")


def raw(book: Book) -> bytes:
    return b"\n".join(file.read_bytes() for file in book.path.rglob("*") if file.is_file())


def test_a_pair_stands_where_it_says_it_does(book: Book) -> None:
    pairs = list(pairs_of(book))
    assert len(pairs) == 6
    for pair in pairs:
        assert book.text(pair.document)[pair.answer_start : pair.answer_end] == pair.answer
    assert (
        answers(book, "wifi password change")
        == "Open the settings page and choose Wireless. Type a new password twice."
    )
    assert answers(book, "重置路由器") == "按住按钮十秒钟。指示灯会熄灭。"
    assert answers(book, "أعيد تشغيل الجهاز").startswith("اضغط")


def test_pairs_are_passages_too_each_by_itself(book: Book) -> None:
    passages = [p for p in book.passages() if p.heading]
    assert [p.heading for p in passages][:2] == ["How do I reset the router?", "My router keeps rebooting"]
    assert all("Q: " in p.text and "A: " in p.text for p in passages)


def test_a_book_without_pairs_says_how_to_add_some(tmp_path: Path) -> None:
    with pytest.raises(BookFault, match=r"holds no questions with answers.*faq --add"):
        open_knowledge(open_book(tmp_path / "empty"), ENCODER)


def test_a_changed_file_is_read_as_pairs_again_whoever_reads_it(book: Book, help: Path) -> None:
    help.write_text(HELP.replace("twice", "three times"), encoding="utf-8")
    os.utime(help, ns=(1, 1))
    book.add(help.parent / "help.csv", encoder=ENCODER)
    assert answers(book, "wifi password change").endswith("three times.")


def test_a_file_that_was_added_as_text_becomes_pairs(tmp_path: Path, help: Path) -> None:
    book = open_book(tmp_path / "book")
    book.add(help, encoder=ENCODER)
    assert not list(pairs_of(book))
    os.utime(help, ns=(1, 1))
    book.add(help, encoder=ENCODER, as_media=MEDIA)
    assert len(list(pairs_of(book))) == 6 and len(book.documents()) == 1


def test_every_change_is_a_version_and_old_ones_answer_as_they_did(book: Book, help: Path) -> None:
    before = book.version
    help.write_text(HELP.replace("Wireless", "Radio"), encoding="utf-8")
    book.add(help, encoder=ENCODER, as_media=MEDIA, made="faq add")
    assert "Radio" in answers(book, "wifi password change")
    assert "Wireless" in answers(open_book(book.path, at=before), "wifi password change")
    assert [v.made for v in book.versions() if v.whole] == ["", "faq add", "faq add"]
    taken = undo(book)
    assert taken.made == "faq add" and "Wireless" in answers(book, "wifi password change")
    with pytest.raises(BookFault, match="was made by 'use"):
        undo(book)


def test_what_was_accepted_is_found_and_undone(book: Book, tmp_path: Path) -> None:
    question = "blinking box of annoyance"
    reset = next(pairs_of(book))
    before = open_knowledge(book, ENCODER)
    learned(book, tmp_path, (question, reset.id, True), ("abo kündigen", named("how do i cancel my contract"), True))
    after = open_knowledge(book, ENCODER)
    assert after.find(question).best.entry.pair.id == reset.id
    assert after.find(question).best.features["meaning"] == pytest.approx(1, abs=1e-5)
    assert answers(book, "abo kündigen").startswith("Write a letter")
    assert not [d for d in book.passages() if d.document == "log.jsonl"]
    undo(book)
    again = open_knowledge(book, ENCODER)
    assert again.find(question) == before.find(question)


def test_what_was_rejected_is_held_back_from_that_and_what_is_near_it(book: Book, tmp_path: Path) -> None:
    question = "reset the kettle"
    wrong = open_knowledge(book, ENCODER).find(question).best
    own = wrong.entry.questions[0]
    learned(book, tmp_path, (question, wrong.entry.pair.id, False))
    knowledge = open_knowledge(book, ENCODER)
    for near_it in (question, "reset the kettle please"):
        held = next(m for m in knowledge.find(near_it).matches if m.number == wrong.number)
        assert held.score < wrong.score
    assert knowledge.find(question).confidence < 0.5
    assert knowledge.find(own).best.number == wrong.number  # its own question is nearer than the rejected one


def test_lines_of_a_log_that_are_no_judgements_are_told(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    good = '{"question": "a", "pair": "b", "accepted": true}'
    bad = good.replace("true", "1")
    log.write_text("\n".join([good, "{", '{"question": 1}', bad]))
    judged, problems = read_log(log)
    assert len(judged) == 1 and judged[0].pair == named("B?")
    assert [str(problem) for problem in problems] == [
        "line 2: is no JSON object",
        "line 3: needs question, pair and accepted",
        "line 4: question and pair are texts, accepted is true or false",
    ]
    log.write_text("")
    with pytest.raises(Unreadable, match="is no log of judgements: it is empty"):
        read_log(log)


def test_nothing_of_forgotten_pairs_is_left_not_in_what_is_kept(book: Book, help: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.md"
    other.write_text("# Shop\n\n## When is the shop open?\n\nFrom nine to five, but for Sundays.\n")
    book.add(other, encoder=ENCODER, as_media=MEDIA, made="faq add")
    learned(book, tmp_path, ("how to leave", named("How do I cancel my contract?"), True))
    kept = open_knowledge(book, ENCODER)
    assert list((book.path / "faq").glob("*.npz"))
    assert b"Quillfeather" in raw(book)
    row = kept.index.questions_VM[3].tobytes()
    assert row in raw(book)
    done = book.forget("help.csv")
    assert b"Quillfeather" not in raw(book) and row not in raw(book)
    assert book.prove(done.traces).left == []
    assert answers(book, "opening hours of the shop").startswith("From nine")
    assert [pair.document for pair in pairs_of(book)] == ["other.md"]


class Counting(HashedWords):
    """Counts the texts it embeds."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def embed(self, texts: Sequence[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        self.count += len(texts)
        return super().embed(texts)


def test_what_is_kept_is_not_made_again_and_says_the_same(book: Book, help: Path) -> None:
    counting = Counting()
    first = open_knowledge(book, counting)
    assert counting.count >= 18
    counting.count = 0
    again = open_knowledge(book, counting)
    assert counting.count == 0
    assert again.fitted.calibration == first.fitted.calibration
    assert again.find("reset router") == first.find("reset router")
    help.write_text(HELP + "Who are you?,A small company. We sell routers.\n", encoding="utf-8")
    book.add(help, encoder=ENCODER, as_media=MEDIA)
    added = Counting()
    knowledge = open_knowledge(book, added)
    made_up = len(knowledge.entries) * 2  # pseudo-questions, which are not kept
    assert added.count <= 3 + made_up


@pytest.mark.parametrize("damage", ["cut", "zeros", "swapped", "text"])
def test_damage_to_what_is_kept_is_no_fault(book: Book, damage: str) -> None:
    wanted = open_knowledge(book, ENCODER).find("reset router")
    (path,) = (book.path / "faq").glob("*.npz")
    data = path.read_bytes()
    if damage == "swapped":
        found = dict(np.load(path))
        np.savez(path, **(found | {"questions_N1": found["questions_N1"][::-1]}))
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "zeros": bytes(len(data)), "text": b"Q: who?"}[damage])
    assert open_knowledge(book, ENCODER).find("reset router") == wanted


def test_related_questions_are_others_and_differ(book: Book) -> None:
    knowledge = open_knowledge(book, ENCODER)
    found = knowledge.find("how do I reset the router")
    chosen = near(knowledge, found.matches, 5)
    asked = [match.entry.questions[0] for match in chosen]
    assert len(set(asked)) == len(asked) and found.best.entry.questions[0] not in asked
    assert near(knowledge, found.matches, 0) == []


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("openbook.cli.faq.encoder", lambda config: ENCODER)
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(cli: Path, help: Path, capsys: pytest.CaptureFixture[str]) -> None:
    help.write_text(HELP + ",nobody asked\n", encoding="utf-8")
    status, out, err = command(capsys, "faq", "--add", "help.csv")
    assert status == 0 and out.startswith("6 pairs of 1 file, 1 left out; version ")
    assert err == "openbook: help.csv, line 8: the question is empty\n"
    status, out, err = command(capsys, "faq", "How do I reset the router?", "--json")
    told = json.loads(out)
    assert status == 0 and err == "" and not told["abstained"]
    source = told["sources"][0]
    assert source["kind"] == "faq" and source["text"] == told["answer"] and source["responsibility"] == 1
    assert told["book"]["version"] == open_book(".openbook").version
    assert open_book(".openbook").text(source["document"])[slice(*source["span"])] == told["answer"]
    status, out, err = command(capsys, "faq", "who won the world cup", "--json")
    told = json.loads(out)
    assert (
        status == 3
        and told["abstained"]
        and told["answer"] == ""
        and told["confidence"] < told["calibration"]["threshold"]
    )
    status, out, err = command(capsys, "faq", "who won the world cup")
    assert status == 3 and "no stored question is near enough" in err and "Nearest questions" in out


def test_the_command_learns_and_undoes(cli: Path, help: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(capsys, "faq", "--add", "help.csv")
    Path("log.jsonl").write_text(
        json.dumps({"question": "gadget", "pair": "How do I reset the router?", "accepted": True})
    )
    status, out, _ = command(capsys, "faq", "--learn", "log.jsonl")
    assert status == 0 and out.startswith("1 judgement: 1 accepted, 0 rejected; version ")
    assert json.loads(command(capsys, "faq", "gadget", "--json", "--threshold", "0")[1])["answer"].startswith("Hold")
    status, out, _ = command(capsys, "faq", "--undo")
    assert status == 0 and "taken back" in out
    assert json.loads(command(capsys, "faq", "gadget", "--json")[1])["abstained"]
    assert command(capsys, "faq", "--undo")[0] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["faq"], 2, "ask a question, or give one of"),
        (["faq", "x", "--add", "help.csv"], 2, "ask a question, or give one of"),
        (["faq", " ", "--book", "b"], 1, "the question is empty"),
        (["faq", "x", "--book", "b"], 1, "there is no book at b"),
        (["faq", "--add", "none.csv"], 1, "none.csv: does not exist"),
        (["faq", "--add", "bad.csv"], 1, "bad.csv: holds no whole pair"),
    ],
)
def test_faults_of_the_command(
    cli: Path, help: Path, arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.csv").write_text(",\n")
    ended, _, err = command(capsys, *arguments)
    assert ended == status and said in err and err.count("\n") == 1
    assert not Path(".openbook").exists()


def test_a_question_is_held_to_a_length(book: Book) -> None:
    knowledge: Knowledge = open_knowledge(book, ENCODER)
    with pytest.raises(BookFault, match="at most 1,000 are read"):
        knowledge.find("x" * 1_001)
    assert np.isfinite(knowledge.find("?!").confidence)
