"""Answers written in every way that decoding knows: their evidence adds up, their form is what was demanded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_speculation import OneByOne

from openbook.answer.answer import Answer
from openbook.answer.ask import stream, write
from openbook.book.embedder import HashedWords
from openbook.book.store import open_book
from openbook.cli.ready import settings_of
from openbook.config import Config, load_config
from openbook.errors import Fault
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.constrain import Constraint
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.model import LanguageModel
from openbook.lm.tokenizer import Tokenizer
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings

QUESTION = "Who led the comet team?"
SHORT = Constraint("json_schema", '{"enum": ["Vass", "nobody"]}')


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, tiny_model: LanguageModel) -> Reader:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "comet.md").write_text("# The comet\n\nIngrid Vass led the comet team in 2019.\n", encoding="utf-8")
    (folder / "moss.txt").write_text("Mosses have no roots.\n", encoding="utf-8")
    book = open_book(tmp_path_factory.mktemp("books") / "facts.book")
    encoder = HashedWords()
    book.add(folder, encoder=encoder)
    return Reader(book, tiny_model, encoder, Settings(max_tokens=12, margin=None))


def answered(reader: Reader, **how: Any) -> Answer:
    return write(replace(reader, settings=replace(reader.settings, **how)), QUESTION)


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"sampling": Sampling(1.0, min_p=0.001, seed=2)},
    "penalised": {"sampling": Sampling(repetition_penalty=1.5)},
    "beams": {"beams": Beams(3)},
    "penalised beams": {"beams": Beams(3, 0.0, True), "sampling": Sampling(repetition_penalty=1.5)},
    "schema": {"constraint": SHORT},
    "drawn schema": {"constraint": SHORT, "sampling": Sampling(2.0, seed=1)},
    "schema in beams": {"constraint": SHORT, "beams": Beams(3)},
}


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_adds_up_however_it_was_chosen(reader: Reader, way: str) -> None:
    answer = answered(reader, **WAYS[way])
    facts = answer.to_dict()
    json.dumps(facts, allow_nan=False)
    assert answer.tokens and "".join(token.text for token in answer.tokens) == answer.text
    assert all(answer.text[slice(*token.span)] == token.text for token in answer.tokens)
    assert answer.evidence is not None and answer.evidence.bits_T is not None
    np.testing.assert_allclose(answer.evidence.responsibility_TS.sum(1), 1.0, atol=1e-9)
    total = sum(source.bits or 0.0 for source in answer.sources)
    assert total == pytest.approx(float(answer.evidence.bits_T.sum()), abs=1e-6)
    # p is what the mixture gave the token, whatever the choice was made from.
    probabilities = np.exp(answer.evidence.log_mix_T)
    np.testing.assert_allclose([token.p for token in answer.tokens], probabilities, atol=1e-5)
    if "schema" in way:
        assert json.loads(answer.text) in ("Vass", "nobody")


@pytest.mark.parametrize("way", [way for way in WAYS if "beams" not in way])
def test_an_answer_that_was_read_ahead_is_the_same(reader: Reader, way: str) -> None:
    """Said or not said, it speculates where that changes nothing; elsewhere only if it is asked to."""
    assert not reader.speculates
    runner = OneByOne(reader.model.runner.decoder)  # type: ignore[attr-defined]
    exact = replace(reader, model=replace(reader.model, runner=runner), kept=PrefixStore(1 << 24))
    ahead, plain = answered(exact, **WAYS[way]), answered(exact, speculate=False, **WAYS[way])
    assert ahead == replace(plain, timings=ahead.timings, settings=ahead.settings)
    assert {"steps", "proposed", "accepted"} <= ahead.timings.keys() and "proposed" not in plain.timings
    assert ahead.timings["steps"] + ahead.timings["accepted"] == plain.timings["steps"]
    asked = answered(reader, speculate=True, **WAYS[way])
    assert asked.text == answered(reader, **WAYS[way]).text and "proposed" in asked.timings


def test_what_is_copied_again_and_again_takes_fewer_steps(reader: Reader) -> None:
    """A form that leaves no choice but to repeat: the answer is its own source."""
    form = {"constraint": Constraint("regex", "(Vass led ){12}"), "max_tokens": 120, "speculate": True}
    answer = answered(reader, **form)
    assert answer.text == "Vass led " * 12
    assert answer.timings["accepted"] > 20
    assert answer.timings["steps"] < answered(reader, **{**form, "speculate": False}).timings["steps"] - 20


@pytest.mark.parametrize("way", ["greedy", "beams", "read ahead"])
def test_an_answer_that_goes_round_in_a_circle_says_it_once(reader: Reader, way: str) -> None:
    """What stays has the numbers that it has where all is shown; what was withdrawn has none."""
    how = {"greedy": {}, "beams": {"beams": Beams(2)}, "read ahead": {"speculate": True}}[way] | {"max_tokens": 100}
    whole = answered(reader, cut_repeats=False, **how)
    cut = answered(reader, **how)
    assert whole.ended == "limit" and cut.ended == "repetition" and not cut.abstained
    assert len(cut.tokens) < len(whole.tokens) == 100 and whole.text.startswith(cut.text)
    count = len(cut.tokens)
    assert cut.tokens[: count - 1] == whole.tokens[: count - 1]  # the last may have lost white space
    assert cut.evidence is not None and whole.evidence is not None
    np.testing.assert_array_equal(cut.evidence.log_p_TS, whole.evidence.log_p_TS[:count])
    settings = replace(reader.settings, **how)
    seen = list(stream(QUESTION, book=reader.book, model=reader.model, encoder=reader.encoder, settings=settings))
    assert "".join(token.text for token in seen).strip() == cut.text and len(seen) == count
    # One that is held to a form says it as often as the form demands.
    assert answered(reader, constraint=Constraint("regex", "(ab){30}"), max_tokens=70).text == "ab" * 30


def test_an_empty_phrase_that_was_said_over_and_over_is_no_answer(reader: Reader) -> None:
    """The book must add as many bits to what stays as it must to the question; other answers may have fewer."""
    cut = answered(reader, max_tokens=100)
    assert cut.evidence is not None and cut.evidence.bits_T is not None
    bits = float(cut.evidence.bits_T.sum())
    margin = bits + 0.01
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openbook.mix.reading.Believed.lift_bits", margin)
        doubted = answered(reader, max_tokens=100, margin=margin)
        assert doubted.abstained and "over and over" in (doubted.reason or "") and doubted.ended == "repetition"
        assert doubted.text == cut.text and doubted.tokens == cut.tokens and not doubted.citations
        assert not answered(reader, max_tokens=100, margin=margin, cut_repeats=False).abstained
        assert not answered(reader, max_tokens=100, margin=bits - 0.01).abstained


def test_one_beam_and_a_penalty_of_one_are_greedy(reader: Reader) -> None:
    plain = answered(reader)
    assert answered(reader, beams=Beams(1)).text == plain.text
    assert answered(reader, sampling=Sampling(repetition_penalty=1.0)).tokens == plain.tokens
    penalised = {"sampling": Sampling(repetition_penalty=1.7), "constraint": Constraint("regex", "[a-m]{12}")}
    assert answered(reader, beams=Beams(1), **penalised).text == answered(reader, **penalised).text


def test_a_stop_string_ends_an_answer_and_is_not_in_it(reader: Reader) -> None:
    drawn = Sampling(30.0, seed=3)
    whole = answered(reader, sampling=drawn).text
    middle = whole[4:6]
    settings = replace(reader.settings, sampling=drawn, stop=("\x00", middle))
    answer = write(replace(reader, settings=settings), QUESTION)
    assert answer.text == whole[: whole.index(middle)].rstrip() and len(middle) == 2
    assert answer.evidence is not None and len(answer.evidence.log_p_TS) == len(answer.tokens)
    seen = list(stream(QUESTION, book=reader.book, model=reader.model, encoder=reader.encoder, settings=settings))
    assert "".join(token.text for token in seen).strip() == answer.text


def test_a_model_without_a_template_stops_where_its_turn_ends(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reader.model.tokenizer.turn_ends == ()
    drawn = {"sampling": Sampling(30.0, seed=3)}
    whole = answered(reader, **drawn).text
    monkeypatch.setattr(Tokenizer, "turn_ends", (whole[4:6],))
    assert answered(reader, **drawn).text == whole[: whole.index(whole[4:6])].rstrip() != whole
    monkeypatch.setattr(Tokenizer, "turn_ends", ("a",))  # what is held to a form ends where the form does
    assert answered(reader, constraint=SHORT).text in ('"Vass"', '"nobody"')


def test_a_stream_gives_all_that_an_answer_has(reader: Reader) -> None:
    """Also a character that was cut at the limit: noise of single bytes is full of them."""
    for seed in range(6):
        settings = replace(reader.settings, sampling=Sampling(30.0, seed=seed))
        seen = list(stream(QUESTION, book=reader.book, model=reader.model, encoder=reader.encoder, settings=settings))
        assert "".join(token.text for token in seen).strip() == write(replace(reader, settings=settings), QUESTION).text


def test_an_answer_that_was_cut_before_it_fits_is_a_fault(reader: Reader) -> None:
    for beams in (None, Beams(2)):
        with pytest.raises(Fault, match=r"not whole after 3 tokens.*JSON schema"):
            answered(reader, constraint=SHORT, max_tokens=3, beams=beams)


def test_white_space_that_was_demanded_stays(reader: Reader) -> None:
    assert answered(reader, constraint=Constraint("regex", " a ")).text == " a "


def test_under_a_constraint_or_a_penalty_nothing_is_certified(reader: Reader) -> None:
    fixed: dict[str, Any] = {"persistence": 0.0, "beta": 0.0}
    assert answered(reader, **fixed).tokens[0].certified is not None
    for way in ("penalised", "beams", "schema"):
        assert {token.certified for token in answered(reader, **fixed, **WAYS[way]).tokens} == {None}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"beams": Beams(2), "sampling": Sampling(1.0)}, "temperature"),
        ({"beams": Beams(64)}, "rows"),
        ({"stop": ("x",), "constraint": SHORT}, "stop string"),
        ({"stop": ("",)}, "stop strings"),
        ({"stop": "end"}, "a list"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(how: dict[str, Any], words: str) -> None:
    with pytest.raises(Fault, match=words):
        Settings(**how)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    for name in Config.model_fields:
        monkeypatch.delenv(f"OPENBOOK_{name.upper()}", raising=False)
    yield tmp_path


def test_options_variables_and_the_file_say_how_an_answer_is_written(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "form.json").write_text('{"type": "integer"}')
    made = settings_of(
        load_config(beams=3, length_penalty=0.5, early_stopping="never", min_p=0.1, repetition_penalty=1.2)
    )
    assert made.beams == Beams(3, 0.5, "never")
    assert (made.sampling.min_p, made.sampling.repetition_penalty) == (0.1, 1.2)
    assert settings_of(load_config(beams=1)).beams is None
    made = settings_of(load_config(json_schema=Path("form.json")))
    assert made.constraint == Constraint("json_schema", '{"type": "integer"}')
    assert settings_of(load_config(speculate=False)).speculate is False
    assert settings_of(load_config()).speculate is None
    assert settings_of(load_config(cut_repeats=False)).cut_repeats is False
    assert settings_of(load_config()).cut_repeats is True
    assert settings_of(load_config(regex="a+")).constraint == Constraint("regex", "a+")
    monkeypatch.setenv("OPENBOOK_STOP", "\n\n")
    assert settings_of(load_config()).stop == ("\n\n",)
    Path("openbook.toml").write_text('stop = ["a", "b"]\nbeams = 2\n')
    assert settings_of(load_config()).stop == ("\n\n",)
    monkeypatch.delenv("OPENBOOK_STOP")
    assert settings_of(load_config()).stop == ("a", "b")
    assert settings_of(load_config(stop=("c",))).stop == ("c",)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"length_penalty": 2.0}, "beams"),
        ({"early_stopping": "yes"}, "beams"),
        ({"beams": 65}, "--beams is 65"),
        ({"beams": 2, "temperature": 1.0}, "temperature"),
        ({"early_stopping": "maybe"}, "--early-stopping is 'maybe'"),
        ({"min_p": 2.0}, "--min-p is 2"),
        ({"regex": "a", "json_schema": Path("x.json")}, "one of them"),
        ({"json_schema": Path("x.json")}, "x.json cannot be read: No such file"),
        ({"json_schema": Path("/dev/zero")}, "too long"),
        ({"regex": "a("}, "unclosed group, at character 2"),
        ({"regex": "a", "stop": ("b",)}, "stop string"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(elsewhere: Path, given: dict[str, Any], words: str) -> None:
    with pytest.raises(Fault, match=re.escape(words)) as caught:
        settings_of(load_config(**given))
    assert "\n" not in str(caught.value)
