"""The neighbours of an answer's tokens, found again in the book: what stands around them, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from openbook.answer.answer import Neighbour, Token
from openbook.book.store import Book
from openbook.mix.decode import Step
from openbook.mix.reading import Reading
from openbook.mix.sources.neighbours import Near, NeighboursSource

AROUND = 60
"""Characters of context that are shown on each side."""
LEAST_SHARE = 0.01
"""A token of which the neighbours carry less than this is shown without them."""


@dataclass
class _Texts:
    """Documents by id, each read from the book once."""

    book: Book
    names: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = {document.id: document.name for document in self.book.documents()}

    def text(self, id: str) -> tuple[str, str]:
        """A document's name and text."""
        if id not in self.texts:
            self.texts[id] = self.book.text(self.names[id])
        return self.names[id], self.texts[id]


def with_neighbours(tokens: Sequence[Token], steps: Sequence[Step], reading: Reading, book: Book) -> list[Token]:
    """The tokens, each with the neighbours that spoke for it; as they are where there is no datastore."""
    source = reading.neighbours
    if source is None:
        return list(tokens)
    column, texts = reading.mixture.labels.index(source.labels[0]), _Texts(book)
    made = []
    for at, (token, step) in enumerate(zip(tokens, steps, strict=True)):
        near = source.near(at, step.token) if step.share_S[column] >= LEAST_SHARE else []
        made.append(replace(token, neighbours=tuple(_placed(one, token.text, source, texts) for one in near)))
    return made


def _placed(near: Near, text: str, source: NeighboursSource, texts: _Texts) -> Neighbour:
    place = source.neighbours.place(near.row)
    document, whole = texts.text(place.document_id)
    start = min(max(place.offset, 0), len(whole))
    end = min(start + max(1, len(text)), len(whole))
    return Neighbour(
        document,
        whole.count("\n", 0, start) + 1,
        (start, end),
        whole[max(0, start - AROUND) : start],
        whole[start:end],
        whole[end : end + AROUND],
        near.p,
        near.distance / max(source.neighbours.variance, 1e-30),
    )
