"""Whether a book holds the text that is to be foretold: figures would then tell of copying, not of foretelling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from openbook.book.embedder import Embedder
from openbook.book.retrieve import find
from openbook.book.store import Book

PLACES, SPAN = 48, 80
"""Places that are looked up, of all texts together, and characters of each."""
SUSPECT = 0.2
"""Share from which the texts are to be taken as held: what two documents both say (a licence, a table) stays below."""


def share_held(book: Book, texts: Sequence[str], encoder: Embedder | None = None) -> float:
    """The part of places, spread evenly over the texts, whose words stand in a passage of the book as they are.

    White space apart. A passage that ends within a place hides it, so a book that holds a text whole gives a little
    less than 1.
    """
    spans = list(_spans(texts))
    found = sum(_holds(book, span, encoder) for span in spans)
    return found / len(spans) if spans else 0.0


def _spans(texts: Sequence[str]) -> Iterator[str]:
    """Characters at even distances, white space as one blank each; none of a text too short for one."""
    plain = [" ".join(text.split()) for text in texts]
    total = sum(map(len, plain))
    for text in plain:
        count = max(1, round(PLACES * len(text) / total)) if len(text) >= SPAN else 0
        for i in range(count):
            start = (len(text) - SPAN) * (2 * i + 1) // (2 * count)
            yield text[start : start + SPAN]


def _holds(book: Book, span: str, encoder: Embedder | None) -> bool:
    if not book.count:
        return False
    hits = find(book, span, 3, encoder, by="bm25")
    return any(span in " ".join(hit.passage.text.split()) for hit in hits)
