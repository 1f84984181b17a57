"""Which way a question goes: what is clear is taken, what is not goes the usual way, and the reason is said."""

import json

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from openbook.answer import looked, routing
from openbook.answer.ask import write
from openbook.answer.routing import CERTAIN, LIKELY, READ, WAYS, WEIGHTS, by_form, clue, clues, measures, route
from openbook.book.embedder import HashedWords
from openbook.book.store import open_book
from openbook.cli.ways import go
from openbook.errors import Fault
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings


@given(st.text(max_size=300))
def test_any_question_has_a_way_and_a_reason(question):
    told = route(question)
    assert told.way in WAYS and 0 <= told.confidence <= 1 and told.why
    assert sum(told.shares.values()) == pytest.approx(1.0)
    json.dumps(told.to_dict(), allow_nan=False)
    assert told == route(question)


@given(st.text(max_size=60), st.floats(0, 1), st.floats(0, 1))
def test_a_stored_answer_is_taken_exactly_from_its_threshold_on(question, confidence, threshold):
    assert (route(question, faq=(confidence, threshold)).way == "faq") == (confidence >= threshold)


@given(st.text(max_size=60), st.floats(-50, 50), st.floats(-50, 50))
def test_the_closed_book_is_left_only_where_no_passage_helps(question, lift, margin):
    told = route(question, lift_bits=lift, margin=margin)
    assert (told.way == "closed") == (lift < margin and by_form(question).way != "global")
    assert route(question, lift_bits=lift).way != "closed"


@given(st.text(max_size=200), st.floats(0, 1), st.floats(0, 1))
def test_asking_for_more_clarity_only_ever_leads_to_passages(question, one, other):
    low, high = route(question, clear=min(one, other)).way, route(question, clear=max(one, other)).way
    assert high in (low, "passages")


@pytest.mark.parametrize(
    ("question", "way"),
    [
        ("What are the main themes of these notes?", "global"),
        ("Summarize the whole report.", "global"),
        ("What challenges do guests often mention?", "global"),
        ("总结这些文件的主要观点", "global"),
        ("Who led the comet team?", "passages"),
        ("How long is the bridge over the Larch?", "passages"),
        ("how do i reset my password", "passages"),
        ("谁建造了这座桥？", "passages"),
        ("Who is the spouse of the director of the film that Ingrid Vass wrote in Bergen?", "graph"),
        ("In which country is the city where the author of Pacem in Terris died?", "graph"),
    ],
)
def test_the_form_of_a_question(question, way):
    assert route(question).way == way


def test_every_clue_has_a_weight_and_every_weight_a_clue():
    assert set(clues("")) == set(WEIGHTS)


def test_a_long_question_takes_no_long_time():
    """Patterns that go back over what they have read would not end here."""
    for text in ("A" * 100_000, "Aa " * 50_000, "A.A'" * 50_000, '"' * 100_000, "of the " * 50_000, "A of " * 50_000):
        assert route(text).way in WAYS


def test_another_clue_is_a_function(monkeypatch):
    monkeypatch.setattr(routing, "_CLUES", dict(routing._CLUES))
    monkeypatch.setattr(routing, "WEIGHTS", {**WEIGHTS, "shouts": (0.0, 99.0)})
    clue("shouts")(lambda question: float(question.isupper()))
    assert route("WHO LED IT?").way == "global"


@pytest.fixture
def reader(tmp_path, tiny_model):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "moss.txt").write_text(
        "Mosses have no roots. They drink through their leaves.\n", encoding="utf-8"
    )
    book, encoder = open_book(tmp_path / "b"), HashedWords()
    book.add(tmp_path / "notes", encoder=encoder)
    return Reader(book, tiny_model, encoder, Settings(max_tokens=4))


def test_a_way_that_was_asked_for_is_taken(reader):
    assert go("passages", reader, "Who?", True, None).reader is reader
    graph = go("graph", reader, "Who?", True, None)
    assert graph.reader.settings.paths == "graph" and graph.told["route"]["asked"]
    with pytest.raises(typer.BadParameter, match="--way is 'sideways'"):
        go("sideways", reader, "Who?", True, None)
    with pytest.raises(Fault, match="holds no questions with answers"):
        go("faq", reader, "Who?", True, None)


def test_the_closed_book_alone_has_one_source(reader):
    closed = go("closed", reader, "Do mosses have roots?", True, None)
    answer = write(closed.reader, "Do mosses have roots?")
    assert [source.kind for source in answer.sources] == ["closed_book"]
    assert all(token.responsibility == {"closed": 1.0} for token in answer.tokens)


@pytest.mark.parametrize(("said", "lift_bits", "way"), [(0.9, 30.0, "passages"), (0.0, -5.0, "closed")])
def test_auto_says_why(reader, capsys, monkeypatch, said, lift_bits, way):
    monkeypatch.setattr(looked, "look", lambda reader, question: looked.Looked(lift_bits, 5.0, 1.0, said))
    going = go("auto", reader, "Who led the comet team?", False, None)
    assert (going.reader is reader) == (way == "passages") and not going.done
    told = capsys.readouterr().err
    assert f"way: {way}" in told and f"{lift_bits:.1f} bits likelier" in told
    assert going.told["route"]["way"] == way and going.told["route"]["clues"]["said in one"] == said
    if way == "closed":
        assert [source.kind for source in write(going.reader, "Who led the comet team?").sources] == ["closed_book"]


LOOKS = st.fixed_dictionaries(
    {"lift_bits": st.floats(-500, 500), "spread": st.floats(1, 50), "said": st.floats(0, 1), "margin": st.just(5.0)}
)


@given(st.text(max_size=120), LOOKS)
def test_a_look_into_the_book_weighs_four_ways(question, seen):
    told = route(question, **seen)
    assert told.way in LIKELY and set(told.shares) == set(LIKELY)
    assert sum(told.shares.values()) == pytest.approx(1.0) and told.confidence >= told.shares[told.way] - 1e-9
    assert (told.way == "closed") == (told.shares["closed"] >= CERTAIN)
    json.dumps(told.to_dict(), allow_nan=False)
    assert set(measures(0.0, 1.0, 0.0)) <= set(told.seen)


@given(st.text(max_size=120), LOOKS, st.floats(0, 300))
def test_what_makes_the_question_likelier_never_speaks_for_the_model_alone(question, seen, more):
    """Against passages: the more a passage lifts the question, the less the closed book's share beside theirs."""
    higher = route(question, **{**seen, "lift_bits": seen["lift_bits"] + more}).shares
    lower = route(question, **seen).shares
    assert higher["closed"] * lower["passages"] <= lower["closed"] * higher["passages"] + 1e-9


def test_the_closed_book_can_be_told(monkeypatch):
    monkeypatch.setattr(routing, "READ", {**READ, "every question": (0.0, 0.0, 50.0)})
    told = route("Who is it?", lift_bits=1.0, spread=1.0, said=0.1)
    assert told.way == "closed" and told.why.startswith("the book hardly has it")


def test_every_measure_has_a_weight():
    assert set(READ) == {"every question", *measures(0.0, 1.0, 0.0)}


def test_a_look_measures_what_it_says(reader):
    seen = looked.look(reader, "Have mosses roots?")
    hits = reader.find("Have mosses roots?")
    _, believed = reader.read("Have mosses roots?", hits)
    assert seen.lift_bits == pytest.approx(believed.lift_bits, abs=1e-3)
    assert seen.spread == pytest.approx(1.0) and seen.said == pytest.approx(2 / 2)
    assert looked.look(reader, "Who painted the harbour?").said == 0.0
