"""One question that two sources store in other words: neither takes the other's lead, and both answers are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.answer.answer import plain
from openbook.answer.ask import write
from openbook.answer.faq import reply
from openbook.answer.replay import replay, run_of
from openbook.book import open_book
from openbook.book.embedder import HashedWords
from openbook.book.faq.entries import Entry, fold
from openbook.book.faq.fit import best_and_lead
from openbook.book.faq.index import WORDINGS, Index, texts_of
from openbook.book.faq.knowledge import knowledge_of, open_knowledge
from openbook.book.faq.pairs import MEDIA, Pair
from openbook.lm.model import LanguageModel
from openbook.mix.settings import Settings
from openbook.mix.sources.faq import PairReader


def entries_of(*pairs: tuple[list[str], str]) -> list[Entry]:
    return fold([Pair(f"{i}.csv", f"{i}", tuple(q), a, 0, 1, 0, 1, i + 1) for i, (q, a) in enumerate(pairs)])


TEXT = st.sampled_from(["flu fever cough", "flu fever coughs", "park the bicycle", "renew the card", "a b c d e f"])


@given(st.lists(st.tuples(st.lists(TEXT, min_size=1, max_size=6, unique=True), TEXT), min_size=2, max_size=6))
def test_doubles_are_mutual(drawn: list[tuple[list[str], str]]) -> None:
    entries = entries_of(*((q, f"{a} {i}.") for i, (q, a) in enumerate(drawn)))
    encoder = HashedWords(16)
    texts = texts_of(entries)
    index = Index.of(entries, dict(zip(texts, encoder.embed(texts), strict=True)), encoder.width)
    every = np.arange(len(entries))
    found = np.array([index.doubles(int(i), every) for i in every])
    many = [len(entry.questions) > WORDINGS for entry in entries]
    assert (found == found.T).all()
    for i in every[many]:
        assert not np.delete(found[i], i).any()
    for i, one in enumerate(entries):
        for j, other in enumerate(entries):
            if one.questions == other.questions and not many[i]:
                assert found[i, j]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.data())
def test_a_double_takes_no_lead(scores: list[float], data: st.DataObject) -> None:
    scores_C, threads_C = np.array(scores), np.arange(len(scores))
    best = int(scores_C.argmax())
    doubles_C = np.array(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    top, lead = best_and_lead(scores_C, threads_C, lambda at, some: doubles_C[some])
    rest = [s for i, s in enumerate(scores) if i != best and not doubles_C[i]]
    assert top == max(scores) and lead == pytest.approx(top - (max(rest) if rest else 0.0))
    assert lead >= best_and_lead(scores_C, threads_C)[1] - 1e-9 or not rest


THINGS = ("router", "lamp", "phone", "printer", "camera", "clock", "kettle", "radio", "scale", "heater", "fan", "drill")


def shops(*more: tuple[list[str], str]) -> list[Entry]:
    asks = ["How do I clean the {}?", "Where is the warranty of my {}?", "Can I return the {} to you?"]
    says = ["Wipe the {0} with a dry cloth, never with water.", "The {0} is covered for two years by the bill.",
            "Yes, the {0} may come back within a month in its box."]  # fmt: skip
    drawn = [([a.format(t)], s.format(t)) for t in THINGS for a, s in zip(asks, says, strict=True)]
    return entries_of(*drawn, *more)


FLU = (["What are the symptoms of the flu?"], "Fever, cough and tiredness are the signs of the flu.")
AGAIN = (["What are the symptoms of the flu today?"], "Fever, cough and tiredness are signs of the flu.")
OTHER = (["What are the symptoms of the flu"], "Ask a doctor in town about that.")


def test_what_two_sources_say_alike_is_answered_with_both() -> None:
    asked = "the symptoms of the flu"
    alone = reply(asked, knowledge_of(shops(FLU), HashedWords(512)))
    both = reply(asked, knowledge_of(shops(FLU, AGAIN), HashedWords(512)))
    assert not alone.abstained and not both.abstained
    assert {both.match.entry.pair.document, *(m.entry.pair.document for m in both.also)} == {"36.csv", "37.csv"}
    told: dict[str, Any] = both.to_dict()
    json.dumps(told, allow_nan=False)
    assert [source["id"] for source in told["sources"]] == ["f1", "f2"]
    assert told["also"][0]["answer"] in (FLU[1], AGAIN[1]) and told["also"][0]["answer"] != told["answer"]
    assert not {m.number for m in both.also} & {m.number for m in both.related}


def test_where_answers_differ_both_are_told() -> None:
    both = reply("the symptoms of the flu", knowledge_of(shops(FLU, OTHER), HashedWords(512)))
    assert {both.match.entry.pair.answer, *(m.entry.pair.answer for m in both.also)} == {FLU[1], OTHER[1]}


def test_what_is_asked_of_something_else_is_no_double() -> None:
    told = reply("How do I clean the kettle?", knowledge_of(shops(FLU), HashedWords(512)))
    assert told.also == () and told.match.entry.pair.answer.startswith("Wipe the kettle")


def test_what_a_model_wrote_from_pairs_can_be_replayed(tmp_path: Path, tiny_model: LanguageModel) -> None:
    file = tmp_path / "help.csv"
    file.write_text("How do I reset it?,Hold the button.\nWhat does it cost?,Ten francs.\nWho made it?,We did.\n")
    book, encoder = open_book(tmp_path / "book"), HashedWords()
    book.add(file, encoder=encoder, as_media=MEDIA)
    matches = open_knowledge(book, encoder).find("reset").matches
    settings = Settings(max_tokens=8, margin=None)
    facts = write(PairReader(book, tiny_model, encoder, settings, matches=matches), "reset").to_dict()
    kept = plain(facts) | {"run": run_of(tiny_model, {})}
    kept["settings"]["pairs"] = True
    assert replay(kept, book, tiny_model, encoder).same
    del kept["settings"]["pairs"]  # of passages it is another answer: that is what is recorded
    fresh = replay(kept, book, tiny_model, encoder)
    assert next(s.kind for s in fresh.answer.sources) == "passage"
