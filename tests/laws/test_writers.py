"""Two writers and many readers at once, killed at drawn moments: nothing acknowledged is lost, nothing half visible."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from openbook.book import find, open_book
from openbook.book.embedder import HashedWords
from openbook.book.store import Book

ENCODER = HashedWords()

WRITER = """
import sys
from pathlib import Path
from openbook.book import adding, open_book, writer
from openbook.book.embedder import HashedWords
from openbook.book.manifest import publish

adding.COMMIT_DOCUMENTS = 2
folder = Path(sys.argv[2])

def announce(path, manifest):
    publish(path, manifest)
    print(manifest.version, manifest.documents, flush=True)

writer.publish = announce
book = open_book(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
while True:
    book.add(folder, encoder=HashedWords(), wait=lambda line: print("waits", flush=True))
    print("done", flush=True)
    sys.stdin.readline()
    for path in folder.iterdir():
        path.write_text(path.read_text() + "\\nAnd a line more.\\n")
"""


def documents(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        (folder / f"{index}.md").write_text(
            f"# {folder.name} {index}\n\nA {folder.name} stands by the river {index}.\n"
        )
    return folder


class Child:
    """A writer in a process of its own."""

    def __init__(self, book: Path, folder: Path) -> None:
        command = [sys.executable, "-c", WRITER, str(book), str(folder)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.strip() for line in iter(self.process.stdout.readline, ""))

    def until(self, *ends: str) -> None:
        """Wait for a line that begins so."""
        while not any(line.startswith(ends) for line in list(self.lines)):
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            time.sleep(0.005)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()

    @property
    def acknowledged(self) -> int:
        """The last version it was told is stored."""
        return max((int(line.split()[0]) for line in self.lines if line[0].isdigit()), default=0)


def whole(book: Book) -> None:
    """What a version shows is all there: every document with all its passages, and they are found."""
    stored = book.documents()
    assert len(stored) == book.manifest.documents
    table = book.passages_table
    ids = [] if table is None else table.to_table(columns=["document"])["document"].to_pylist()
    assert len(ids) == book.count
    assert {d.name: d.passages for d in stored} == {name: ids.count(name) for name in set(ids)}
    if stored:
        name = stored[len(stored) // 2].name
        words = name.split("/")[0] + " " + name.split("/")[1].split(".")[0]
        assert find(book, words, k=3, encoder=ENCODER)


def fight(tmp_path: Path, seed: int, moments: list[float]) -> None:
    """Two writers on a book, one of them killed at each moment and then the other; readers look all the while."""
    path = tmp_path / f"book{seed}"
    open_book(path)
    children = [Child(path, documents(tmp_path / f"{name}{seed}", 6)) for name in ("oak", "elm")]
    stop = threading.Event()
    failed: list[BaseException] = []

    def look() -> None:
        last = 0
        try:
            while not stop.is_set():
                book = open_book(path, create=False)
                assert book.version >= last
                last = book.version
                whole(book)
        except BaseException as error:
            failed.append(error)

    reader = threading.Thread(target=look)
    try:
        for child in children:
            child.until("ready")
        reader.start()
        for child in children:
            child.go()
        for moment, child in zip(moments, children[:: 1 if seed % 2 else -1], strict=True):
            time.sleep(moment)
            child.kill()
    finally:
        stop.set()
        reader.join()
        for child in children:
            child.kill()
    assert failed == []
    book = open_book(path)
    assert book.version >= max(child.acknowledged for child in children)
    whole(book)
    for name in ("oak", "elm"):
        book.add(next(tmp_path.glob(f"{name}*")), encoder=ENCODER)
    assert len(book.documents()) == 12
    whole(book)


def test_a_second_writer_waits_and_both_are_stored(tmp_path: Path) -> None:
    path = tmp_path / "book"
    open_book(path)
    children = [Child(path, documents(tmp_path / name, 4)) for name in ("oak", "elm")]
    try:
        for child in children:
            child.until("ready")
        for child in children:
            child.go()
        for child in children:
            child.until("done")
    finally:
        for child in children:
            child.kill()
    assert len(open_book(path).documents()) == 8
    whole(open_book(path))


def test_two_writers_killed_while_readers_look(tmp_path: Path) -> None:
    draw = random.Random(1)
    fight(tmp_path, 0, [draw.uniform(0.05, 0.4) for _ in range(2)])


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(20))
def test_two_writers_killed_often(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    fight(tmp_path, seed, [draw.uniform(0.0, 1.2) for _ in range(2)])
