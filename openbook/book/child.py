"""The process in which `openbook.book.apart` has a stranger's file read: it limits itself, then reads.

The file is standard input. Standard output gets `+` and what was found, or `-` and why not. Imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from openbook.book.documents import MAX_NAME, Document, Unreadable, parse, size, tidy
from openbook.book.fence import fence

MOST_HEADINGS = 200_000


def main() -> None:
    """Do the job of the command line: `[path of modules, limits, job]`, each JSON."""
    limits, job = json.loads(sys.argv[2]), json.loads(sys.argv[3])
    bound(limits)
    told = os.dup(1)
    # What a library prints must not be taken for an answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    *others, root = sys.path
    fence([*others, str(Path(root, "openbook")), sys.base_prefix])
    try:
        answer = b"+" + _DO[job["do"]](sys.stdin.buffer.read(), job)
    except Unreadable as error:
        answer = b"-" + error.reason.encode("utf-8", "replace")
    except MemoryError:
        answer = f"-needs more than {size(limits['memory'])} of memory to be read; split it".encode()
    except RecursionError:
        answer = b"-is nested too deeply to be read"
    except Exception as error:  # a parser's own error, of any kind, is that file's fault alone
        answer = f"-cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}".encode(
            "utf-8", "replace"
        )
    with os.fdopen(told, "wb") as out:
        out.write(answer)
    os._exit(0)  # freeing what a parser made can take longer than making it


def bound(limits: dict[str, int]) -> None:
    """Take from this process what it does not need; none of it can be had back."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(limits["seconds"])  # nobody handles it, so it ends the process, also where the parent is gone
    for what, most in (
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_FSIZE, limits["output"]),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _read(data: bytes, job: dict[str, Any]) -> bytes:
    if "module" in job:
        import_module(job["module"])
    document = parse(data, Path(job["path"]), as_media=job["as_media"])
    if len(document.headings) > MOST_HEADINGS:
        raise Unreadable(f"has {len(document.headings):,} headings, more than the limit of {MOST_HEADINGS:,}; split it")
    return json.dumps(_facts(document)).encode() + b"\n" + document.text.encode("utf-8")


def _facts(document: Document) -> dict[str, Any]:
    return {
        "title": tidy(document.title),
        "kind": document.kind,
        "media": document.media,
        "note": document.note,
        "page_starts": document.page_starts,
        "headings": [[h.start, h.end, h.level, tidy(h.text)[:MAX_NAME]] for h in document.headings],
    }


def _page(data: bytes, job: dict[str, Any]) -> bytes:
    from openbook.book.readers.pdf_page import picture

    return picture(data, job["page"], [(a, b) for a, b in job["spans"]], job["at_most"])


_DO = {"read": _read, "page": _page}
