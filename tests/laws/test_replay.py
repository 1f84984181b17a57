"""Law 7: an answer names the book's version; the same version, model and seed give the same answer."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.answer.ask import write
from openbook.answer.history import keep
from openbook.answer.replay import compare, how_it_ran, replay, run_of, settings_from
from openbook.book.embedder import HashedWords
from openbook.book.store import Book, open_book
from openbook.cli import main
from openbook.errors import Fault
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.constrain import Constraint
from openbook.lm.decoding.sampling import Sampling
from openbook.mix.reading import Reader
from openbook.mix.rerank import Rerank
from openbook.mix.settings import Settings

ENCODER = HashedWords()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The book last asked stays the user's own."""
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "comet.md").write_text("# The comet\n\nDr. Ingrid Vass led the comet team in 2019.\n")
    (folder / "bridge.md").write_text("# The bridge\n\nThe bridge over the Larch is 212 metres long.\n")
    book = open_book(tmp_path_factory.mktemp("books") / "facts.book")
    book.add(folder, encoder=ENCODER)
    return book


TURNS = count(2_000)


def later(book: Book) -> None:
    """Another version, which says something else about everything."""
    folder = book.path.parent / "later"
    folder.mkdir(exist_ok=True)
    (folder / "comet.md").write_text(f"# The comet\n\nWho led the comet team in {next(TURNS)}? Not Ingrid Vass.\n")
    book.add(folder, encoder=ENCODER)


def settings_drawn() -> st.SearchStrategy[Settings]:
    sampling = st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.7, 1.3]),
        top_k=st.sampled_from([None, 20]),
        top_p=st.sampled_from([None, 0.9]),
        seed=st.integers(0, 2**40),
    )
    return st.builds(
        Settings,
        passages=st.integers(1, 3),
        persistence=st.sampled_from([0.0, 0.5, 1.0]),
        max_tokens=st.integers(1, 12),
        margin=st.sampled_from([None, 5.0]),
        sampling=sampling,
        cut_repeats=st.booleans(),
        stop=st.sampled_from([(), ("q", "zz")]),
    )


@settings(max_examples=4)
@given(asked=settings_drawn())
def test_an_answer_is_given_again_whatever_came_after(book: Book, tiny_model, asked: Settings) -> None:
    live = open_book(book.path)
    given_ = write(Reader(live, tiny_model, ENCODER, asked), "Who led the comet team?")
    facts = json.loads(json.dumps({**given_.to_dict(), "run": run_of(tiny_model, {"model": "tiny"})}))
    later(live)
    again = replay(facts, open_book(book.path, at=facts["book"]["version"]), tiny_model, ENCODER)
    assert again.same
    assert again.largest <= 1e-6  # what is stored is rounded
    assert again.answer.book["version"] == facts["book"]["version"] < live.version


@pytest.mark.parametrize(
    "asked",
    [
        Settings(),
        Settings(beams=Beams(3, 0.5, "never"), sampling=Sampling()),
        Settings(constraint=Constraint("regex", "[a-z]+"), stop=()),
        Settings(rerank=Rerank(20)),
        Settings(paths="sets", hops=3, lambda_knn="auto"),
        Settings(answers=3),
        Settings().robustly(1),
        Settings(margin=None, sampling=Sampling(0.5, 3, 0.5, 0.1, 1.2, seed=7)),
    ],
)
def test_settings_are_read_back(asked: Settings) -> None:
    assert settings_from(json.loads(json.dumps(asked.summary())), asked.sampling.seed) == asked


def test_settings_that_are_not_understood_are_named() -> None:
    summary = Settings().summary()
    with pytest.raises(Fault, match="cannot ask with the settings of this answer: stride"):
        settings_from({**summary, "stride": 4})
    for wrong in ({"beams": "x"}, {"constraint": "x"}, {"constraint": {}}, {"rerank": "x"}, {"passages": {}}):
        with pytest.raises(Fault, match="cannot be read back"):
            settings_from({**summary, **wrong})
    with pytest.raises(Fault, match="cross-encoder"):
        settings_from({**summary, "rerank": {"by": "cross-encoder", "pool": 3, "model": "x"}})


