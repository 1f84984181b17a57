"""Reports that a model writes of communities: with an answer's evidence, written once, gone with what they rest on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forgettable import ENCODER, fill, raw, write
from test_graph import book_of

from openbook.answer.reports import (
    Reporting,
    estimate,
    made_by,
    question_of,
    told_by_sentence,
    write_reports,
    written_of,
)
from openbook.book import open_book
from openbook.book.communities import communities
from openbook.book.graph.stored import FOLDER, REPORTS
from openbook.book.store import Book
from openbook.cli import main
from openbook.lm.decoding.sampling import Sampling
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings

GROUPS = [[f"{a}{g} {b}{g}" for a, b in (("Ka", "Lo"), ("Mi", "Nu"), ("Po", "Qe"), ("Ra", "Si"))] for g in "xyz"]
TEXTS = {f"g{n}": " ".join(f"{a} met {b}." for a in g for b in g if a != b) for n, g in enumerate(GROUPS)}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of so many bytes."""
    monkeypatch.setattr("openbook.answer.reports.WRITTEN", 16)


def reader_of(book: Book, tiny_model) -> Reader:
    """Drawn, because the likeliest of random weights is the same over and over."""
    return Reader(book, tiny_model, ENCODER, Settings(sampling=Sampling(20.0, seed=1)))


def written(book: Book, tiny_model) -> dict[str, dict]:
    """What is kept, by the first name of the community."""
    divided = communities(book.graph())
    found = {c.number: written_of(divided, c, made_by(tiny_model)) for c in divided.level(0)}
    return {divided.report(c).title: found[c.number] for c in divided.level(0) if found[c.number]}


def all_written(book: Book, tiny_model, budget: int | None = None) -> Reporting:
    divided = communities(book.graph())
    return write_reports(reader_of(book, tiny_model), divided, divided.level(0), budget)


def test_a_report_is_an_answer_with_its_evidence(tmp_path: Path, tiny_model) -> None:
    book = book_of(tmp_path, **TEXTS)
    divided = communities(book.graph())
    planned = estimate(divided, divided.level(0), tiny_model)
    done = all_written(book, tiny_model)
    assert planned.reports == done.reports == 3 and done.left == 0
    assert done.read <= planned.read and done.written <= planned.written
    for community in divided.level(0):
        answer = written_of(divided, community, made_by(tiny_model))
        assert answer["question"] == question_of(divided.report(community)) and answer["answer"]
        for token in answer["tokens"]:
            assert sum(token["responsibility"].values()) == pytest.approx(1)
        names = {source["document"] for source in answer["sources"] if source["kind"] == "passage"}
        assert len(names) == 1
        sentences = told_by_sentence(answer)
        assert all(answer["answer"][slice(*each["span"])] == each["text"] for each in sentences) and sentences
        for each in sentences:
            assert sum(each["responsibility"].values()) == pytest.approx(1)
        whole = sum(token["bits"] for token in answer["tokens"])
        assert answer["ended"] == "limit" or sum(each["bits"] for each in sentences) == pytest.approx(whole)
        for cited in answer["citations"]:
            source = next(s for s in answer["sources"] if s["id"] == cited["source"])
            start, end = cited["source_span"]
            assert book.text(source["document"])[start:end] == cited["cited_text"]


def test_a_sentence_is_told_with_what_it_comes_from() -> None:
    text = "Bees fly. They sleep. And then"
    tokens = [
        {"span": [at, at + 1], "bits": 0.5, "responsibility": {"p1": float(at < 9), "closed": float(at >= 9)}}
        for at in range(len(text))
    ]
    cited = {"span": [0, 9], "source": "p1", "source_span": [3, 12]}
    report = {"answer": text, "tokens": tokens, "citations": [cited], "ended": "limit"}
    first, second = told_by_sentence(report)
    assert (first["text"], first["citations"], first["responsibility"]["p1"]) == ("Bees fly.", [cited], 1)
    assert second["citations"] == [] and second["text"] == "They sleep." and second["responsibility"]["closed"] == 1
    assert [each["text"] for each in told_by_sentence({**report, "ended": "end"})][2] == "And then"
    assert told_by_sentence({**report, "answer": "And", "tokens": tokens[:3]})[0]["bits"] == 1.5


