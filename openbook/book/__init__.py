"""Floor 2: a memory one can open, version and swap."""

from openbook.book.adding import Added
from openbook.book.documents import Document, Extracted, Heading, Unreadable, read, reader, supported
from openbook.book.embedder import Embedder
from openbook.book.manifest import BookFault
from openbook.book.passages import Passage, Piece, split
from openbook.book.retrieve import Hit, find, retriever, retrievers, with_prior
from openbook.book.store import Book, Stored, open_book
from openbook.book.walk import Skipped

__all__ = [
    "Added",
    "Book",
    "BookFault",
    "Document",
    "Embedder",
    "Extracted",
    "Heading",
    "Hit",
    "Passage",
    "Piece",
    "Skipped",
    "Stored",
    "Unreadable",
    "find",
    "open_book",
    "read",
    "reader",
    "retriever",
    "retrievers",
    "split",
    "supported",
    "with_prior",
]
