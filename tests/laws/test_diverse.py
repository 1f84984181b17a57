"""Several answers: they differ, the first is the greedy one, each has its own evidence."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.answer.ask import write
from openbook.answer.html import render_html
from openbook.answer.terminal import show
from openbook.book.embedder import HashedWords
from openbook.book.store import open_book
from openbook.errors import Fault
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.constrain import Constraint
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.sampling import Sampling
from openbook.mix.decode import generate
from openbook.mix.diverse import distinct, distinctness, diverse
from openbook.mix.reading import Reader
from openbook.mix.rerank import Rerank
from openbook.mix.settings import Settings

QUESTION = "How long is the bridge?"


@pytest.fixture(scope="module")
def reader(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("documents")
    for i in range(5):
        (folder / f"{i}.md").write_text(f"# Bridge {i}\n\nThe bridge {i} is {200 + i} metres long.\n", encoding="utf-8")
    book = open_book(tmp_path_factory.mktemp("books") / "bridges.book")
    book.add(folder, encoder=HashedWords())
    decoder = copy.deepcopy(tiny_model.runner.decoder)
    with torch.no_grad():  # as it is it would say the same letter, whatever that costs
        decoder.norm.weight.mul_(0.1)
    model = replace(tiny_model, runner=TorchRunner(decoder))
    return Reader(book, model, HashedWords(), Settings(max_tokens=10, margin=None, passages=3))


def under(reader: Reader, **changed) -> Reader:
    return replace(reader, settings=replace(reader.settings, **changed))


def begun(reader: Reader):
    return reader.begin(QUESTION, reader.find(QUESTION)).mixture


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_the_first_answer_is_the_greedy_one_and_the_evidence_is_the_sources_own(reader, tau):
    asked = under(reader, persistence=tau)
    greedy = list(generate(begun(asked), Sampling(), Draft(), 10))
    first, *others = diverse(begun(asked), Draft(), 3, 10)
    assert [step.token for step in first.steps] == [step.token for step in greedy]
    for ours, theirs in zip(first.steps, greedy, strict=True):
        np.testing.assert_allclose(ours.log_p_S, theirs.log_p_S, atol=1e-3)
    for other in others:  # teacher-forced: a mixture that is led along the same tokens says the same of them
        mixture = begun(asked)
        for step in other.steps:
            np.testing.assert_allclose(step.log_p_S, mixture.log_p_of(step.token), atol=1e-3)
            np.testing.assert_allclose(step.log_w_S, mixture.log_w_S, atol=1e-3)
            mixture.advance(step.token)


def test_a_group_pays_for_what_those_before_it_chose_in_that_step(reader):
    texts = [[step.token for step in found.steps] for found in diverse(begun(reader), Draft(), 4, 8, strength=1e4)]
    for column in zip(*texts, strict=True):
        assert len(set(column)) == len(column)
    same = diverse(begun(reader), Draft(), 3, 8, strength=0.0)
    assert len({tuple(step.token for step in found.steps) for found in same}) == 1


@pytest.mark.parametrize("changed", [{}, {"paths": "sets"}, {"rerank": Rerank(pool=5)}])
def test_answers_are_distinct_and_each_has_its_evidence(reader, changed):
    told = write(under(reader, answers=3, **changed), QUESTION)
    facts = told.to_dict()
    json.dumps(facts, allow_nan=False)
    plain = write(under(reader, speculate=False, **changed), QUESTION)
    assert facts["answer"] == plain.text
    texts = [facts["answer"], *(other["answer"] for other in facts["others"])]
    assert 1 < len(texts) <= 3
    said = [text for text in texts if text]  # a model of random weights may write white space alone
    assert distinct(said, 9) == list(range(len(said)))
    for other in facts["others"]:
        assert "".join(token["text"] for token in other["tokens"]) == other["answer"]
        assert all(sum(t["responsibility"].values()) == pytest.approx(1, abs=1e-4) for t in other["tokens"])
        assert [s["id"] for s in other["sources"]] == [s["id"] for s in facts["sources"]]
    likelihoods = [other["mean_log_p"] for other in facts["others"]]
    assert likelihoods == sorted(likelihoods, reverse=True)


def test_other_answers_are_shown(reader):
    from io import StringIO

    from rich.console import Console

    facts = write(under(reader, answers=3), QUESTION).to_dict()
    facts["others"][0]["answer"], facts["others"][0]["tokens"] = "<b>Another", []
    console = Console(file=StringIO(), width=80)
    show(facts, console)
    assert "or: <b>Another" in console.file.getvalue()
    assert "&lt;b&gt;Another" in render_html(facts)


def test_answers_are_held_to_a_form(reader):
    told = write(under(reader, answers=3, constraint=Constraint("regex", "[a-d]{3}")), QUESTION)
    texts = [told.text, *(other.text for other in told.others)]
    assert len(set(texts)) == len(texts) > 1 and all(len(t) == 3 and set(t) <= set("abcd") for t in texts)


@pytest.mark.parametrize("changed", [{}, {"paths": "sets"}, {"rerank": Rerank(pool=5)}])
@pytest.mark.parametrize("constraint", [None, Constraint("regex", "[a-d]{3}")])
def test_beams_go_with_reranking_paths_and_forms(reader, changed, constraint):
    told = write(under(reader, beams=Beams(2), constraint=constraint, **changed), QUESTION)
    assert told.tokens and (constraint is None or len(told.text) == 3)


@given(st.lists(st.text(max_size=12), max_size=8), st.integers(1, 8))
@settings(max_examples=60)
def test_of_texts_with_the_same_words_the_first_is_kept(texts, count):
    kept = distinct(texts, count)
    assert kept == sorted(kept) and len(kept) <= count
    assert distinct([texts[i] for i in kept], count) == list(range(len(kept)))
    assert distinct(["It is 212 m.", "it is 212 m", "No."], 3) == [0, 2]


def test_distinct_runs_of_words():
    assert distinctness(["a b c", "a b c"]) == 0.5
    assert distinctness(["a b", "c d"]) == 1.0 and distinctness([]) == 0.0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"answers": 99}, "1 to 16"),
        ({"answers": 2, "beams": Beams(2)}, "beams"),
        ({"answers": 2, "sampling": Sampling(0.7)}, "temperature"),
        ({"answers": 2, "lambda_knn": "auto"}, "neighbours"),
        ({"answers": 2, "robust": 1, "persistence": 0.0, "beta": 0.0}, "robust"),
        ({"answers": 16, "passages": 20}, "rows"),
    ],
)
def test_what_cannot_be_is_refused(changed, said):
    with pytest.raises(Fault, match=said):
        Settings(**changed)
