"""Finding passages: two searches, one list, one prior.

Another way of searching is a function handed to the registry:

    @retriever("mine")
    def mine(book: Book, query: str, k: int, encoder: Embedder) -> list[Scored]: ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from openbook.book import dense, lexical
from openbook.book.candidates import LEAST, Vector, passages, vectors
from openbook.book.documents import tidy
from openbook.book.embedder import Embedder
from openbook.book.manifest import BookFault, faults
from openbook.book.passages import Passage
from openbook.book.store import Book

DENSE_SHARE = 0.5
"""Weight of the cosine in the fused score; the rest is BM25's. Measured in docs/book.md, flat between 0.4 and 0.6."""
TEMPERATURE = 0.06
"""Of the prior over five passages: fitted by likelihood of the right one in docs/book.md."""


class Step(NamedTuple):
    """A passage (its id) that another was reached from, and the name that led on."""

    passage: str
    name: str


@dataclass(frozen=True)
class Hit:
    """A passage found. `score` is what hits are ordered by, `dense` the cosine, `lexical` BM25 (0: no word matched
    or below the candidates), `prior` its share of belief among the hits returned: they sum to 1. `through` is how it
    was reached, where not by itself (`openbook.book.graph.walk`)."""

    passage: Passage
    score: float
    dense: float
    lexical: float
    prior: float = 0.0
    through: tuple[Step, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON: what the passage is and where, and its scores."""
        p = self.passage
        scores = {"score": self.score, "dense": self.dense, "lexical": self.lexical, "prior": self.prior}
        return {
            "document": p.document,
            "title": p.title,
            "heading": p.heading,
            "page": p.page,
            "line": p.line,
            "span": [p.start, p.end],
            "text": p.text,
            **{name: round(value, 6) for name, value in scores.items()},
            **({"through": [step._asdict() for step in self.through]} if self.through else {}),
        }


def hit_dicts(hits: Iterable[Hit]) -> list[dict[str, Any]]:
    """Hits as JSON, with their ranks."""
    return [{"rank": rank, **hit.to_dict()} for rank, hit in enumerate(hits, 1)]


Retriever = Callable[[Book, str, int, Embedder], list[Hit]]
_RETRIEVERS: dict[str, Retriever] = {}


def retriever(name: str) -> Callable[[Retriever], Retriever]:
    """Register a way of searching: it returns hits in any order and number; `find` ranks, cuts and sets the prior."""

    def register(function: Retriever) -> Retriever:
        _RETRIEVERS[name] = function
        return function

    return register


def retrievers() -> list[str]:
    """Names for `find(by=…)`."""
    return sorted(_registry())


def _registry() -> dict[str, Retriever]:
    import openbook.book.graph.walk  # noqa: F401  (registers those that need all of the above)

    return _RETRIEVERS


def find(
    book: Book,
    query: str,
    k: int = 10,
    encoder: Embedder | None = None,
    *,
    by: str = "fused",
    temperature: float = TEMPERATURE,
) -> list[Hit]:
    """The `k` best passages for a query, best first, with their prior: softmax(score / temperature) over them.

    `BookFault` where the book is empty, the query blank or `by` unknown.
    """
    query = tidy(query).strip()
    if by not in _registry():
        raise BookFault(f"no retriever is called {by!r}; there are: {', '.join(retrievers())}")
    if not query:
        raise BookFault("the query is empty; say what to look for")
    if k < 1 or temperature <= 0:
        raise BookFault(f"k is {k} and temperature {temperature}; both must be above 0")
    if not book.count:
        raise BookFault(f"{book.path} holds no passages yet; add documents with: openbook add PATH --book {book.path}")
    hits = _RETRIEVERS[by](book, query, k, book.encoder(encoder))
    # Ties fall by id, so that the same version gives the same list.
    best = sorted(hits, key=lambda hit: (-hit.score, hit.passage.id))[:k]
    return with_prior(best, temperature)


def with_prior(hits: Sequence[Hit], temperature: float = TEMPERATURE) -> list[Hit]:
    """The hits with `prior` = softmax(score / temperature) over them."""
    if not hits:
        return []
    top = max(hit.score for hit in hits)
    weights = [math.exp((hit.score - top) / temperature) for hit in hits]
    return [replace(hit, prior=w / sum(weights)) for hit, w in zip(hits, weights, strict=True)]


@retriever("fused")
def fused(book: Book, query: str, k: int, encoder: Embedder) -> list[Hit]:
    """`a · cosine + (1 − a) · BM25 / max BM25` over the union of both searches (Bruch 2022, arXiv 2210.11934)."""
    count, table = max(4 * k, LEAST), book.passages_table
    with faults(book.path), ThreadPoolExecutor(1) as other:
        words = other.submit(lexical.search, table, query, count)  # it does not need the vector
        query_M = _embed(query, encoder)
        by_meaning, by_words = dense.search(table, query_M, count), words.result()
        return _best(book, k, query_M, by_words, [*by_meaning, *by_words], DENSE_SHARE)


@retriever("dense")
def dense_only(book: Book, query: str, k: int, encoder: Embedder) -> list[Hit]:
    """By cosine alone."""
    query_M = _embed(query, encoder)
    with faults(book.path):
        return _best(book, k, query_M, {}, dense.search(book.passages_table, query_M, k), 1.0)


@retriever("bm25")
def bm25_only(book: Book, query: str, k: int, encoder: Embedder) -> list[Hit]:
    """By BM25 alone, divided by the best of the list, so that one temperature fits all retrievers."""
    query_M = _embed(query, encoder)
    with faults(book.path):
        by_words = lexical.search(book.passages_table, query, k)
        return _best(book, k, query_M, by_words, by_words, 0.0)


def _embed(query: str, encoder: Embedder) -> Vector:
    vector: Vector = np.asarray(encoder.embed([query])[0], dtype=np.float32)
    return vector


def _best(
    book: Book, k: int, query_M: Vector, lexical_of: Mapping[int, float], rows: Iterable[int], share: float
) -> list[Hit]:
    """The `k` best of some rows, and what ties with them, by `share · cosine + (1 − share) · BM25 / max BM25`."""
    wanted = list(dict.fromkeys(rows))
    highest = max(lexical_of.values(), default=0.0) or 1.0
    dense_of = {
        row: float(v_M @ query_M) for row, v_M in zip(wanted, vectors(book.passages_table, wanted), strict=True)
    }
    score_of = {
        row: share * cosine + (1 - share) * lexical_of.get(row, 0.0) / highest for row, cosine in dense_of.items()
    }
    least = min(sorted(score_of.values(), reverse=True)[:k], default=0.0)
    best = [row for row, score in score_of.items() if score >= least]
    read = passages(book.passages_table, best)
    return [Hit(p, score_of[r], dense_of[r], lexical_of.get(r, 0.0)) for p, r in zip(read, best, strict=True)]
