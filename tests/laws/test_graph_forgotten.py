"""What is forgotten is in no file that was made of the graph: killed in between, and as a part of a sum."""

from __future__ import annotations

from pathlib import Path

import pytest
from forgettable import fill, raw, write
from test_graph import book_of

from openbook.book import open_book
from openbook.book.clustering import read_partition
from openbook.book.communities import communities
from openbook.book.graph.stored import FOLDER, PARTITION, Store

TEXTS = {
    "a": "Ada Quill with Boris Thorn in Northport. Ada Quill with Clara Finch.",
    "b": "Clara Finch with Emil Stone. Emil Stone with Dora Marsh at the Polar Institute.",
    "c": "The Polar Institute of Aarhus (PIA) is here. PIA with Gustav Reed.",
    "d": "PIA with Hanna Vale. Hanna Vale with Ivo Lind.",
    "e": "PIA with Karl Moss.",
}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [True, False])
def test_a_forget_that_is_killed_at_the_lines_goes_on_to_the_end(tmp_path: Path, monkeypatch, after: bool) -> None:
    book = fill(tmp_path / "book", write(tmp_path / "notes"))
    communities(book.graph())
    assert b"quillfeather" in (book.path / FOLDER / PARTITION).read_bytes()

    def drop(store: Store, gone) -> int:
        if after:
            whole(store, gone)
        raise Killed

    whole = Store.drop
    monkeypatch.setattr(Store, "drop", drop)
    with pytest.raises(Killed):
        book.forget("notes/mill.md")
    monkeypatch.setattr(Store, "drop", whole)
    open_book(book.path).forget()  # goes on with it
    assert b"uillfeather" not in raw(book)


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_no_sum_rests_on_what_is_forgotten(tmp_path: Path, name: str) -> None:
    """Σ n_ab h(b) less what can be counted would tell h of a name that is gone. (Names alone: whether a phrase is
    related to anything depends on how many passages there are.)"""
    book = book_of(tmp_path, **TEXTS)
    communities(book.graph())
    path = book.path / FOLDER / PARTITION
    before = {member.name: member.signature for member in read_partition(path).members}
    book.forget(f"notes/{name}.md")
    kept = {member.name: member.signature for member in read_partition(path).members}
    graph = open_book(book.path).graph()
    now = dict(zip(graph.derived.normals, graph.signature_E.tolist(), strict=True))
    assert kept and set(kept) < set(before)
    assert all(signature in (0, now.get(n)) for n, signature in kept.items())
    assert any(kept.values()) or name == "c"  # those who have nothing to do with it stay where they were
    assert set(kept) <= set(now)
