"""A question about the whole book: what is read, how points are made of it, and that their evidence is in its place."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.answer.html import render_html
from openbook.answer.summarize import Plan, summarize_with
from openbook.answer.summarize.cover import cover, stands_for, weights
from openbook.answer.summarize.gather import Asked, Group, claims, claims_of, gather, gatherer, gatherers
from openbook.answer.summarize.points import ALIKE, fold, lifts, ordered
from openbook.book.embedder import HashedWords
from openbook.book.passages import Passage
from openbook.book.store import open_book
from openbook.errors import Fault
from openbook.lm.decoding.sampling import Sampling
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings

QUESTION = "What are the main themes of these notes?"


def units(generator, count, width=6):
    made = generator.normal(size=(count, width)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def value(vectors_PM, weights_P, chosen):
    """F(A), by its definition."""
    if not chosen:
        return 0.0
    return float(weights_P @ np.maximum(vectors_PM @ vectors_PM[list(chosen)].T, 0).max(axis=1))


@given(st.integers(0, 9999), st.integers(1, 8), st.integers(1, 40))
def test_what_is_read_fits_the_budget_and_is_near_the_best(seed, count, budget):
    """Against every set that the budget allows: at least (1 − 1/e)/2 of the best."""
    generator = np.random.default_rng(seed)
    vectors_PM, tokens_P = units(generator, count), generator.integers(1, 20, count)
    weights_P = weights(generator.normal(size=count) / 5)
    chosen = cover(vectors_PM, weights_P, tokens_P, budget)
    assert len(set(chosen)) == len(chosen) and tokens_P[chosen].sum() <= budget
    able = [
        c
        for n in range(count + 1)
        for c in itertools.combinations(range(count), n)
        if tokens_P[list(c)].sum() <= budget
    ]
    best = max(value(vectors_PM, weights_P, c) for c in able)
    assert value(vectors_PM, weights_P, chosen) >= (1 - 1 / np.e) / 2 * best - 1e-6


@given(st.integers(0, 9999), st.integers(2, 12))
def test_where_all_fits_nothing_is_left_uncovered(seed, count):
    generator = np.random.default_rng(seed)
    vectors_PM, weights_P = units(generator, count), weights(generator.normal(size=count))
    chosen = cover(vectors_PM, weights_P, np.ones(count, np.int64), count)
    assert value(vectors_PM, weights_P, chosen) == pytest.approx(1.0, abs=1e-5)
    assert cover(vectors_PM, weights_P, np.zeros(count, np.int64), count) == []


@given(st.integers(0, 9999), st.integers(1, 12), st.integers(1, 5))
def test_shares_add_up(seed, texts, points):
    generator = np.random.default_rng(seed)
    share_N = stands_for(units(generator, texts), weights(generator.normal(size=texts)), units(generator, points))
    assert share_N.sum() == pytest.approx(1.0) and (share_N >= 0).all()
    assert len(stands_for(units(generator, texts), np.ones(texts), units(generator, 0))) == 0


@given(st.integers(0, 9999), st.integers(0, 14), st.integers(1, 14))
def test_folding_loses_nothing_but_what_adds_nothing(seed, count, most):
    generator = np.random.default_rng(seed)
    vectors_NM = units(generator, count, 2)  # few directions: many are alike
    bits_N = generator.normal(size=count) * 5
    texts = [" ".join(generator.choice(["comet", "bridge", "moss", "river", "tower"], 3)) for _ in range(count)]
    folded = fold(texts, vectors_NM, bits_N)
    assert sorted(i for f in folded for i in f.members) == [i for i in range(count) if bits_N[i] > 0]
    for f in folded:
        assert bits_N[f.first] == max(bits_N[list(f.members)])
    firsts = [f.first for f in folded]
    near_FF = vectors_NM[firsts] @ vectors_NM[firsts].T
    assert (near_FF[~np.eye(len(firsts), dtype=bool)] < ALIKE).all()
    points = ordered(folded, vectors_NM, bits_N, most)
    assert len(points) == min(most, len(folded)) and len({f.first for f in points}) == len(points)
    if points:
        assert bits_N[points[0].first] == max(bits_N)


def test_the_same_point_again_is_worth_nothing():
    """Of two points with many bits that point the same way, the second waits for one that says something else."""
    vectors_NM = np.array([[1, 0], [0.79, 0.613], [0, 1]], np.float32)
    folded = fold(["moss grows", "ferns wither", "comets fly"], vectors_NM, np.array([9.0, 8.0, 4.0]))
    assert [f.first for f in ordered(folded, vectors_NM, np.array([9.0, 8.0, 4.0]), 2)] == [0, 2]


@pytest.mark.parametrize(
    ("text", "whether"),
    [
        ("The bridge over the Larch was opened by the mayor in 1931.", True),
        ("Who opened the bridge over the Larch in the year 1931, and why?", False),
        ("“Who opened the bridge over the Larch in the year 1931?”", False),
        ("It was so.", False),
        ("and of the in on at to for from by with as is are was were", False),
        ("这座桥由市长在一九三一年开放。", True),
        ("这座桥由谁在一九三一年开放？", False),
        ("", False),
        ("   ", False),
        ("word " * 200, False),
    ],
)
def test_what_can_be_a_point(text, whether):
    assert claims(text) is whether


FACTS = {
    "comet.md": "# The comet\n\nDr. Ingrid Vass led the comet team of the northern observatory in 2019.\n"
    "The tail of the comet was 4.7 million kilometres long that winter. Who would have thought that of it?\n",
    "bridge.md": "# The bridge\n\nThe bridge over the river Larch is 212 metres long and was opened in 1931.\n",
    "moss.txt": "Mosses of the northern forest have no roots and take up water through their leaves.\n" * 2,
}


def test_a_heading_is_no_part_of_a_point():
    passage = Passage(
        "1", "a.md", "A", "B", "# A title\n\n## B\n\nMosses take up water through their leaves.", 7, 60, None, 3
    )
    (claim,) = claims_of(passage)
    assert claim.text == "Mosses take up water through their leaves." and claim.line == 7
    assert passage.text[claim.start - 7 : claim.end - 7] == claim.text


@pytest.fixture(scope="module")
def reader(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("documents")
    for name, text in FACTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    book, encoder = open_book(tmp_path_factory.mktemp("books") / "facts.book"), HashedWords()
    book.add(folder, encoder=encoder)
    return Reader(book, tiny_model, encoder, Settings(margin=None, sampling=Sampling(9.0, seed=5), cut_repeats=False))


@pytest.fixture
def eager(monkeypatch):
    """A model of random weights finds no sentence of use; here each is, by its length."""
    monkeypatch.setattr(
        "openbook.answer.summarize.making.lifts",
        lambda reader, question, texts, told=None: np.array([len(t) / 9 for t in texts]),
    )


@pytest.mark.parametrize("over", ["auto", "passages", "retrieval", "reports"])
def test_an_extracted_point_stands_where_it_says(reader, eager, over):
    summary = summarize_with(reader, QUESTION, Plan(over=over, budget=200))
    facts = summary.to_dict()
    json.dumps(facts, allow_nan=False)
    assert summary.points or over == "reports"
    for point in summary.points:
        assert sum(h.responsibility for h in point.evidence) == pytest.approx(1.0)
        for held in point.evidence:
            text = reader.book.text(held.passage.document)
            assert text[slice(*held.span)] == held.cited_text
            assert text[: held.span[0]].count("\n") + 1 == held.line
        assert point.text == " ".join(point.evidence[0].cited_text.split())
    if summary.points:
        assert sum(point.share for point in summary.points) == pytest.approx(1.0)
    for citation in facts["citations"]:
        start, end = citation["span"]
        assert facts["answer"][start:end] in {point.text for point in summary.points}
    assert len({source["id"] for source in facts["sources"]}) == len(facts["sources"])
    assert all(point.text in render_html(facts).replace("&#39;", "'") for point in summary.points)


def test_the_same_sentence_twice_is_one_point_held_twice(reader, eager):
    summary = summarize_with(reader, QUESTION, Plan(over="passages"))
    moss = [point for point in summary.points if "Mosses" in point.text]
    assert len(moss) == 1 and len(moss[0].evidence) == 2


def test_a_written_point_has_its_mixtures_evidence(reader, monkeypatch):
    """Passages add nothing to what a model of random weights draws: here that is no reason to drop it."""
    kept = lambda texts, vectors_NM, bits_N: fold(texts, vectors_NM, np.abs(bits_N) + 1)  # noqa: E731
    monkeypatch.setattr("openbook.answer.summarize.making.fold", kept)
    summary = summarize_with(reader, QUESTION, Plan(over="passages", write=True, max_tokens=24))
    facts = summary.to_dict()
    assert summary.points
    for point in summary.points:
        assert point.answer is not None
        assert point.bits == pytest.approx(sum(s.bits for s in point.answer.sources if s.kind == "passage"))
        assert 0 < sum(h.responsibility for h in point.evidence) <= 1 + 1e-6
        for held in point.evidence:
            assert reader.book.text(held.passage.document)[slice(*held.span)] == held.cited_text
    assert facts["tokens"]
    ids = {source["id"] for source in facts["sources"]} | {"closed"}
    for token in facts["tokens"]:
        assert facts["answer"][slice(*token["span"])] == token["text"]
        assert sum(token["responsibility"].values()) == pytest.approx(1.0, abs=1e-4)
        assert set(token["responsibility"]) <= ids
    render_html(facts)


def test_bits_are_the_models_own(reader):
    """b(s) is what a batch of the question under s and under nothing says, whatever else stands in the batch."""
    texts = ["The bridge is long.", "Mosses have no roots.", "Main themes of these notes."]
    together = lifts(reader, QUESTION, texts)
    alone = [lifts(reader, QUESTION, [text])[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-3)


def test_the_same_question_gives_the_same_summary(reader, eager):
    one, two = (summarize_with(reader, QUESTION, Plan(over="passages")) for _ in range(2))
    assert one.points == two.points


def test_where_nothing_has_to_do_with_it_nothing_is_said(reader, monkeypatch):
    monkeypatch.setattr(
        "openbook.answer.summarize.making.lifts", lambda reader, question, texts, told=None: np.full(len(texts), -3.0)
    )
    summary = summarize_with(reader, QUESTION, Plan(over="passages"))
    assert summary.abstained and summary.reason and summary.to_dict()["answer"] == ""
    render_html(summary.to_dict())


def test_what_is_read_is_no_more_than_the_budget(reader):
    for budget in (100, 8_000):
        asked = Asked(reader.book, QUESTION, reader.encoder, budget)
        for over in ("passages", "retrieval"):
            read = [p.text for group in gather(asked, over) for p in group.passages]
            assert sum(reader.encoder.count_tokens(read)) <= budget


def test_faults_are_said(reader, tmp_path, tiny_model):
    with pytest.raises(Fault, match="question is empty"):
        summarize_with(reader, "  ")
    with pytest.raises(Fault, match="holds no passages"):
        summarize_with(Reader(open_book(tmp_path / "empty"), tiny_model, HashedWords()), QUESTION)
    for wrong in ({"over": "everything"}, {"points": 0}, {"budget": 5}):
        with pytest.raises(Fault):
            Plan(**wrong)


def test_another_way_of_gathering_is_a_function(reader, eager):
    @gatherer("first")
    def first(asked):
        passage = next(asked.book.passages())
        group = gather(asked, "retrieval")[0]
        return [Group("first", (passage,), group.candidates[:1])]

    assert "first" in gatherers()
    assert len(summarize_with(reader, QUESTION, Plan(over="first")).points) == 1
