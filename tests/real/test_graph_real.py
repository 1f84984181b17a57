"""Multi-hop retrieval on real questions: walks through names find what neither words nor meaning do."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from openbook.book import find, open_book
from openbook.home import home

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "musique-300"
SOME = 10
pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/musique-300 is not here"),
    pytest.mark.skipif(not (home() / "models" / "minilm").exists(), reason="run: openbook models pull minilm"),
]


def test_walks_find_more_of_what_supports_an_answer(tmp_path: Path) -> None:
    questions = [json.loads(line) for line in (DATA / "questions.jsonl").read_text("utf-8").splitlines()[:SOME]]
    wanted = {id for q in questions for id in q["context_passages"]}
    notes = tmp_path / "notes"
    notes.mkdir()
    for line in gzip.decompress((DATA / "corpus.jsonl.gz").read_bytes()).splitlines():
        row = json.loads(line)
        if row["id"] in wanted:
            (notes / f"{row['id']}.md").write_text(f"# {row['title']}\n\n{row['text']}\n", "utf-8")
    book = open_book(tmp_path / "book")
    book.add(notes)
    recall = {"fused": 0.0, "graph": 0.0}
    for q in questions:
        gold = set(q["supporting_passages"])
        for by in recall:
            hits = find(book, q["question"], 5, by=by)
            recall[by] += len(gold & {Path(hit.passage.document).stem for hit in hits}) / len(gold) / SOME
            assert all(book.passage(step.passage) for hit in hits for step in hit.through)
    assert recall["graph"] > 1.1 * recall["fused"] and recall["graph"] > 0.5
