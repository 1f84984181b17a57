"""Floor 2: a memory one can open, version and swap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openbook.lazy import names

if TYPE_CHECKING:
    from openbook.book.adding import Added as Added
    from openbook.book.documents import Document as Document
    from openbook.book.documents import Extracted as Extracted
    from openbook.book.documents import Heading as Heading
    from openbook.book.documents import Unreadable as Unreadable
    from openbook.book.documents import read as read
    from openbook.book.documents import reader as reader
    from openbook.book.documents import supported as supported
    from openbook.book.embedder import Embedder as Embedder
    from openbook.book.manifest import BookFault as BookFault
    from openbook.book.passages import Passage as Passage
    from openbook.book.passages import Piece as Piece
    from openbook.book.passages import split as split
    from openbook.book.retrieve import Hit as Hit
    from openbook.book.retrieve import find as find
    from openbook.book.retrieve import retriever as retriever
    from openbook.book.retrieve import retrievers as retrievers
    from openbook.book.retrieve import with_prior as with_prior
    from openbook.book.store import Book as Book
    from openbook.book.store import Stored as Stored
    from openbook.book.store import open_book as open_book
    from openbook.book.walk import Skipped as Skipped

_ROOMS = {
    "adding": "Added",
    "documents": "Document Extracted Heading Unreadable read reader supported",
    "embedder": "Embedder",
    "manifest": "BookFault",
    "passages": "Passage Piece split",
    "retrieve": "Hit find retriever retrievers with_prior",
    "store": "Book Stored open_book",
    "walk": "Skipped",
}
_HOMES = {name: f"openbook.book.{room}" for room, listed in _ROOMS.items() for name in listed.split()}
__all__ = sorted(_HOMES)
# A process that only reads a stranger's file (`openbook.book.apart`) should not wait for numpy.
__getattr__, __dir__ = names(__name__, _HOMES)
