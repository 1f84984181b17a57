"""Forgetting a document: nothing of it stays in the book's folder, in no table, index, cache, answer or old version.

In this order, so that a kill at any moment leaves a book that opens, before or after, and the next `forget` goes on:

1. `forgetting.json` says what is going (ids, names), on the disk; until it is gone nobody else writes.
2. Answers that hold the document are blanked, while its text is still here to know them by.
3. A new version without it: rows' files are written anew, indices built from what stays, fsync, HEAD moves.
4. Versions that hold it go, and every file of Lance's that only they needed; then neighbours, graph, keys and values.
5. Answers again, as a reader may have given one meanwhile; folders are synced; `forgetting.json` goes.

"Holds" is meant of the files: a version where the document was deleted still has its rows, hidden, and its words.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from openbook.book import tables, uploads, versions
from openbook.book.everything import History
from openbook.book.manifest import (
    FORGETTING,
    BookFault,
    Wait,
    faults,
    now,
    read_head,
    read_json,
    sync,
    write,
    writing,
)
from openbook.book.traces import Traces, strings
from openbook.book.writer import Writer, document_id

_KEYS = re.compile("[0-9a-f]{32}|closed")
"""Names in the passage cache: a passage's id, or the closed book."""


@dataclass(frozen=True)
class Forgotten:
    """What a `forget` did; `traces` is what `openbook.book.prove` looks for."""

    documents: tuple[str, ...]
    passages: int
    versions: tuple[int, ...]
    tags: tuple[str, ...]
    answers: int
    neighbours: int
    bytes: int
    traces: Traces = field(repr=False, compare=False)


@dataclass(frozen=True)
class _Journal:
    """What is being forgotten: names by id, and whether tags go too."""

    documents: dict[str, str]
    tags: bool


def forget(book: Path, documents: Sequence[str], tags: bool = False, wait: Wait = True) -> Forgotten:
    """Remove documents, by name, path or id, from every file of the book; without any, finish what was interrupted.

    `BookFault`, before anything is changed, where a name is unknown, or a tagged version holds a document and `tags`
    does not say that the tag goes too.
    """
    with writing(book, wait, forgetting=True), faults(book):
        journal = _journal(book)
        if journal is None and not documents:
            raise BookFault(f"nothing to forget in {book}: name a document; they are shown by: openbook find")
        history = History(book)
        going = _resolve(book, history, documents) | (journal.documents if journal else {})
        tags = tags or (journal is not None and journal.tags)
        traces = history.traces(going)
        held, named = _held(book, history, going, tags)
        write(book / FORGETTING, json.dumps(asdict(_Journal(going, tags)), ensure_ascii=False) + "\n")
        answers = forget_answers(book, traces)
        head = read_head(book)
        writer = Writer(book, head, "forget")
        if head.version in held:
            writer.expunge(sorted(going))
        else:
            writer.settle()
        versions.drop_all(book, held)
        freed = versions.clean(book)
        neighbours = _forget_neighbours(book, sorted(going))
        _forget_graph(book, sorted(going))
        _forget_pairs(book)
        uploads.retain(book, (row["path"] for _, row in History(book).rows(tables.DOCUMENTS, ["path"], "true")))
        writer.sweep()
        _sweep_others(book)
        answers += forget_answers(book, traces)
        (book / FORGETTING).unlink()
        sync(book)
        return Forgotten(
            documents=tuple(sorted(going.values())),
            passages=len(traces.passages),
            versions=tuple(held),
            tags=tuple(named),
            answers=answers,
            neighbours=neighbours,
            bytes=freed,
            traces=traces,
        )


def known(book: Path, document: str) -> bool:
    """Whether a document, by name, path or id, is in any version of the book, or forgetting it is not finished."""
    path = os.path.abspath(document)  # noqa: PTH100  (as `add` stores paths)
    return (book / FORGETTING).exists() or bool(History(book).named({document, path}))


def _journal(book: Path) -> _Journal | None:
    try:
        found = read_json(book / FORGETTING)
        documents = {str(id): str(name) for id, name in found["documents"].items()}
        if not documents:
            raise ValueError("it names no document")
        return _Journal(documents, found["tags"] is True)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BookFault(f"{book / FORGETTING} is damaged; delete it and forget the documents again") from error


