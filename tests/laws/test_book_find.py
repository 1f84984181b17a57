"""Laws of finding: both scores are true, the prior sums to one, a query is words and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openbook.book import BookFault, Embedder, Hit, find, open_book, retriever, retrievers
from openbook.book.embedder import HashedWords
from openbook.book.passages import in_place
from openbook.book.store import Book

ENCODER = HashedWords()
TEXTS = {
    "comet.md": "# The comet\n\nMaurice led the comet team in 1950.\n\n## Telescope\n\nIts mirror was made in Jena.",
    "sea.md": "# The sea\n\nTides follow the moon.\n\n## Ships\n\nRunning ships need a harbour.",
    "hui.txt": "彗星团队由莫里斯领导。望远镜的镜子是在耶拿制造的。",
    "cats.txt": 'Cats AND dogs OR "mice" -birds title:fish a* (b) [c] {d} ^2 ~1 \\ / ? !',
}


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    folder = tmp_path_factory.mktemp("find") / "notes"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    book = open_book(folder.parent / "book")
    book.add(folder, encoder=ENCODER)
    return book


@pytest.mark.parametrize("by", ["fused", "dense", "bm25"])
def test_scores_are_true_and_the_prior_sums_to_one(book: Book, by: str) -> None:
    query = "comet team"
    hits = find(book, query, k=3, encoder=ENCODER, by=by)
    assert hits
    assert math.isclose(sum(hit.prior for hit in hits), 1.0)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert find(book, query, k=3, encoder=ENCODER, by=by) == hits
    for hit in hits:
        read = in_place(hit.passage.title, hit.passage.heading, hit.passage.text)
        query_M, passage_M = ENCODER.embed([query, read])
        assert math.isclose(hit.dense, float(query_M @ passage_M), abs_tol=1e-5)
    assert hits[0].passage.document == "notes/comet.md"
    assert hits[0].lexical > 0 or by == "dense"


def test_fused_is_the_stated_sum(book: Book) -> None:
    hits = find(book, "comet mirror", k=50, encoder=ENCODER)
    highest = max(hit.lexical for hit in hits)
    assert len(hits) == book.count
    for hit in hits:
        assert math.isclose(hit.score, 0.5 * hit.dense + 0.5 * hit.lexical / highest)


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("莫里斯", "hui.txt"),
        ("耶拿的镜子", "hui.txt"),
        ("run ship", "sea.md"),
        ("telescope", "comet.md"),
        ("dog", "cats.txt"),
    ],
)
def test_words_are_found_in_both_languages_by_stem_and_by_heading(book: Book, query: str, document: str) -> None:
    assert find(book, query, k=1, encoder=ENCODER, by="bm25")[0].passage.document == f"notes/{document}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=60), st.text('"+-()[]{}^~*?:\\/ANDORNT ab', max_size=30)))
def test_no_query_is_syntax(book: Book, query: str) -> None:
    if query.strip():
        assert len(find(book, query, k=2, encoder=ENCODER)) == 2
    else:
        with pytest.raises(BookFault, match="query is empty"):
            find(book, query, encoder=ENCODER)


def test_operators_are_words(book: Book) -> None:
    found = {hit.passage.id for hit in find(book, "comet -Maurice", encoder=ENCODER, by="bm25")}
    assert found == {hit.passage.id for hit in find(book, "comet Maurice", encoder=ENCODER, by="bm25")}


def test_a_very_long_query_is_no_fault(book: Book) -> None:
    assert find(book, "comet " * 50_000, k=1, encoder=ENCODER)[0].passage.document == "notes/comet.md"


def test_what_cannot_be_searched_is_refused(book: Book, tmp_path: Path) -> None:
    with pytest.raises(BookFault, match="holds no passages yet"):
        find(open_book(tmp_path / "new"), "comet", encoder=ENCODER)
    with pytest.raises(BookFault, match="bm25, dense, fused"):
        find(book, "comet", encoder=ENCODER, by="nothing")
    with pytest.raises(BookFault, match="must be above 0"):
        find(book, "comet", k=0, encoder=ENCODER)
    with pytest.raises(BookFault, match="made with the encoder"):
        find(book, "comet", encoder=HashedWords(32))


def test_another_retriever_is_a_function(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.book.retrieve._RETRIEVERS", {})

    @retriever("backwards")
    def backwards(book: Book, query: str, k: int, encoder: Embedder) -> list[Hit]:
        table = book.passages_table
        assert table is not None
        ids = sorted(table.to_table(columns=["id"])["id"].to_pylist())
        return [Hit(book.passage(id), score=float(i), dense=0.0, lexical=0.0) for i, id in enumerate(ids)]

    assert retrievers() == ["backwards"]
    hits = find(book, "comet", k=2, encoder=ENCODER, by="backwards")
    assert hits[0].score == book.count - 1
    assert len(hits) == 2
