"""Killed at any moment, a `forget` was not begun or can be finished."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forgettable import ENCODER, answer, fill, write

from openbook.book import BookFault, find, open_book
from openbook.book.store import Book
from openbook.book.traces import Traces


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return write(tmp_path / "notes")


@pytest.fixture
def book(tmp_path: Path, notes: Path) -> Book:
    return fill(tmp_path / "book", notes)


CHILD = """
import os, signal, sys
import lance, numpy, pyarrow, pyarrow.dataset
from openbook.book import forget, indices, open_book, prove

left = int(sys.argv[2])

def count(frame, event, argument):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

book = open_book(sys.argv[1])
sys.setprofile(count)
book.forget(*sys.argv[3:])
sys.setprofile(None)
print(-left)
"""


def child(path: Path, calls: int, *documents: str) -> int | None:
    """Forget in another process that kills itself after so many calls; how many there were if it came to the end."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(calls), *documents], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -9), done.stderr
    return int(done.stdout) if done.returncode == 0 else None


def child_of_the_clock(path: Path, seconds: float, *documents: str) -> None:
    """Killed from outside, so also in the middle of what Lance does."""
    command = [sys.executable, "-c", CHILD.replace("sys.setprofile(count)", "print(flush=True)"), str(path), "0"]
    with subprocess.Popen([*command, *documents], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(seconds)
        process.kill()


def killed_and_finished(book: Book, path: Path, secret: Traces, when: int | float) -> None:
    shutil.copytree(book.path, path)
    if isinstance(when, int):
        child(path, when, "notes/mill.md")
    else:
        child_of_the_clock(path, when, "notes/mill.md")
    there = {d.name for d in open_book(path).documents()}
    assert there - {"notes/mill.md"} == {"notes/comet.md", "notes/river.md"}
    assert find(open_book(path), "comet", k=1, encoder=ENCODER)[0].passage.document == "notes/comet.md"
    opened = open_book(path)
    if (path / "forgetting.json").exists():
        with pytest.raises(BookFault, match="openbook forget"):
            opened.use(opened.version)
        opened.forget()
    elif "notes/mill.md" in there:
        opened.forget("notes/mill.md")
    assert {d.name for d in opened.documents()} == {"notes/comet.md", "notes/river.md"}
    assert opened.prove(secret).left == []
    shutil.rmtree(path)


def whole(book: Book, tmp_path: Path) -> tuple[int, Traces]:
    """How many calls a forget takes, and what is to be looked for after it."""
    answer(book, "notes/mill.md")
    (book.path / "kv" / "model").mkdir(parents=True)
    counted = shutil.copytree(book.path, tmp_path / "counted")
    traces = open_book(shutil.copytree(book.path, tmp_path / "traced")).forget("notes/mill.md").traces
    total = child(counted, 0, "notes/mill.md")
    assert total
    return total, traces


def test_killed_at_any_moment_it_is_before_or_after_and_can_be_finished(book: Book, tmp_path: Path) -> None:
    total, traces = whole(book, tmp_path)
    draw = random.Random(3)
    for _ in range(3):
        killed_and_finished(book, tmp_path / "killed", traces, draw.randrange(total // 20, total))


@pytest.mark.sweep
def test_killed_at_many_moments(book: Book, tmp_path: Path) -> None:
    total, traces = whole(book, tmp_path)
    for calls in range(total // 20, total, max(1, total // 60)):
        killed_and_finished(book, tmp_path / "killed", traces, calls)


@pytest.mark.sweep
def test_killed_by_the_clock(book: Book, tmp_path: Path) -> None:
    _, traces = whole(book, tmp_path)
    draw = random.Random(5)
    for _ in range(20):
        killed_and_finished(book, tmp_path / "killed", traces, draw.uniform(0.02, 0.9))
