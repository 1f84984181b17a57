"""Names, relations and reports by the real model: JSON whatever it writes, names that stand in the text, reports whose
sentences point to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openbook.answer.extracting import WRITTEN, Local
from openbook.answer.reports import made_by, write_reports, written_of
from openbook.book import open_book
from openbook.book.communities import communities
from openbook.book.embedder import HashedWords
from openbook.book.graph.asking import Extracting, ask, choose, estimate
from openbook.errors import Fault
from openbook.lm.model import LanguageModel
from openbook.mix.reading import Reader

NOTES = {
    "lantern": "The Lantern Prize went to Ada Quill in 1931. Ada Quill was born in Northport, a town on the coast of "
    "Eastvale. She built the first lighthouse of Northport with Boris Thorn.",
    "granite": "The harbour of Northport is made of black granite. Boris Thorn drew the plans of the harbour. Its "
    "stones came from the quarries of Westmoor.",
}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    from openbook.lm.model import load_model

    try:
        return load_model()
    except Fault as error:
        pytest.skip(f"no model here: {error}")


def test_it_names_what_the_text_says(model: LanguageModel, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    for name, text in NOTES.items():
        (notes / f"{name}.md").write_text(text)
    book = open_book(tmp_path / "book")
    book.add(notes, encoder=HashedWords())
    local = Local(model)
    planned = estimate(book, local)
    reply = local(NOTES["lantern"])
    told = json.loads(reply.text)
    assert [*told] == ["names", "relations"] and reply.written <= WRITTEN
    choose(book, Extracting(how="both", made=local.made))
    done = ask(book, local)
    assert done.calls == planned.calls == 2 and done.read == planned.read and done.written <= planned.written
    assert done.names >= 4
    assert {"ada quill", "lantern prize"} <= set(book.graph().derived.normals)
    divided = communities(book.graph())
    reader = Reader(book, model, HashedWords())
    write_reports(reader, divided, divided.level(0)[:1])
    report = written_of(divided, divided.level(0)[0], made_by(model))
    assert report is not None and report["answer"]
    assert report["citations"]
    for cited in report["citations"]:
        source = next(s for s in report["sources"] if s["id"] == cited["source"])
        start, end = cited["source_span"]
        assert book.text(source["document"])[start:end] == cited["cited_text"]