def test_another_model_or_version_is_refused(book: Book, tiny_model) -> None:
    live = open_book(book.path)
    given_ = write(Reader(live, tiny_model, ENCODER, Settings(max_tokens=3)), "Who?").to_dict()
    facts = {**given_, "run": run_of(tiny_model, {})}
    with pytest.raises(Fault, match="is opened at"):
        replay(facts, open_book(book.path, at=live.version - 1), tiny_model, ENCODER)
    with pytest.raises(Fault, match="not the same numbers"):
        replay(facts, live, replace(tiny_model, fingerprint="other"), ENCODER)
    with pytest.raises(Fault, match="can be replayed"):
        how_it_ran(given_)


def test_what_differs_is_found(book: Book, tiny_model) -> None:
    asked = Settings(max_tokens=6, margin=None)
    answer = write(Reader(open_book(book.path), tiny_model, ENCODER, asked), "How long is the bridge?")
    facts = answer.to_dict()
    assert len(facts["tokens"]) > 2
    assert compare(facts, answer).same
    shorter = {**facts, "tokens": facts["tokens"][:-1]}
    assert compare(shorter, answer).first == len(facts["tokens"]) - 1
    other = json.loads(json.dumps(facts))
    other["tokens"][1]["text"] = "!"
    assert (compare(other, answer).first, compare(other, answer).was) == (1, "!")
    assert not compare({**facts, "abstained": True}, answer).same
    assert not compare({**facts, "tokens": []}, answer).same


def stored(book: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """An answer as it is kept."""
    said = {"question": "Who?", "answer": "Vass", "abstained": False, "seed": 0, "tokens": [], "settings": {}}
    return {**said, "book": book, "run": {"fingerprint": "x", **run}}


@pytest.mark.parametrize("what", ["model", "encoder"])
@pytest.mark.parametrize("kind", ["file", "folder", "hub"])
def test_no_file_is_opened_because_an_answer_names_it(
    book: Book,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    kind: str,
) -> None:
    """A book may come from somebody else. What its answers name is opened on the user's own word alone."""
    planted = {"file": str(tmp_path / "planted.gguf"), "folder": str(tmp_path), "hub": "somebody/planted"}[kind]
    (tmp_path / "planted.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text("{}")
    opened: list[str] = []

    def located(name: str, **_: object) -> str:
        opened.append(name)
        raise Fault(f"asked for {name}")

    monkeypatch.setattr("openbook.lm.weights.pull.locate", located)
    number = str(keep(book.path, stored({"version": open_book(book.path).version}, {what: planted})))
    replayed = ["why", number, "--replay", "--book", str(book.path)]
    assert main(replayed) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"this answer's {what} was {planted}, which its file alone names" in error
    assert opened == []
    if what == "encoder":
        monkeypatch.setenv("OPENBOOK_ENCODER", planted)
    else:
        assert f"--replay --model {planted}" in error
        replayed += ["--model", planted]
    assert main(replayed) == 1
    assert "asked for" in capsys.readouterr().err
    assert opened == [planted if what == "model" else "smollm2"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"question": None},
        {"answer": 3},
        {"seed": "x"},
        {"abstained": "no"},
        {"settings": []},
        {"book": {}},
        {"book": {"version": "../../x"}},
        {"tokens": [{"text": "a"}]},
        {"tokens": {"a": 1}},
        {"tokens": ["a"]},
        {"run": {"fingerprint": "x", "model": {"a": 1}}},
        {"run": {"fingerprint": "x", "precision": "x"}},
        {"run": None},
    ],
)
def test_a_damaged_answer_is_refused_in_a_line(
    book: Book, wrong: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    number = keep(book.path, stored({"version": 0}, {}) | wrong)
    assert main(["why", str(number), "--replay", "--book", str(book.path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "unexpected" not in error


def test_a_version_that_is_gone_is_said(book: Book, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = keep(book.path, stored({"version": 0}, {}))
    (book.path / "versions" / "000000.json").rename(tmp_path / "saved")
    try:
        assert main(["why", str(number), "--replay", "--book", str(book.path)]) == 1
        assert "version 0, at which this was answered, is gone" in capsys.readouterr().err
    finally:
        (tmp_path / "saved").rename(book.path / "versions" / "000000.json")
