"""Branches of several passages: a path of one is its passage's branch; leaving out is reading again without."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openbook.answer.ask import write
from openbook.answer.html import render_html
from openbook.book.embedder import HashedWords
from openbook.book.retrieve import find
from openbook.book.store import open_book
from openbook.errors import Fault
from openbook.lm.cache.prefixes import PrefixStore
from openbook.measure.qa import measure
from openbook.measure.squad import Question
from openbook.mix.paths import join, leave_out, log_prior_of, views
from openbook.mix.prompt import PASSAGE_TOKENS, Framing
from openbook.mix.reading import Reader, branch_of, passage_text
from openbook.mix.rerank import Rerank
from openbook.mix.settings import Settings
from openbook.mix.source import Label

QUESTION = "Who opened the bridge over the Larch?"
DOCUMENTS = {
    "bridge.md": "# The bridge\n\nThe bridge over the Larch was opened by the mother of Ingrid Vass.\n",
    "vass.md": "# Vass\n\nThe mother of Ingrid Vass was Helga Vass.\n",
    "moss.md": "# Moss\n\nMosses have no roots.\n",
}
LONG = "# Long\n\n" + "\n\n".join(f"Paragraph {i} of the Larch tells of stone {i}. " * 12 for i in range(4))


@pytest.fixture(scope="module")
def reader(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("documents")
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    book = open_book(tmp_path_factory.mktemp("books") / "paths.book")
    book.add(folder, encoder=HashedWords())
    return Reader(book, tiny_model, HashedWords(), Settings(max_tokens=6, margin=None, passages=3))


def under(reader: Reader, **changed) -> Reader:
    return replace(reader, settings=replace(reader.settings, **changed))


def alone(reader: Reader, path, tokens) -> float:
    """log p of the tokens after the whole prompt, computed from scratch in one forward."""
    framing = Framing(reader.model.tokenizer, reader.settings.prompt)
    suffix = framing.suffix(QUESTION)
    before = framing.prefix([passage_text(hit) for hit in path], PASSAGE_TOKENS * len(path))
    text = [*before, *suffix.question, *suffix.tail]
    log_p = reader.model.runner.forward(torch.tensor([text + list(tokens)]))[0].log_softmax(-1)
    return sum(float(log_p[len(text) - 1 + i, token]) for i, token in enumerate(tokens))


def test_a_path_of_one_passage_is_that_passages_branch(reader):
    hits = reader.find(QUESTION)[:3]
    (single, one), (paths, two) = reader.read(QUESTION, hits), reader.read_paths(QUESTION, [(h,) for h in hits])
    assert torch.equal(single.start(), paths.start())
    np.testing.assert_array_equal(one.refined_S, two.refined_S)
    np.testing.assert_array_equal(log_prior_of([(h,) for h in hits]), np.log([h.prior for h in hits]))
    branch = branch_of(Label("p1", "passage"), (hits[0],))
    assert (branch.name, branch.passages) == (hits[0].passage.id, (passage_text(hits[0]),))


@pytest.mark.parametrize("hops", [2, 3])
def test_sets_hold_every_passage_alone_and_every_set_the_most_believed_last(reader, hops):
    hits = reader.find(QUESTION)[:3]
    paths = join(reader.book, hits, "sets", hops)
    assert len(paths) == len({frozenset(h.passage.id for h in path) for path in paths}) == (6 if hops == 2 else 7)
    assert all([h.prior for h in path] == sorted(h.prior for h in path) for path in paths)
    prior = np.exp(log_prior_of(paths))
    assert prior.sum() == pytest.approx(1)
    sums = np.array([sum(h.prior for h in path) for path in paths])
    np.testing.assert_allclose(prior, sums / sums.sum())


def test_the_order_of_the_hits_decides_nothing(reader):
    hits = reader.find(QUESTION)[:3]
    forth, back = (set(join(reader.book, some, "sets", 2)) for some in (hits, hits[::-1]))
    assert forth == back


def test_neighbours_are_those_beside_it_in_its_document(tmp_path):
    (tmp_path / "long.md").write_text(LONG, encoding="utf-8")
    (tmp_path / "moss.md").write_text(DOCUMENTS["moss.md"], encoding="utf-8")
    book = open_book(tmp_path / "long.book")
    book.add(tmp_path / "long.md", tmp_path / "moss.md", encoder=HashedWords())
    in_order = sorted((p for p in book.passages() if p.document.endswith("long.md")), key=lambda p: p.start)
    assert len(in_order) > 3
    hits = [replace(hit, prior=0.2) for hit in find(book, "stone of the Larch paragraph", 10, HashedWords())]
    hit = next(h for h in hits if h.passage.id == in_order[1].id)
    moss = next(h for h in hits if h.passage.document.endswith("moss.md"))
    joined, single = join(book, [hit, moss], "neighbours", 2)
    assert [h.passage for h in joined] == in_order[:3]
    assert single == (moss,)
    assert [h.prior for h in joined] == [0, 0.2, 0]


def test_behind_is_the_best_passage_twice_once_with_the_next_before_it(reader):
    hits = reader.find(QUESTION)[:3]
    one, two = join(reader.book, hits, "behind", 2)
    assert one == (hits[0],) and [h.passage for h in two] == [hits[1].passage, hits[0].passage]
    assert join(reader.book, hits[:1], "behind", 2) == [(hits[0],)]
    np.testing.assert_allclose(np.exp(log_prior_of([one, two])), [0.5, 0.5])
    # The question was read under both; what it says, it says of the passage that both are there for.
    source, believed = reader.read_paths(QUESTION, [one, two])
    np.testing.assert_allclose(np.exp(believed.refined_S), [0.5, 0.5])
    assert believed.asked_S[0] == pytest.approx(np.logaddexp.reduce(source.question_log_p_S[:2]) - np.log(2))
    assert believed.asked_closed == source.question_log_p_S[2]


def test_the_best_that_others_stand_behind_is_the_rerankers(reader):
    joined = under(reader, paths="behind", passages=2)
    hits = reader.find(QUESTION)
    asked_S, prior_S = reader.read(QUESTION, hits)[1].asked_S, np.log([h.prior for h in hits])
    rank = np.argsort(-(prior_S + reader.settings.beta * asked_S), kind="stable")
    for order in (hits, hits[::-1]):
        one, two = joined.paths(QUESTION, order)
        assert [h.passage.id for h in (*one, *two)] == [hits[i].passage.id for i in (rank[0], rank[1], rank[0])]


def test_views_share_what_the_question_says_and_sets_do_not(reader):
    hits = reader.find(QUESTION)[:3]
    asked_S = np.array([-3.0, -9.0, -4.0])
    apart = [(hits[0],), (hits[1],), (hits[0], hits[1])]  # of a set every member is believed
    np.testing.assert_array_equal(views(apart, asked_S), asked_S)
    beside = [(hits[0],), (hits[1],), (replace(hits[2], prior=0.0), hits[0])]
    shared_S = views(beside, asked_S)
    assert shared_S[1] == -9 and shared_S[0] == shared_S[2] == pytest.approx(np.log(np.exp([-3, -4]).mean()))


@pytest.mark.parametrize("hops", [2, 3])
def test_leaving_out_is_reading_again_from_scratch(reader, hops):
    hits, tokens = reader.find(QUESTION)[:3], [72, 101, 108, 103, 97]
    paths = join(reader.book, hits, "sets", hops)
    whole = np.array([alone(reader, path, tokens) for path in paths])
    found = leave_out(reader, QUESTION, paths, tokens, whole)
    for path, drops, log_p in zip(paths, found.drops, whole, strict=True):
        wanted = [log_p - alone(reader, path[:i] + path[i + 1 :], tokens) for i in range(len(path) * (len(path) > 1))]
        np.testing.assert_allclose(drops, wanted, atol=1e-3)
    assert found.forwards == 2 and found.rows == len({f for p in paths if len(p) > 1 for f in _rests(p)})


def _rests(path):
    return [tuple(h.passage.id for h in path[:i] + path[i + 1 :]) for i in range(len(path))]


def test_an_answer_tells_what_each_passage_of_a_branch_does(reader):
    answer = write(under(reader, paths="sets"), QUESTION)
    facts = answer.to_dict()
    json.dumps(facts, allow_nan=False)
    assert facts["settings"]["paths"] == "sets" and facts["settings"]["hops"] == 2
    joined = [source for source in facts["sources"] if "members" in source]
    assert joined and facts["timings"]["left_out_forwards"] == 2
    for source in joined:
        assert all(isinstance(member["left_out"], float) for member in source["members"])
        chief = max(source["members"], key=lambda member: member["left_out"])
        assert (source["document"], source["text"]) == (chief["document"], chief["text"])
        for member in source["members"]:
            assert reader.book.text(member["document"])[slice(*member["span"])] == member["text"]
    page = render_html(facts)
    assert all(member["document"] in page for source in joined for member in source["members"])
    for citation in facts["citations"]:
        source = next(s for s in facts["sources"] if s["id"] == citation["source"])
        place = source["members"][citation["member"]] if "members" in source else source
        assert reader.book.text(place["document"])[slice(*citation["source_span"])] == citation["cited_text"]


def test_of_passages_read_one_by_one_nothing_is_left_out(reader):
    facts = write(reader, QUESTION).to_dict()
    assert not any(name.startswith("left_out") for name in facts["timings"])
    assert not any("members" in source for source in facts["sources"])


def test_keys_of_joined_passages_are_kept_nowhere(reader):
    store = PrefixStore(1 << 24)
    joined = replace(under(reader, paths="sets"), kept=store)
    write(joined, QUESTION)
    ids = {p.id for p in reader.book.passages()} | {"closed"}
    assert {key.split(".")[0] for key in store._held} <= ids


@pytest.mark.parametrize(("changed", "said"), [({"paths": "rings"}, "sets"), ({"hops": 9}, "2 to 4")])
def test_what_cannot_be_is_refused(changed, said):
    with pytest.raises(Fault, match=said):
        Settings(**changed)


def test_the_best_passages_alone_are_joined_and_eval_qa_answers_as_ask_does(tmp_path, reader):
    for i in range(7):
        (tmp_path / f"{i}.md").write_text(f"# Bridge {i}\n\nBridge {i} over the Larch is new.\n", encoding="utf-8")
    book = open_book(tmp_path / "many.book")
    book.add(tmp_path, encoder=HashedWords())
    settings = Settings(max_tokens=6, margin=None, passages=2, paths="sets", speculate=False, cut_repeats=False)
    many = Reader(book, reader.model, HashedWords(), settings)
    hits = many.find(QUESTION)
    paths = many.paths(QUESTION, hits)
    assert len(hits) == 7 and sorted(map(len, paths)) == [1, 1, 2]
    (outcome,) = measure(many, [Question(QUESTION, ("new",), "0.md")], ["paths (chosen τ)"])
    assert outcome.answers["paths (chosen τ)"] == write(many, QUESTION).text


def test_no_certificate_speaks_for_a_passage_that_stands_in_several_branches(reader):
    fixed = under(reader, persistence=0.0, beta=0.0)
    assert all(token.certified is not None for token in write(fixed, QUESTION).tokens)
    assert all(token.certified is None for token in write(under(fixed, paths="sets"), QUESTION).tokens)
    crossed = replace(fixed.settings, rerank=Rerank(5, "cross-encoder", Path("folder")))
    assert fixed.settings.certifiable and not crossed.certifiable


def test_too_many_paths_are_a_fault(reader):
    hits = reader.find(QUESTION)
    with pytest.raises(Fault, match="more than 64"):
        join(reader.book, (hits * 13)[:13], "sets", 2)
