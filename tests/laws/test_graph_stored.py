"""What is stored of a book's graph: nothing of a forgotten document, whole or not at all, read while it is written."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from forgettable import ENCODER, fill, raw, write
from test_graph import book_of, said

from openbook.book import BookFault, open_book
from openbook.book.clustering import read_partition
from openbook.book.communities import communities
from openbook.book.graph import open_graph
from openbook.book.graph.extract import extract
from openbook.book.graph.stored import FOLDER, LISTING, PARTITION, Store, keys, line_of, read, writing


def test_what_is_forgotten_is_in_no_file_of_the_graph(tmp_path: Path) -> None:
    book = fill(tmp_path / "book", write(tmp_path / "notes"))
    communities(book.graph())
    assert book.graph().find("Quillfeather") is not None and b"quillfeather" in raw(book)
    done = book.forget("notes/mill.md")
    assert b"uillfeather" not in raw(book) and b"zebedee" not in raw(book)
    assert book.prove(done.traces).left == []
    assert book.graph().find("Quillfeather") is None and book.graph().find("comet") is not None


def test_prove_finds_what_a_graph_that_was_not_told_has_left(tmp_path: Path) -> None:
    book = fill(tmp_path / "book", write(tmp_path / "notes"))
    communities(book.graph())
    names = [path for path in (book.path / FOLDER).iterdir() if path.name != LISTING]
    left = {path.name: path.read_bytes() for path in names}
    done = book.forget("notes/mill.md")
    for name, data in left.items():
        (book.path / FOLDER / name).write_bytes(data)
    found = {leftover.where for leftover in book.prove(done.traces).left}
    assert {f"{FOLDER}/{name}" for name in left if name != "lock"} <= found


def test_clean_up_takes_what_no_version_says(tmp_path: Path) -> None:
    book = book_of(tmp_path, a="Ada Quill met Boris Thorn.", b="Dora Marsh sings.")
    book.graph()
    (tmp_path / "notes" / "a.md").write_text("Clara Finch met Emil Stone.")
    book.add(tmp_path / "notes", encoder=ENCODER)
    book.graph()
    assert b"ada quill" in raw(book)
    book.prune(1)
    assert b"ada quill" not in raw(book) and book.graph().find("dora marsh") is not None


def test_what_a_killed_writer_left_is_removed_and_does_not_count(tmp_path: Path) -> None:
    book = book_of(tmp_path, a="Ada Quill met Boris Thorn.")
    before = said(book.graph())
    (book.path / FOLDER / "000099.jsonl").write_text('{"id":"aa","hash":"bb", half a li')
    (book.path / FOLDER / f"{LISTING}.new").write_text("{")
    assert said(open_graph(book)) == before
    (tmp_path / "notes" / "b.md").write_text("Clara Finch sings.")
    book.add(tmp_path / "notes", encoder=ENCODER)
    book.graph()
    assert not (book.path / FOLDER / "000099.jsonl").exists()


def test_it_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "graph"
    made = [line_of((f"{i:04x}", "00"), "", extract(f"Ada Quill met Boris{i} Thorn.")) for i in range(30)]

    def grow() -> None:
        for line in made:
            with writing(folder):
                Store(folder, "built-in").append([line])

    with writing(folder):
        Store(folder, "built-in").append([])
    with ThreadPoolExecutor(1) as other:
        growing, seen = other.submit(grow), [0]
        while not growing.done():
            seen.append(len(read(folder, {(f"{i:04x}", "00") for i in range(30)})))
        growing.result()
    assert seen == sorted(seen) and len(keys(folder)) == 30 and len(list(folder.glob("*.jsonl"))) < 10


@pytest.mark.parametrize("damage", ["{}", "nonsense", "{}\n", "\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    book = book_of(tmp_path, a="Ada Quill met Boris Thorn.")
    book.graph()
    segment = next((book.path / FOLDER).glob("*.jsonl"))
    head = segment.read_text().split(',"title"')[0]
    for text in (damage, head + ',"title":"x"}\n', head + damage):
        segment.write_text(text)
        with pytest.raises(BookFault, match="graph"):
            open_graph(open_book(book.path))


CHILD = """
import os, signal, sys
from openbook.book import open_book
from openbook.book.communities import communities

left = int(sys.argv[2])

def count(frame, event, argument):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

import numpy, scipy.sparse, graspologic_native
import openbook.book.graph.graph, openbook.book.graph.kept, openbook.book.graph.builtin
openbook.book.graph.kept.LEAST = 0
book = open_book(sys.argv[1])
sys.setprofile(count)
communities(book.graph())
sys.setprofile(None)
print(-left)
"""


def killed(book: Path, calls: int) -> int | None:
    """Bring a graph up to date in a process that kills itself after so many calls; how many there were if not."""
    command = [sys.executable, "-c", CHILD, str(book), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -9), done.stderr
    return int(done.stdout) if done.returncode == 0 else None


def test_killed_while_it_is_written_it_opens_and_comes_out_the_same(tmp_path: Path) -> None:
    book = book_of(
        tmp_path, a="Ada Quill met Boris Thorn.", b="Clara Finch met Boris Thorn. Boris Thorn met Ada Quill."
    )
    communities(book.graph())
    (tmp_path / "notes" / "c.md").write_text("Emil Stone met Dora Marsh. Dora Marsh met Clara Finch.")
    book.add(tmp_path / "notes", encoder=ENCODER)
    shutil.copytree(book.path, tmp_path / "whole")
    calls = killed(tmp_path / "whole", 0)
    assert calls is not None
    expected = said(open_book(tmp_path / "whole").graph())
    members = sorted(member.name for member in read_partition(tmp_path / "whole" / FOLDER / PARTITION).members)
    for n, when in enumerate(random.Random(0).sample(range(1, calls), 4)):
        copy = tmp_path / f"killed{n}"
        shutil.copytree(book.path, copy)
        assert killed(copy, when) is None
        opened = open_book(copy)
        assert said(opened.graph()) == expected
        communities(opened.graph())
        assert sorted(m.name for m in read_partition(copy / FOLDER / PARTITION).members) == members
