"""Files in SQuAD's format: what is refused, and a book that is the same on every machine."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openbook.book.embedder import HashedWords
from openbook.cli import measure
from openbook.cli.app import app
from openbook.errors import Fault
from openbook.measure.squad import Squad, book_of, read_squad

ENCODER = HashedWords()


class Stopped(HashedWords):
    """An encoder that is interrupted at its second batch."""

    batches = 0

    def embed(self, texts):
        self.batches += 1
        if self.batches > 1:
            raise KeyboardInterrupt
        return super().embed(texts)


@pytest.fixture
def squad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Squad:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    return squad_of(tmp_path)


def squad_of(folder: Path) -> Squad:
    qas = [{"id": "1", "question": "Who?", "answers": [{"text": "Vass"}]}]
    paragraphs = [{"context": f"Vass led team {i}.", "qas": qas} for i in range(100)]
    path = folder / "q.json"
    path.write_text(json.dumps({"data": [{"title": "The_comet", "paragraphs": paragraphs}]}))
    return read_squad(path)


def passages(squad: Squad) -> tuple[list[str], set[str]]:
    book = book_of(squad, ENCODER)
    assert book.passages_table is not None
    ids = book.passages_table.to_table(columns=["id"])["id"].to_pylist()
    return [document.name for document in book.documents()], set(ids)


def test_the_book_is_the_same_in_every_home(squad: Squad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, ids = passages(squad)
    assert names == [f"qa-{squad.digest[:16]}-documents/000-{i:03}.md" for i in range(100)]
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "another"))
    assert passages(squad) == (names, ids)


def test_an_interrupted_book_is_gone_on_with(squad: Squad) -> None:
    with pytest.raises(KeyboardInterrupt):
        book_of(squad, Stopped())
    names, _ = passages(squad)
    assert len(names) == 100 and {name.rsplit("/", 1)[-1] for name in names} == squad.paragraphs.keys()


def test_a_book_with_other_documents_is_refused(squad: Squad, tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("Something else.")
    book_of(squad, ENCODER).add(tmp_path / "other.md", encoder=ENCODER)
    with pytest.raises(Fault, match="delete it"):
        book_of(squad, ENCODER)


def test_a_corrupt_archive_is_a_fault(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b'{"data": []}' * 100))
    packed[12:40] = b"\xff" * 28
    (tmp_path / "q.json.gz").write_bytes(packed)
    with pytest.raises(Fault, match="SQuAD"):
        read_squad(tmp_path / "q.json.gz")


def test_what_is_no_file_of_questions_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.measure.squad.LONGEST", 1 << 20)
    packed = gzip.compress(b" " * (1 << 20) + b'{"data": []}')
    for content, said in (
        (b"{}", "there is no 'data'"),
        (b"", "Expecting value"),
        (b"[" * 200_000, "recursion"),
        (packed, "more than 1 MiB"),
    ):
        path = tmp_path / ("q.json.gz" if content is packed else "q.json")
        path.write_bytes(content)
        with pytest.raises(Fault, match=rf"not in SQuAD's format: .*{said}"):
            read_squad(path)
    with pytest.raises(Fault, match="cannot be read: No such file"):
        read_squad(tmp_path / "nowhere.json")


def test_a_model_that_is_not_there_is_said_before_paragraphs_are_read(
    squad: Squad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openbook.cli.questions.encoder", lambda config: ENCODER)
    done = CliRunner().invoke(app, ["eval", "qa", str(tmp_path / "q.json"), "--model", "nowhere.gguf"])
    assert isinstance(done.exception, Fault) and "nowhere.gguf does not exist" in str(done.exception)
    assert not (tmp_path / "home" / "books").exists()


def test_a_skip_past_the_end_is_a_fault(squad: Squad, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["eval", "qa", str(tmp_path / "q.json"), "--skip", "100"])
    assert isinstance(done.exception, Fault) and "has 100" in str(done.exception)
    assert not (tmp_path / "home").exists()


def test_the_name_of_a_model_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    made = {"questions": 1, "book_passages": 1, "machine": "cpu, [red]model[/red] [/]", "settings": {"model": "[/]"}}
    measure._show({**made, "recall": {}, "answers": {}, "ratios": {}})  # type: ignore[typeddict-item]
    assert "[red]model[/red] [/]" in capsys.readouterr().out
