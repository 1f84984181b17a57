"""What all versions of a book hold, hidden rows too: what a forget must find."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openbook.book import tables
from openbook.book.manifest import Manifest, manifests
from openbook.book.traces import Needles, Traces, heads

if TYPE_CHECKING:
    import lance


class History:
    """Every row that any version's files hold, hidden ones too, and which versions need those files."""

    def __init__(self, book: Path) -> None:
        self.book, self.manifests = book, manifests(book)

    def named(self, wanted: Collection[str]) -> list[dict[str, Any]]:
        """Documents of these names, paths or ids: their id, name and path."""
        values = tables.quoted(wanted)
        where = f"name IN ({values}) OR path IN ({values}) OR id IN ({values})"
        return [row for _, row in self.rows(tables.DOCUMENTS, ["id", "name", "path"], where)]

    def traces(self, going: dict[str, str]) -> Traces:
        """What these documents leave."""
        found, ids = Traces(names=dict(going)), tables.quoted(going)
        for _, row in self.rows(tables.DOCUMENTS, ["path", "title", "text"], f"id IN ({ids})"):
            found.paths.add(row["path"])
            found.read(f"{row['title']}\n{row['text']}")
        for _, row in self.rows(tables.PASSAGES, ["id", "vector"], f"document_id IN ({ids})"):
            found.passages.add(row["id"])
            found.vectors |= heads(_row(row["vector"]))
        return found

    def holding(self, going: dict[str, str]) -> list[Manifest]:
        """Versions whose files hold something of these documents, or whose indices may."""
        ids = tables.quoted(going)
        needles = Needles(id.encode() for id in going)
        documents = self._tainted(tables.DOCUMENTS, f"id IN ({ids})", needles)
        passages = self._tainted(tables.PASSAGES, f"document_id IN ({ids})", needles)
        return [m for m in self.manifests if m.documents_table in documents or m.passages_table in passages]

    def _tainted(self, name: str, where: str, ids: Needles) -> set[int]:
        files = {file for file, _ in self.rows(name, ["id"], where)}
        tainted: set[int] = set()
        clean: set[str] = set()
        for table in self._tables(name):
            indices = {str(segment.uuid) for index in table.describe_indices() for segment in index.segments}
            built_later = bool(tainted) and not indices <= clean  # when the document's words were there
            held = any(_file(fragment) in files for fragment in table.get_fragments())
            if held or built_later or any(ids.within(path.read_bytes()) for path in _said(self.book / name, table)):
                tainted.add(table.version)
            else:
                clean |= indices
        return tainted

    def _tables(self, name: str) -> Iterator[lance.LanceDataset]:
        """The table at each version of Lance's that the book needs, oldest first."""
        key = "documents_table" if name == tables.DOCUMENTS else "passages_table"
        for version in sorted({getattr(m, key) for m in self.manifests} - {None}):
            yield tables.open_at(self.book / name, version)

    def rows(self, name: str, columns: list[str], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Rows with the file they are in; each file is looked at once, whatever versions share it."""
        seen: set[str] = set()
        for table in self._tables(name):
            for fragment in table.get_fragments():
                if (file := _file(fragment)) in seen:
                    continue
                seen.add(file)
                scanner = table.scanner(
                    columns=columns,
                    filter=where,
                    fragments=[fragment],
                    with_row_id=True,  # Lance asks for it where deleted rows are wanted, and cannot take these later
                    include_deleted_rows=True,
                    late_materialization=False,
                    use_scalar_index=False,
                )
                yield from ((file, row) for row in scanner.to_table().to_pylist())


def _file(fragment: lance.LanceFragment) -> str:
    return "|".join(file.path for file in fragment.data_files())


def _said(path: Path, table: lance.LanceDataset) -> Iterator[Path]:
    """The files in which Lance says how a version of a table was made: which ids were deleted, for one."""
    yield from (path / "_versions").glob(f"{(1 << 64) - 1 - table.version}.manifest")
    yield from (path / "_transactions").glob(f"{table.version - 1}-*.txn")


def _row(vector: Sequence[float]) -> Any:
    import numpy as np

    return np.array([vector], dtype=np.float32)
