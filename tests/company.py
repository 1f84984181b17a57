"""What tests of several requests at once share: a small book, and all that an answer says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openbook.answer.answer import Answer
from openbook.book.embedder import HashedWords
from openbook.book.store import Book, open_book

NOTES = {
    "comet.md": "# The comet\n\nDr. Ingrid Vass led the comet team in 2019. The tail was 4.7 million km long.\n",
    "bridge.md": "# The bridge\n\nThe bridge over the Larch is 212 metres long. It was opened in 1931.\n",
    "moss.txt": "Mosses have no roots. They take up water through their leaves.\n",
}


def book_of_notes(folder: Path) -> Book:
    """A book of these notes, in a folder that is empty."""
    documents = folder / "documents"
    documents.mkdir()
    for name, text in NOTES.items():
        (documents / name).write_text(text, encoding="utf-8")
    made = open_book(folder / "notes.book")
    made.add(documents, encoder=HashedWords())
    return made


def facts(answer: Answer) -> Any:
    """All that an answer says, evidence too, but how long it took and what it took to write it."""
    said = answer.to_dict()
    del said["timings"]
    evidence = answer.evidence
    arrays = [] if evidence is None else [evidence.log_p_TS.tolist(), evidence.log_w_TS.tolist()]
    return json.dumps(said, sort_keys=True), arrays
