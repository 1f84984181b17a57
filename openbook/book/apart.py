"""Documents of strangers, read in a process apart: bounded in memory, time and output, and killed whole.

Parsers of PDF and zip are large and written in C; a file can make one use all memory, run for ever, crash, or do what
the file says. So the bytes go to a fresh Python (`openbook.book.child`) that can do little: so much address space, so
many seconds, few open files, no environment of ours; on Linux it may read Python's own files alone, write none and
connect to nobody (`openbook.book.fence`). It imports neither torch nor numpy. What it hands back is checked here like
any other stranger's file.

The bytes are the child's standard input and what it found is its standard output, both files without a name: nothing
can wait for the other, and the system holds the output to its size.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from openbook.book.documents import (
    MAX_TEXT_CHARS,
    Document,
    Heading,
    Unreadable,
    own_kind,
    reader_for,
    size,
)

ROOT = Path(__file__).parents[2]
# Nothing of the person's settings of Python, no site-packages' hooks: the packages that this process sees, no others.
_BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from openbook.book.child import main; main()"
_TIMED_OUT = (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL)


@dataclass(frozen=True)
class Limits:
    """What a child may use: bytes of address space, seconds of processor and of clock, bytes handed back."""

    memory: int = 2**30
    cpu: int = 120
    seconds: int = 180
    output: int = 4 * MAX_TEXT_CHARS + 16 * 2**20


LIMITS = Limits()
DRAWING = Limits(cpu=20, seconds=30, output=32 * 2**20)
"""Somebody waits for a page to look at."""


def parse_apart(
    data: bytes, path: Path, name: str | None = None, as_media: str | None = None, limits: Limits = LIMITS
) -> Document:
    """`openbook.book.documents.parse` in a process apart; `Unreadable` too where that took too much or crashed."""
    try:
        job = {"do": "read", "path": str(path), "as_media": as_media, **_reader(path, as_media)}
        return _document(run_apart(job, data, limits), path, name)
    except Unreadable as error:
        raise Unreadable(error.reason, str(path)) from error


def page_png(
    data: bytes, page: int, spans: Sequence[tuple[int, int]] = (), at_most: int = 1_600, limits: Limits = DRAWING
) -> bytes:
    """A page (from 1) of a PDF as a PNG of at most so many pixels a side, with characters of `Document.text` marked.

    `Unreadable` where that is no PDF, has no such page, or took too much.
    """
    job = {"do": "page", "page": page, "spans": [list(span) for span in spans], "at_most": at_most}
    return run_apart(job, data, limits)


def _reader(path: Path, as_media: str | None) -> dict[str, str]:
    """Which module registers the reader: the child knows those that come with openbook, others it has to import."""
    found = reader_for(path)
    if found is None or own_kind(as_media or ""):
        return {}
    function, _ = found
    module, qualified = function.__module__, getattr(function, "__qualname__", "")
    if module == "__main__" or "<" in qualified:
        raise Unreadable(f"is read by {qualified}, which a process apart cannot import; put it into a module")
    return {"module": module}


def run_apart(job: Mapping[str, Any], data: bytes, limits: Limits = LIMITS) -> bytes:
    """What the child answers to a job about these bytes; `Unreadable` with its reason, or why it did not end well."""
    with _nameless() as given, _nameless() as told:
        given.write(data)
        given.seek(0)
        status = _ended(job, given, told, limits)
        length = os.fstat(told.fileno()).st_size
        if status != 0 or not 0 < length <= limits.output:
            raise Unreadable(_why(status, limits))
        told.seek(0)
        answer = told.read(limits.output)
    if answer[:1] == b"-":
        raise Unreadable(answer[1:1_000].decode("utf-8", "replace"))
    return answer[1:]


def _nameless() -> IO[bytes]:
    """A file in memory without a name; on the disk where the system has none such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("openbook"), "w+b")
    return tempfile.TemporaryFile()


def _ended(job: Mapping[str, Any], given: IO[bytes], told: IO[bytes], limits: Limits) -> int:
    """Run the child to its end; its exit status, negative for the signal that ended it."""
    seen = [str(Path(entry).absolute()) for entry in sys.path if entry]
    if job.get("module", "openbook.").startswith("openbook."):
        # Where somebody happens to stand is no place of ours: the child could read all of it.
        seen = [entry for entry in seen if Path(entry) != Path.cwd()]
    arguments = [json.dumps([*seen, str(ROOT)]), json.dumps(asdict(limits)), json.dumps(job)]
    child = subprocess.Popen(  # noqa: S603  (our own Python, our own module; no shell)
        [sys.executable, "-I", "-S", "-B", "-c", _BOOT, *arguments],
        stdin=given,
        stdout=told,
        stderr=subprocess.DEVNULL,
        env={"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "1"},
        cwd="/",
        close_fds=True,
        start_new_session=True,
    )
    try:
        return child.wait(limits.seconds + 1)  # it ends itself a second before
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
    finally:  # also when this process is told to stop
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _why(status: int, limits: Limits) -> str:
    if -status in _TIMED_OUT:
        return f"took longer to read than the limit of {limits.cpu} s; split it, or save it anew"
    if status < 0:
        name = signal.Signals(-status).name
        return f"crashes what reads its kind ({name}), or needs more than {size(limits.memory)} of memory"
    return f"could not be read within {size(limits.memory)} of memory and {size(limits.output)} of text; split it"


def _document(answer: bytes, path: Path, name: str | None) -> Document:
    """The document in the child's answer: a line of JSON, then the text. Checked as if a stranger had written it."""
    line, _, rest = answer.partition(b"\n")
    try:
        told, text = json.loads(line), rest.decode("utf-8")
        starts = told["page_starts"]
        places = [*starts] if starts is not None else []
        headings = tuple(Heading(int(a), int(b), int(level), str(said)) for a, b, level, said in told["headings"])
        ordered = all(type(at) is int for at in places) and places == sorted(places)
        inside = all(0 <= at <= len(text) for at in [*places, *(n for h in headings for n in (h.start, h.end))])
        if not ordered or not inside or told["kind"] not in ("prose", "code", "lines"):
            raise ValueError("its places are not in the text")
        return Document(
            name=name or path.name,
            title=str(told["title"]),
            text=text,
            page_starts=None if starts is None else tuple(places),
            headings=headings,
            kind=told["kind"],
            media=str(told["media"]),
            note=None if told["note"] is None else str(told["note"]),
        )
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise Unreadable(f"was read to nonsense: {error}") from error