def _resolve(book: Path, history: History, wanted: Sequence[str]) -> dict[str, str]:
    """Documents (name by id) that are meant; `BookFault` for what no version or answer has, or what may mean two."""
    spelled = {name: os.path.abspath(name) for name in wanted}  # noqa: PTH100  (as `add` stores paths)
    rows = history.named({*spelled, *spelled.values()}) if wanted else []
    found: dict[str, str] = {}
    for name, path in spelled.items():
        here, there = ({row["id"]: row["name"] for row in rows if value in row.values()} for value in (path, name))
        if here and there and here != there:
            raise BookFault(
                f"{name!r} may be the document of that name or the file here, {min(here.values())!r}; "
                "say its whole path, or its id"
            )
        if not (here or there):
            if not any(_names(answer, name) for answer in (book / "answers").glob("*.json")):
                raise BookFault(f"{book} has no document {name!r}; names are as `openbook find` shows them")
            there = {document_id(name): name}
        found |= here | there
    return found


def _names(answer: Path, document: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        said = read_json(answer)
        sources = said.get("sources") if isinstance(said, dict) else None
        return isinstance(sources, list) and any(
            isinstance(source, dict) and source.get("document") == document for source in sources
        )
    return False


def _held(book: Path, history: History, going: dict[str, str], tags: bool) -> tuple[list[int], list[str]]:
    """Versions that hold the documents, and their tags; `BookFault` where tags keep them."""
    held = [manifest.version for manifest in history.holding(going)]
    named = sorted(name for name, number in versions.tags(book).items() if number in held)
    if named and not tags:
        raise BookFault(
            f"{', '.join(sorted(going.values())[:3])}: held by the tagged version{'s' * (len(named) > 1)} "
            f"{', '.join(named)}; forget with --tags to take {'these names' if len(named) > 1 else 'this name'} off too"
        )
    return held, named


def forget_answers(book: Path, traces: Traces) -> int:
    """Blank the answers kept with a book that name these documents or say a sentence of theirs; how many.

    Their numbers stay taken. An answer is written under the same lock, and not at a version that is gone
    (`openbook.answer.history`), so none comes after this that is based on the document.
    """
    folder, count = book / "answers", 0
    if not folder.is_dir() or folder.is_symlink():
        return 0
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for path in sorted(folder.glob("*.json")):
            if path.is_symlink() or _holds(path, traces):
                write(path, json.dumps({"forgotten": now()}) + "\n")
                count += 1
        for path in folder.glob(".*.json.*"):  # what was never finished
            path.unlink()
        sync(folder)
    return count


def _holds(path: Path, traces: Traces) -> bool:
    try:
        answer = read_json(path)
        if not isinstance(answer, dict) or traces.named(answer):
            return True
        # What other documents say is theirs, though this one may say it too.
        said = {key: value for key, value in answer.items() if key not in ("sources", "citations")}
        return bool(traces.needles.within("\n".join(strings(said)).encode("utf-8", "replace")))
    except (ValueError, RecursionError):
        return True  # nobody can read it, so nobody can say what it holds


def _forget_neighbours(book: Path, ids: Sequence[str]) -> int:
    if not (book / "neighbours").exists():
        return 0
    from openbook.book.tending import forget as forget_rows

    return forget_rows(book, ids)


def _forget_pairs(book: Path) -> None:
    if (book / "faq").exists():
        from openbook.book.faq.knowledge import forget as forget_index

        forget_index(book)


def _forget_graph(book: Path, ids: Sequence[str]) -> None:
    if (book / "graph").exists():
        from openbook.book.graph.forgetting import forget as forget_lines

        forget_lines(book, ids)


def _sweep_others(book: Path) -> None:
    """Entries of the passage cache under other names may be of any text; what is cached can be made again."""
    for path in (book / "kv").glob("*/*"):
        if "." in path.name and not path.name.endswith(".json") and not _KEYS.fullmatch(path.name.split(".")[0]):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    for folder in [*(book / "kv").glob("*/"), book / "kv"]:
        if folder.is_dir():
            sync(folder)