def test_a_budget_stops_between_reports_and_nothing_is_written_twice(tmp_path: Path, tiny_model) -> None:
    book = book_of(tmp_path, **TEXTS)
    divided = communities(book.graph())
    planned = estimate(divided, divided.level(0), tiny_model)
    first = all_written(book, tiny_model, (planned.read + planned.written) * 2 // 3)
    assert 0 < first.reports < 3 and first.left == 3 - first.reports
    again = all_written(open_book(book.path), tiny_model)
    assert again.reports == first.left and again.kept == first.reports
    assert all_written(book, tiny_model).reports == 0


def test_only_what_changed_is_written_again(tmp_path: Path, tiny_model) -> None:
    book = book_of(tmp_path, **TEXTS)
    all_written(book, tiny_model)
    before = written(book, tiny_model)
    (tmp_path / "notes" / "g0.md").write_text(TEXTS["g0"] + " Kax Lox met Ana Berg. Ana Berg met Kax Lox.")
    book.add(tmp_path / "notes", encoder=ENCODER)
    assert all_written(book, tiny_model).reports == 1
    after = written(book, tiny_model)
    same = [answer for answer in after.values() if answer in before.values()]
    assert len(after) == 3 and len(same) == 2
    # The same counts in another text: what the report was read from is no more.
    (tmp_path / "notes" / "g1.md").write_text(TEXTS["g1"].replace(" met ", " saw "))
    book.add(tmp_path / "notes", encoder=ENCODER)
    assert all_written(book, tiny_model).reports == 1


def test_what_is_forgotten_is_in_no_report(tmp_path: Path, tiny_model) -> None:
    book = fill(tmp_path / "book", write(tmp_path / "notes"))
    all_written(book, tiny_model)
    left = {path: path.read_bytes() for path in (book.path / FOLDER / REPORTS).iterdir()}
    assert any(b"uillfeather" in data for data in left.values())
    killed = book.path / FOLDER / REPORTS / "0123.json.new"  # as a writer that was killed leaves it
    killed.write_bytes(min(left.values()))
    done = book.forget("notes/mill.md")
    assert not killed.exists()
    assert b"uillfeather" not in raw(book) and b"ebedee" not in raw(book)
    assert book.prove(done.traces).left == []
    for path, data in left.items():
        path.write_bytes(data)
    assert any(REPORTS in leftover.where for leftover in book.prove(done.traces).left)


def test_old_versions_reports_go_when_they_are_pruned(tmp_path: Path, tiny_model) -> None:
    book = book_of(tmp_path, **TEXTS)
    all_written(book, tiny_model)
    (tmp_path / "notes" / "g0.md").write_text(TEXTS["g0"].replace("x", "w"))
    book.add(tmp_path / "notes", encoder=ENCODER)
    all_written(book, tiny_model)
    assert len(list((book.path / FOLDER / REPORTS).iterdir())) == 4
    book.prune(1)
    left = [path.read_text() for path in (book.path / FOLDER / REPORTS).iterdir()]
    assert len(left) == 3 and not any("Kax Lox" in text for text in left)


SHAPELESS = [{}, {"answer": "A. B."}, {"answer": 7, "sources": [], "tokens": [], "citations": []}]
SHAPELESS += [{"answer": "A.", "sources": [3], "tokens": [], "citations": [{"span": [0, 1], "source": "p1"}]}]


@pytest.mark.parametrize(
    "damage",
    ["", "[]", '{"rests": 3, "report": {}}', '{"rests": [], "report": []}', "\udcff"]
    + [json.dumps({"rests": [], "names": [], "report": each}) for each in SHAPELESS],
)
def test_a_damaged_report_is_written_again(tmp_path: Path, tiny_model, damage: str) -> None:
    book = book_of(tmp_path, **TEXTS)
    all_written(book, tiny_model)
    path = min((book.path / FOLDER / REPORTS).iterdir())
    sound = json.loads(path.read_text())["report"]["answer"]
    path.write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert len(written(book, tiny_model)) == 2
    assert all_written(book, tiny_model).reports == 1
    assert json.loads(path.read_text())["report"]["answer"] == sound


def test_the_command(tmp_path: Path, tiny_model, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        "openbook.cli.graph.open_for", lambda config, docs, at: (open_book(config.book, at=at), ENCODER)
    )
    monkeypatch.setattr("openbook.cli.options.model_of", lambda config, name: tiny_model)
    monkeypatch.setattr("openbook.cli.models.here", lambda name: name)
    book = book_of(tmp_path, **TEXTS)
    command = ["graph", "--book", str(book.path), "--write"]
    assert main([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("3 reports to write, 0 kept: ")
    assert not (book.path / FOLDER / REPORTS).exists()
    assert main([*command, "--json", "-k", "2"]) == 0
    told = capsys.readouterr()
    texts = [community["written"]["question"] for community in json.loads(told.out)["communities"]]
    assert len(set(texts)) == 2 and "2 reports in" in told.err
    assert main(command) == 0 and "1 report in" in capsys.readouterr().err
    assert main(["graph", "--book", str(book.path), "--dry-run"]) == 2
