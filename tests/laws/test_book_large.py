"""Laws of books with an index over their vectors: scores are exact, what came or went counts at once, versions stay."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.book import dense, find, indices, open_book
from openbook.book.documents import Document
from openbook.book.embedder import HashedWords
from openbook.book.manifest import read_head, writing
from openbook.book.passages import Piece
from openbook.book.store import Book
from openbook.book.writer import Batch, Entry, Writer

ENCODER = HashedWords(32)
WORDS = ["comet", "mirror", "harbour", "tide", "engine", "violin", "ledger", "orchard", "glacier", "lantern", "pepper"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "EXACT", 200)
    monkeypatch.setattr(dense, "ROWS", 32)
    monkeypatch.setattr(dense, "LEAST_PROBED", 4)
    monkeypatch.setattr(indices, "LOOSE", 20)


def text(number: int) -> str:
    rng = np.random.default_rng(number)
    return " ".join([*rng.choice(WORDS, 6), f"unique{number}"])


def entry(number: int) -> Entry:
    made, name = text(number), f"{number}.txt"
    document = Document(name, "", made)
    return Entry(
        f"{number:032x}", f"/{name}", "/", "", len(made), 0, document, [Piece(made, 0, len(made), 1, None, None)]
    )


def write(path: Path, numbers: range, gone: range = range(0), tend: bool = True) -> Book:
    """Documents come and go as in an `add`, of which `tend` is the end."""
    open_book(path)
    with writing(path):
        writer = Writer(path, read_head(path))
        entries = [entry(number) for number in numbers]
        vectors_NM = ENCODER.embed([e.pieces[0].text for e in entries] or [""])[: len(entries)]
        writer.commit(Batch([f"{n:032x}" for n in gone], entries), vectors_NM, ENCODER.name, ENCODER.width)
        if tend:
            writer.tend()
    return open_book(path)


def names(book: Book) -> set[str]:
    assert book.passages_table is not None
    return {index.name for index in book.passages_table.describe_indices()}


def exact(book: Book, query: str, k: int) -> list[float]:
    assert book.passages_table is not None
    column = book.passages_table.to_table(columns=["vector"])["vector"].combine_chunks()
    vectors_NM = column.flatten().to_numpy().reshape(-1, ENCODER.width)
    return sorted((vectors_NM @ ENCODER.embed([query])[0]).tolist(), reverse=True)[:k]


def test_the_index_comes_when_there_are_many_and_rests_when_there_are_few(tmp_path: Path) -> None:
    book = write(tmp_path, range(200))
    assert names(book) == {indices.WORDS}
    book = write(tmp_path, range(200, 400))
    assert names(book) == {indices.WORDS, dense.INDEX}
    book = write(tmp_path, range(0), gone=range(0, 250))
    assert not dense.indexed(book.passages_table)
    hits = find(book, text(300), k=20, encoder=ENCODER, by="dense")
    assert np.allclose([hit.dense for hit in hits], exact(book, text(300), 20), atol=1e-6)


def test_scores_are_exact_cosines_and_the_best_is_found(tmp_path: Path) -> None:
    book = write(tmp_path, range(600))
    found, best = 0, 0
    for number in range(0, 600, 40):
        query = text(number)
        query_M = ENCODER.embed([query])[0]
        for hit in find(book, query, k=10, encoder=ENCODER):
            assert math.isclose(hit.dense, float(query_M @ ENCODER.embed([hit.passage.text])[0]), abs_tol=1e-6)
        hits = find(book, query, k=10, encoder=ENCODER, by="dense")
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        found += sum(hit.dense > exact(book, query, 10)[-1] - 1e-6 for hit in hits)
        best += hits[0].passage.document == f"{number}.txt"
    assert best == 15
    assert found >= 0.9 * 150  # four cells of eighteen are searched here, and ties abound


def test_what_came_or_went_counts_at_once(tmp_path: Path) -> None:
    write(tmp_path, range(300))
    for tended in (False, True):  # before the indices know of it, and after
        book = write(tmp_path, range(300, 450), gone=range(50), tend=tended)
        for by in ("dense", "bm25", "fused"):
            for number in (300, 449, 60):
                assert find(book, text(number), k=1, encoder=ENCODER, by=by)[0].passage.document == f"{number}.txt"
            for number in (0, 49):
                gone = {hit.passage.document for hit in find(book, text(number), k=60, encoder=ENCODER, by=by)}
                assert not gone & {f"{n}.txt" for n in range(50)}
        write(tmp_path, range(0), gone=range(300, 450))
        write(tmp_path, range(50))


def test_a_version_gives_the_same_list_whatever_came_later(tmp_path: Path) -> None:
    before = write(tmp_path, range(400))
    queries = [text(number) for number in range(0, 400, 57)]
    lists = [find(before, query, k=10, encoder=ENCODER) for query in queries]
    write(tmp_path, range(400, 1000), gone=range(100))
    again = open_book(tmp_path, at=before.version)
    assert [find(again, query, k=10, encoder=ENCODER) for query in queries] == lists
    assert [find(before, query, k=10, encoder=ENCODER) for query in queries] == lists


def test_many_small_adds_make_few_segments_that_hold_all_rows(tmp_path: Path) -> None:
    write(tmp_path, range(250))
    for start in range(250, 650, 40):
        book = write(tmp_path, range(start, start + 40))
    sizes = indices.segments(book.passages_table)
    assert sum(sizes[indices.WORDS]) == 650
    assert 650 - indices.LOOSE <= sum(sizes[dense.INDEX]) <= 650
    assert all(len(each) <= 5 for each in sizes.values())
    for number in range(0, 650, 65):
        assert find(book, text(number), k=1, encoder=ENCODER, by="dense")[0].passage.document == f"{number}.txt"


def test_expunged_rows_are_in_no_index(tmp_path: Path) -> None:
    before = write(tmp_path, range(400))
    with writing(tmp_path):
        Writer(tmp_path, before.manifest).expunge([f"{number:032x}" for number in range(0, 400, 7)])
    book = open_book(tmp_path)
    files = {segment.uuid for index in before.passages_table.describe_indices() for segment in index.segments}
    kept = {segment.uuid for index in book.passages_table.describe_indices() for segment in index.segments}
    assert names(book) == {indices.WORDS, dense.INDEX}
    assert not files & kept
    assert {each for sizes in indices.segments(book.passages_table).values() for each in sizes} == {book.count}
    for by in ("dense", "bm25"):
        assert find(book, text(8), k=1, encoder=ENCODER, by=by)[0].passage.document == "8.txt"
        assert find(book, text(7), k=1, encoder=ENCODER, by=by)[0].passage.document != "7.txt"


@given(st.one_of(st.lists(st.integers(1, 10_000)), st.integers(2, 60).map(lambda n: list(range(1000, 1000 - n, -1)))))
def test_segments_are_few_and_a_row_is_seldom_indexed_again(adds: list[int]) -> None:
    sizes: list[int] = []
    written = 0
    for fresh in adds:
        count = indices.joined(sizes, fresh)
        sizes = [*sizes[: len(sizes) - count], fresh + sum(sizes[len(sizes) - count :])]
        written += sizes[-1]
    assert sum(sizes) == sum(adds)
    assert all(old > indices.SLACK * new for old, new in pairwise(sizes))
    # A row that is written again is then in a segment at least 1 + 1 / SLACK times as long.
    assert written <= sum(adds) * (1 + math.log(max(1, sum(adds)), 1 + 1 / indices.SLACK))


@pytest.mark.parametrize("width", [12, 100])
def test_vectors_of_any_width_are_found(tmp_path: Path, width: int) -> None:
    encoder = HashedWords(width)
    open_book(tmp_path)
    with writing(tmp_path):
        writer = Writer(tmp_path, read_head(tmp_path))
        entries = [entry(number) for number in range(300)]
        writer.commit(Batch([], entries), encoder.embed([e.pieces[0].text for e in entries]), encoder.name, width)
        writer.tend()
    hits = find(open_book(tmp_path), text(7), k=3, encoder=encoder, by="dense")
    assert hits[0].dense > 0.999
