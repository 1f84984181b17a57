"""A book, its encoder and the vocabulary's guides asked by several threads give each what they give alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from company import book_of_notes

from openbook.book.embedder import HashedWords
from openbook.book.retrieve import find
from openbook.book.store import Book
from openbook.lm.decoding.constrain import Constraint, Guides
from openbook.lm.model import LanguageModel

QUERIES = ["Who led the comet team?", "How long is the bridge?", "roots of mosses", "1931", "the tail"] * 6


def test_a_book_is_searched_by_many_at_once(tmp_path: Path) -> None:
    path = book_of_notes(tmp_path).path

    def found(book: Book, query: str, by: str) -> list[tuple[str, float]]:
        return [(hit.passage.id, hit.score) for hit in find(book, query, 5, HashedWords(), by=by)]

    for by in ("fused", "bm25", "dense"):
        alone = [found(Book(path), query, by) for query in QUERIES[:5]] * 6
        book = Book(path)  # whose indices nobody has opened yet
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda query, book=book, by=by: found(book, query, by), QUERIES)) == alone


def test_guides_are_made_once_for_all_seats_and_serve_many(tiny_model: LanguageModel) -> None:
    seats = [tiny_model.at(tiny_model.runner) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda model: model.guides, seats))
    assert all(guides is tiny_model.guides for guides in made)
    form = Constraint("json_schema", '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}')

    def masks(guides: Guides) -> list[list[int]]:
        guide, seen = guides.guide(form), []
        for token in tiny_model.tokenizer.encode('{"n": 12}'):
            seen.append(guide.mask(tiny_model.spec.vocabulary).nonzero()[:, 0].tolist())
            guide.add(token)
        return seen

    with ThreadPoolExecutor(6) as pool:
        assert len({str(found) for found in pool.map(masks, made * 3)}) == 1
