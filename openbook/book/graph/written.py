"""Reports that a model wrote of communities, kept beside the graph: `graph/reports/0123….json`.

A report is kept under its community's content (who is in it, and what stands with whom how often), the model and its
prompt. It names the documents it was read from: where one of them changed it counts no more, and where one is forgotten
or no version has it any more, its file goes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openbook.book import versions
from openbook.book.graph.stored import FOLDER, REPORTS, Key, writing
from openbook.book.manifest import BookFault, faults, read_json, sync, write

if TYPE_CHECKING:
    from openbook.book.communities import Community
    from openbook.book.graph.graph import Graph
    from openbook.book.store import Book


def key_of_report(graph: Graph, community: Community, made: str) -> str:
    """The name of a community's report by the model and prompt of `made`."""
    normals, signature_E = graph.derived.normals, graph.signature_E
    held = sorted((normals[e], int(signature_E[e])) for e in community.entities)
    return hashlib.sha256(repr((made, held)).encode()).hexdigest()[:32]


def keep(book: Book, key: str, rests: Iterable[Key], names: Iterable[str], report: Mapping[str, Any]) -> None:
    """Store a report that was read from documents `rests`, and asked for by `names` (normal forms).

    Under the lock that forgetting takes last: `BookFault` where the version is gone.
    """
    folder = book.path / FOLDER
    value = {"rests": sorted(map(list, rests)), "names": sorted(names), "report": dict(report)}
    with faults(book.path), writing(folder):
        if versions.gone(book.path, book.version):
            raise BookFault(f"{book.path}: version {book.version} is gone, a document of it was forgotten; try again")
        (folder / REPORTS).mkdir(exist_ok=True)
        # A lone surrogate becomes its escape, which is JSON again.
        text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
        write(folder / REPORTS / f"{key}.json", text + "\n")
        sync(folder)


def recall(folder: Path, key: str, documents: set[Key]) -> dict[str, Any] | None:
    """The report of this name; None where there is none, it is damaged, or read from what is not in `documents`."""
    try:
        value = read_json(folder / REPORTS / f"{key}.json")
        rests, report = {(id, hash) for id, hash in value["rests"]}, value["report"]
        return report if isinstance(report, dict) and rests <= documents else None
    except (OSError, ValueError, TypeError, KeyError):
        return None  # it can be written again


def drop(folder: Path, gone: Callable[[Key], bool], names: Callable[[], set[str]]) -> int:
    """Delete the reports read from documents that are `gone`, or asked for by names that nobody says any more."""
    count = 0
    there: set[str] | None = None
    for path in sorted((folder / REPORTS).glob("*")):
        try:
            value = read_json(path)
            rests = any(gone((id, hash)) for id, hash in value["rests"])
            there = names() if there is None else there
            stays = path.suffix == ".json" and not rests and there.issuperset(value["names"])
        except (OSError, ValueError, TypeError, KeyError):
            stays = False  # nobody can say what it holds
        if not stays:
            path.unlink()
            count += 1
    if count:
        sync(folder / REPORTS)
    return count
