"""The graph of a book: the same however it came about, nothing of it left where a document was forgotten, and walks
and ranks as their formulas say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from forgettable import ENCODER
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.book import Book, BookFault, find, open_book
from openbook.book.clustering import read_partition
from openbook.book.communities import communities
from openbook.book.graph import Graph, open_graph
from openbook.book.graph.extract import extractor
from openbook.book.graph.graph import MOST_RELATED
from openbook.book.graph.stored import FOLDER, PARTITION
from openbook.book.graph.walk import ALPHA, ENTITIES, LINKED, ONWARD, Question, pagerank, walk
from openbook.cli import main
from openbook.mix.paths import join

PEOPLE = ["Ada Quill", "Boris Thorn", "Clara Finch", "Dora Marsh", "Emil Stone"]
PLACES = ["Northport", "Eastvale", "Westmoor"]
SENTENCES = st.tuples(st.sampled_from(PEOPLE), st.sampled_from(PEOPLE), st.sampled_from(PLACES)).map(
    lambda t: f"{t[0]} met {t[1]} at the river bridge in {t[2]}."
)
TEXTS = st.lists(SENTENCES, min_size=1, max_size=5).map(" ".join)
EDITS = st.lists(st.tuples(st.sampled_from("abcd"), TEXTS | st.none() | st.just("forget")), min_size=1, max_size=4)


def book_of(folder: Path, **texts: str) -> Book:
    notes = folder / "notes"
    notes.mkdir(parents=True)
    for name, text in texts.items():
        (notes / f"{name}.md").write_text(text)
    book = open_book(folder / "book")
    book.add(notes, encoder=ENCODER)
    return book


def said(graph: Graph) -> tuple[object, ...]:
    """All that a graph says, in plain values."""
    d = graph.derived
    matrices = (d.count_PE, d.said_SE, d.count_PW.tocsr(), graph.weights_EE)
    plain = [(m.shape, m.indptr.tolist(), m.indices.tolist(), m.data.tolist()) for m in map(_sorted, matrices)]
    return d.normals, d.shown, d.kinds_E.tolist(), d.forms, graph.places.ids, d.spans_S2.tolist(), plain


def _sorted(matrix: object) -> object:
    matrix.sort_indices()
    return matrix


@given(EDITS)
@settings(max_examples=4)
def test_a_graph_brought_up_to_date_is_one_made_from_scratch(tmp_path_factory, edits) -> None:
    folder = tmp_path_factory.mktemp("graph")
    book = book_of(folder, first="Ada Quill lives in Northport.", a="Boris Thorn met Ada Quill.")
    held = {"first", "a"}
    for name, text in edits:
        book.graph()
        file = folder / "notes" / f"{name}.md"
        if text is None or text == "forget":
            file.unlink(missing_ok=True)
            if text == "forget" and name in held:
                book.forget(f"notes/{name}.md")
            held.discard(name)
        else:
            file.write_text(text)
            held.add(name)
        book.add(folder / "notes", encoder=ENCODER)
    scratch = open_book(folder / "scratch")
    scratch.add(folder / "notes", encoder=ENCODER)
    assert said(book.graph()) == said(scratch.graph())
    fresh, kept = communities(scratch.graph(), keep=False), communities(book.graph())
    assert sorted(e for c in fresh.level(0) for e in c.entities) == sorted(e for c in kept.level(0) for e in c.entities)


def test_a_version_has_its_own_graph(tmp_path: Path) -> None:
    book = book_of(tmp_path, a="Ada Quill met Boris Thorn.")
    book.tag("before")
    (tmp_path / "notes" / "a.md").write_text("Clara Finch met Emil Stone.")
    book.add(tmp_path / "notes", encoder=ENCODER)
    assert book.graph().find("Ada Quill") is None and book.graph().find("clara finch") is not None
    assert open_book(book.path, at="before").graph().find("Ada Quill") is not None


def test_an_empty_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = open_graph(open_book(tmp_path / "empty"))
    assert len(graph) == 0 and graph.relations() == [] and communities(graph).all == [] and graph.mentioned("Ada") == []
    book = book_of(tmp_path, a="and so on, and so on; 12 of 34")
    assert communities(book.graph()).levels == 0
    assert len(find(book, "so on", encoder=ENCODER, by="graph")) == 1
    assert len(find(book, "so on", encoder=ENCODER, by="pagerank")) == 1


def test_relations_are_counted_as_the_formula_says(tmp_path: Path) -> None:
    texts = {
        n: f"{a} met {b}. {a} sings."
        for n, (a, b) in enumerate([*[(p, PEOPLE[4]) for p in PEOPLE[:3]], PEOPLE[:2], PEOPLE[2:4]])
    }
    graph = book_of(tmp_path, **{f"d{n}": text for n, text in texts.items()}).graph()
    said_SE = graph.derived.said_SE.toarray()[:, graph.related_E]
    numbers = np.flatnonzero(graph.related_E)
    n_E, total = said_SE.sum(0), (graph.derived.said_SE.toarray().sum(1) > 0).sum()
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            n_ab = (said_SE[:, i] * said_SE[:, j]).sum()
            least = min(n_E[i], n_E[j])
            bits = max(0.0, np.log2(n_ab * total / (n_E[i] * n_E[j]))) if n_ab and a != b else 0.0
            expected = bits * n_ab / (n_ab + 1) * least / (least + 1)
            assert graph.weights_EE[a, b] == pytest.approx(expected)
    relation = graph.relations(most=1)[0]
    for sentence in graph.sentences(graph.sentences_of(relation.a, relation.b)):
        assert {relation.a, relation.b} <= set(graph.mentioned(sentence.text))
        assert graph.book.text(sentence.document)[sentence.start : sentence.end] == sentence.text


CHAIN = {
    "prize": "The Lantern Prize went to Ada Quill.",
    "quill": "Ada Quill grew up beside the lake of Northport.",
    "north": "Northport has a harbour of black granite.",
    "others": "Boris Thorn paints doors. Granite is a stone. A prize is won.",
}


def test_a_walk_reaches_what_the_question_does_not_name(tmp_path: Path) -> None:
    book = book_of(tmp_path, **CHAIN)
    hits = find(book, "Of what is the harbour where the winner of the Lantern Prize grew up?", 4, ENCODER, by="graph")
    reached = {hit.passage.document: [step.name for step in hit.through] for hit in hits}
    assert "Ada Quill" in reached["notes/quill.md"] or not reached["notes/quill.md"]
    assert [h.passage.document for h in hits][-1] == "notes/others.md"
    paths = join(book, hits, "graph", 3)
    assert {len(path) for path in paths} <= {1, 2, 3} and all(
        p[-1].passage.id == h.passage.id for p, h in zip(paths, hits, strict=True)
    )


@given(st.lists(TEXTS, min_size=2, max_size=6), SENTENCES)
@settings(max_examples=5)
def test_a_step_of_a_walk_is_the_best_of_all_ways(tmp_path_factory, texts, query) -> None:
    book = book_of(tmp_path_factory.mktemp("walk"), **{f"d{i}": text for i, text in enumerate(texts)})
    graph, d = book.graph(), book.graph().derived
    question = Question(graph, query, ENCODER.embed([query])[0])
    every = np.arange(len(graph.places.ids))
    first = [(p, 1.0 - p / 10) for p in range(2)]
    c_PT, cos_P, has_PE = question.covered(every), question.cosines(every), d.count_PE.toarray() > 0
    best = dict(first)
    for p, score in first:
        for q in every.tolist():
            shared = has_PE[p] & has_PE[q] & graph.leads_E & ~question.named
            if q != p and shared.any():
                fresh = (np.maximum(c_PT[q] - c_PT[p], 0) * question.shares_T).sum()
                way = ONWARD * (score + fresh + LINKED * d.informative_E[shared].max() + cos_P[q] / 2)
                best[q] = max(best.get(q, -1), way)
    assert {way.passages[-1]: pytest.approx(way.score) for way in walk(graph, question, first, 1)} == best


def test_pagerank_solves_its_equation(tmp_path: Path) -> None:
    graph = book_of(tmp_path, **CHAIN).graph()
    question = Question(graph, "Who won the Lantern Prize?", ENCODER.embed(["Lantern Prize"])[0])
    first, P, E = [(2, 0.9), (1, 0.5), (0, 0.1)], len(graph.places.ids), len(graph)
    from_E, from_P = (m.toarray() for m in graph.steps)
    W = np.block([[np.zeros((P, P)), from_E], [from_P, np.zeros((E, E))]])
    s_P, s_E = np.zeros(P), np.zeros(E)
    for p, score in first:
        s_P[p] = (score - 0.1) ** 2
    named = question.named
    s_E[named] = graph.derived.informative_E[named] ** 2 / graph.passages_E[named]
    s = np.concatenate([s_P / s_P.sum(), ENTITIES * s_E / s_E.sum()])
    exact = np.linalg.solve(np.eye(P + E) - ALPHA * W, (1 - ALPHA) * s)[:P]
    np.testing.assert_allclose(pagerank(graph, question, first), exact / exact.max(), atol=1e-3)


def test_one_giant_component_and_a_sentence_of_many_names(tmp_path: Path) -> None:
    crowd = "Hub Person met " + " met ".join(f"Xq{i} Zv{i}" for i in range(70)) + "."
    stars = " ".join(f"Hub Person met Ab{i} Cd{i}." for i in range(300))
    graph = book_of(tmp_path, crowd=crowd, stars=stars).graph()
    assert max(np.diff(graph.weights_EE.indptr)) <= 300 + MOST_RELATED
    found = communities(graph)
    assert sum(len(c.entities) for c in found.level(0)) == (np.diff(graph.weights_EE.indptr) > 0).sum()


def test_communities_are_of_one_level_each_and_carried_by_real_sentences(tmp_path: Path) -> None:
    groups = [[f"{a}{g} {b}{g}" for a, b in (("Ka", "Lo"), ("Mi", "Nu"), ("Po", "Qe"), ("Ra", "Si"))] for g in "xyz"]
    texts = {f"g{n}": " ".join(f"{a} met {b}." for a in g for b in g if a != b) for n, g in enumerate(groups)}
    book = book_of(tmp_path, **texts)
    found = communities(book.graph())
    names = [{book.graph().derived.shown[e] for e in c.entities} for c in found.level(0)]
    assert sorted(map(sorted, names)) == sorted(map(sorted, map(set, groups)))
    for community in found.level(0):
        report = found.report(community, 3)
        assert report.sentences and 0 < report.covered <= 1 and set(report.entities) <= names[community.number]
        for s in report.sentences:
            assert book.text(s.document)[s.start : s.end] == s.text
    before = read_partition(book.path / FOLDER / PARTITION)
    assert [c.entities for c in communities(open_book(book.path).graph()).all] == [c.entities for c in found.all]
    (tmp_path / "notes" / "new.md").write_text("Kax Lox met Ana Berg. Ana Berg met Kax Lox.")
    book.add(tmp_path / "notes", encoder=ENCODER)
    after = communities(book.graph())
    assert read_partition(book.path / FOLDER / PARTITION) != before
    kept = [{book.graph().derived.shown[e] for e in c.entities} for c in after.level(0)]
    assert sum(set(group) <= each for group in groups for each in kept) == 3


def test_another_extractor_by_decorator(tmp_path: Path) -> None:
    @extractor("nothing")
    def nothing(sentence: str, language: str) -> list:
        return []

    book = book_of(tmp_path, a="Ada Quill met Boris Thorn.")
    assert open_graph(book).find("Ada Quill") is not None
    assert open_graph(book, by="nothing").find("Ada Quill") is None
    assert open_graph(book).find("Ada Quill") is not None
    with pytest.raises(BookFault, match="no extractor is called 'else'"):
        open_graph(book, by="else")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    monkeypatch.setattr(
        "openbook.cli.graph.open_for", lambda config, docs, at: (open_book(config.book, at=at), ENCODER)
    )
    book = book_of(tmp_path, **CHAIN)
    assert main(["graph", "--book", str(book.path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["counts"]["entities"] == len(book.graph()) and facts["communities"][0]["sentences"]
    assert main(["graph", "Ada Quill", "--book", str(book.path), "--json"]) == 0
    related = json.loads(capsys.readouterr().out)["relations"]
    assert {"Northport", "Lantern Prize"} <= {each["name"] for each in related}
    assert (
        main(["graph", "--book", str(book.path)]) == 0 and main(["graph", "ada quill", "--book", str(book.path)]) == 0
    )
    assert "Ada Quill" in capsys.readouterr().out
    assert main(["graph", "Nobody Atall", "--book", str(book.path)]) == 1
    assert "no document names" in capsys.readouterr().err
