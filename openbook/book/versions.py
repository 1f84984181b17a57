"""What can be done with versions: list, name, go back to, compare, clean up.

History is a line: going back to version 3 makes a new version that equals it, so going back can itself be undone.
No table is opened for that, so it takes as long for a large book as for a small one.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from openbook.book import tables
from openbook.book.manifest import (
    BookFault,
    Manifest,
    Wait,
    drop,
    faults,
    manifests,
    now,
    numbers,
    path_of,
    publish,
    read_head,
    read_json,
    read_manifest,
    sync,
    write,
    writing,
)
from openbook.book.writer import Writer

if TYPE_CHECKING:
    import lance

TAGS = "tags.json"
_NAME = re.compile(r"[^\W\d_][\w.+-]{0,63}")
Ref = int | str
"""A version's number, or a tag."""


@dataclass(frozen=True)
class Version:
    """A version as `versions` lists it. `whole` is False for a batch in the middle of an `add`."""

    number: int
    created: str
    made: str
    documents: int
    passages: int
    tags: tuple[str, ...]
    live: bool
    whole: bool


@dataclass(frozen=True)
class Counted:
    """A document and how many passages it had before and has after; 0 where it is not."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Diff:
    """How version `after` differs from version `before`; `same` counts documents that are equal in both."""

    before: int
    after: int
    added: tuple[Counted, ...]
    changed: tuple[Counted, ...]
    gone: tuple[Counted, ...]
    same: int


@dataclass(frozen=True)
class Pruned:
    """Versions removed, versions kept because a reader looks at them, and bytes given back to the disk."""

    removed: tuple[int, ...]
    held: tuple[int, ...]
    bytes: int


def versions(book: Path) -> list[Version]:
    """All versions, oldest first."""
    head = read_head(book).version
    named: dict[int, list[str]] = {}
    for name, number in tags(book).items():
        named.setdefault(number, []).append(name)
    known = manifests(book)
    follower = {m.version: after for m, after in pairwise(known)}
    return [
        Version(
            number=m.version,
            created=m.created,
            made=m.made,
            documents=m.documents,
            passages=m.passages,
            tags=tuple(sorted(named.get(m.version, ()))),
            live=m.version == head,
            whole=not _same_run(m, follower.get(m.version)),
        )
        for m in known
    ]


def _same_run(manifest: Manifest, after: Manifest | None) -> bool:
    return after is not None and manifest.since is not None and manifest.since == after.since


def tags(book: Path) -> dict[str, int]:
    """Names of versions."""
    try:
        found = read_json(book / TAGS)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BookFault(f"{book / TAGS} cannot be read; delete it to go on without tags") from error
    if not isinstance(found, dict) or not all(type(n) is int and n >= 0 for n in found.values()):
        raise BookFault(f"{book / TAGS} is damaged; delete it to go on without tags")
    return found


def resolve(book: Path, ref: Ref) -> int:
    """The number of a version named by number or tag; `BookFault` if it is not here."""
    if isinstance(ref, str) and not (ref.isascii() and ref.isdigit() and len(ref) < 20):
        named = tags(book)
        if ref not in named:
            there = f"tags are: {', '.join(sorted(named))}" if named else "no version has a tag"
            raise BookFault(f"{book} has no tag {ref!r}; {there}; numbers: openbook versions --book {book}")
        ref = named[ref]
    number = int(ref)
    if not 0 <= number <= read_head(book).version or not path_of(book, number).exists():
        raise BookFault(
            f"{book} has no version {number}; it was cleaned up or never was; see: openbook versions --book {book}"
        )
    return number


def gone(book: Path, version: int) -> bool:
    """Whether a version was cleaned up or forgotten."""
    return not path_of(book, version).exists()


def tag(book: Path, name: str, ref: Ref | None = None) -> int:
    """Name a version (else the live one), for good; a tagged version is never cleaned up. Returns its number."""
    if not _NAME.fullmatch(name):
        raise BookFault(f"{name!r} cannot be a tag; a letter first, then letters, digits and . _ + -, 64 at most")
    with _tagging(book):
        number = read_head(book).version if ref is None else resolve(book, ref)
        _write_tags(book, {**tags(book), name: number})
    return number


def untag(book: Path, names: Iterable[str]) -> None:
    """Take names off; the versions stay until they are cleaned up."""
    with _tagging(book):
        named = tags(book)
        for name in names:
            if name not in named:
                raise BookFault(f"{book} has no tag {name!r}; tags are: {', '.join(sorted(named)) or 'none'}")
            del named[name]
        _write_tags(book, named)


def _write_tags(book: Path, named: Mapping[str, int]) -> None:
    if named == tags(book):
        return
    write(book / TAGS, json.dumps(dict(sorted(named.items())), ensure_ascii=False, indent=1) + "\n")


@contextmanager
def _tagging(book: Path) -> Iterator[None]:
    """Held while tags change and while versions are chosen for clean-up: milliseconds, unlike the writer's lock."""
    with faults(book), (book / "versions" / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def use(book: Path, ref: Ref, wait: Wait = True) -> Manifest:
    """Make the live version equal to another, as a new version; the live one itself if it is equal already."""
    with writing(book, wait):
        head = read_head(book)
        wanted = read_manifest(book, resolve(book, ref))
        if _tables(wanted) == _tables(head):
            return head
        made = f"use {wanted.version}"
        fresh = replace(wanted, version=head.version + 1, created=now(), made=made, since=head.version)
        publish(book, fresh)
        return fresh


def _tables(manifest: Manifest) -> tuple[int | None, int | None]:
    return manifest.documents_table, manifest.passages_table


def diff(book: Path, before: Ref, after: Ref) -> Diff:
    """Documents that came, changed and went from one version to another, by name."""
    a, b = resolve(book, before), resolve(book, after)
    old, new = (_contents(book, read_manifest(book, number)) for number in (a, b))
    both = sorted(old.keys() & new.keys())
    changed = [name for name in both if old[name] != new[name]]
    return Diff(
        before=a,
        after=b,
        added=tuple(Counted(name, 0, new[name][1]) for name in sorted(new.keys() - old.keys())),
        changed=tuple(Counted(name, old[name][1], new[name][1]) for name in changed),
        gone=tuple(Counted(name, old[name][1], 0) for name in sorted(old.keys() - new.keys())),
        same=len(both) - len(changed),
    )


def _contents(book: Path, manifest: Manifest) -> dict[str, tuple[str, int]]:
    """Hash of the file and count of passages, by document."""
    if manifest.documents_table is None:
        return {}
    with faults(book):
        table = tables.open_at(book / tables.DOCUMENTS, manifest.documents_table)
        rows = table.scanner(columns=["name", "hash", "passages"]).to_table().to_pylist()
    return {row["name"]: (row["hash"], row["passages"]) for row in rows}


def prune(book: Path, keep: int, wait: Wait = True) -> Pruned:
    """Remove all versions but the newest `keep` and those with a tag, and what only they needed from the disk.

    A version that a reader looks at stays. The newest are counted as `versions` lists them: an `add` is one.
    """
    if keep < 1:
        raise BookFault(f"keep is {keep}; at least 1 version stays, the live one")
    with writing(book, wait):
        Writer(book, read_head(book), "prune").settle()
        with _tagging(book):
            known = versions(book)
            newest = {v.number for v in [v for v in known if v.whole][-keep:]}
            going = [v.number for v in known if v.number not in newest and not v.tags]
            removed = tuple(number for number in going if drop(book, number))
        sync(book / "versions")
        return Pruned(removed, tuple(n for n in going if n not in removed), clean(book))


def apart(book: Path) -> list[int]:
    """Versions that hold different documents from each other: one for each table of documents."""
    return sorted({manifest.documents_table: manifest.version for manifest in manifests(book)}.values())


def drop_all(book: Path, going: Collection[int]) -> None:
    """Remove these versions and the names they have, also versions that readers look at."""
    with _tagging(book):
        _write_tags(book, {name: number for name, number in tags(book).items() if number not in going})
        for number in going:
            drop(book, number, even_held=True)
    sync(book / "versions")


def clean(book: Path) -> int:
    """Remove from the disk what no version of the book needs; returns the bytes. The caller holds the writer's lock."""
    head = read_head(book)
    for number in numbers(book):
        if number > head.version:  # never published
            drop(book, number, even_held=True)
    known = manifests(book)
    freed = 0
    with faults(book):
        if head.documents_table is not None:
            freed += _clean(book / tables.DOCUMENTS, {m.documents_table for m in known}, head.documents_table)
        if head.passages_table is not None:
            freed += _clean(book / tables.PASSAGES, {m.passages_table for m in known}, head.passages_table)
    return freed


def _clean(path: Path, kept: set[int | None], live: int) -> int:
    table: lance.LanceDataset = tables.open_at(path, live)
    there = {int(version["version"]) for version in table.versions()}
    # Lance never removes its newest version: `settle` has seen to it that the live one is that.
    going = sorted(there - kept - {table.latest_version})
    which = {"versions": going} if going else {"older_than": timedelta(days=36_500)}
    # What an interrupted write left goes as well: we hold the lock, so nobody is writing it.
    stats = table.cleanup_old_versions(**which, delete_unverified=True, error_if_tagged_old_versions=False)
    for folder in [path, *(p for p in path.rglob("*") if p.is_dir())]:
        sync(folder)
    return int(stats.bytes_removed)
