"""Taking back the last change of a book's pairs."""

from __future__ import annotations

from openbook.book.manifest import BookFault, Manifest, Wait, read_manifest
from openbook.book.store import Book


def undo(book: Book, wait: Wait = True) -> Manifest:
    """Make the book what it was before the change that made the live version, as a new version; that change.

    `BookFault` where the live version was made by something else: what came after a change would go with it.
    """
    last = read_manifest(book.path, book.version)
    if not last.made.startswith("faq ") or last.since is None:
        raise BookFault(
            f"{book.path}: version {last.version} was made by {last.made or 'nothing'!r}, not by a change of pairs; "
            f"see: openbook versions --book {book.path}, and go back with: openbook use VERSION"
        )
    book.use(last.since, wait)
    return last
