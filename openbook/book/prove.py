"""Proving that nothing of a document is left: every file of the book is searched, packed or not.

Searched for: its sentences (what no other document says too), names, ids, vectors, and in every vocabulary its rarer
words, those that no other document has. A search that cannot see what must be there proves nothing: it is tried on a
passage that stays.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from openbook.book import indices, tables
from openbook.book.fst import Dictionary
from openbook.book.manifest import BookFault, faults, manifests, read_head
from openbook.book.traces import Needles, Traces, heads, pieces, strings, words
from openbook.book.uploads import UPLOADS

if TYPE_CHECKING:
    import pyarrow as pa

TOKENS = "_token_fst_bytes"
OWN = frozenset({"versions", "HEAD", "tags.json"})
"""Files of the book that hold words of ours, which a document may have too."""
UNPACKED = 1 << 28
"""Bytes of a packed file that are looked at at once."""


@dataclass(frozen=True)
class Leftover:
    """Something of a document in a file of the book."""

    where: str
    what: str


@dataclass
class Report:
    """What was searched, for what, and what was found.

    `sentences` and `words` are how many were searched for, `shared` sentences that other documents have too; `cells`
    are values of tables, `vocabulary` words of full-text indices.
    """

    sentences: int = 0
    shared: int = 0
    words: int = 0
    files: int = 0
    bytes: int = 0
    cells: int = 0
    vocabularies: int = 0
    vocabulary: int = 0
    left: list[Leftover] = field(default_factory=list)

    def found(self, where: str, what: str) -> None:
        self.left.append(Leftover(where, what))


def prove(book: Path, traces: Traces) -> Report:
    """Search every file of a book for traces of documents; what `Report.left` names is still there.

    `BookFault` where rows cannot be read: nothing is proved then.
    """
    with faults(book):
        return _Search(book, traces).run()


class _Search:
    def __init__(self, book: Path, traces: Traces) -> None:
        self.book, self.traces = book, traces
        self.report = Report()
        self.seen, self.known = False, False
        self._asked: dict[str, bool] = {}

    def run(self) -> Report:
        report, traces = self.report, self.traces
        report.shared = traces.unshare(self._others())
        report.sentences, report.words = len(traces.sentences), len(traces.words)
        for path in sorted(self.book.rglob("*")):
            where, mode = str(path.relative_to(self.book)), path.lstat().st_mode
            self._name(path, where)
            if stat.S_ISREG(mode):
                report.files += 1
                report.bytes += path.stat().st_size
                try:
                    self._file(path, where)
                except (OSError, ValueError, RecursionError, IndexError, BookFault) as error:
                    report.found(where, f"cannot be read, so nothing is proved of it: {error}")
            elif not stat.S_ISDIR(mode):
                report.found(where, "is no plain file: where it leads was not searched")
        if self._control and not self.seen:
            report.found("the search", "did not find a passage that is in the book: it proves nothing")
        if report.vocabularies and self._control_tokens and not self.known:
            report.found("the search", "did not find words that a full-text index holds: it proves nothing")
        return report

    def _name(self, path: Path, where: str) -> None:
        if any(part in self.traces.passages or part in self.traces.names for part in path.name.split(".")):
            self.report.found(where, "is named after it")

    def _file(self, path: Path, where: str) -> None:
        self._bytes(_mapped(path), where)
        if path.relative_to(self.book).parts[0] == UPLOADS:
            return  # the original of another document, as a stranger made it: nothing here is read as the book's own
        if _is_lance(path):
            self._lance(path, where)
        elif path.suffix in (".zip", ".npz", ".gz"):
            for part in _unpacked(path, self.traces.needles.longest):
                self._bytes(part, f"{where} (unpacked)")
        else:
            self._text(path, where)

    def _bytes(self, data: bytes | memoryview, where: str) -> None:
        for needle in sorted(self.traces.needles.within(data)):
            self.report.found(where, _what(needle, self.traces))
        self.seen = self.seen or bool(self._control.within(data))

    def _text(self, path: Path, where: str) -> None:
        """JSON is searched as the strings it holds, other text for the rarer words."""
        data = path.read_bytes() if path.stat().st_size <= UNPACKED else b""
        if path.suffix == ".json":
            value = json.loads(data)
            self._bytes("\n".join(strings(value)).encode("utf-8", "replace"), where)
            if self.traces.named(value):
                self.report.found(where, "names it")
        elif path.relative_to(self.book).parts[0] not in OWN:
            with contextlib.suppress(UnicodeDecodeError):
                self._words(data.decode("utf-8"), where)

    def _words(self, text: str, where: str) -> None:
        if left := words(text) & self.traces.words:
            self.report.found(where, f"has the word {min(left)!r}")

    def _lance(self, path: Path, where: str) -> None:
        for batch in _batches(path):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if name == TOKENS:
                    for data in column.to_pylist():
                        self._vocabulary(data, where)
                elif (cells := _cells(column)) is not None:
                    self.report.cells += len(cells)
                    self._cells(cells, f"{where}, column {name}")
                else:
                    self.report.cells += len(column)

    def _cells(self, cells: list[bytes], where: str) -> None:
        self._bytes(b"\n".join(cells), where)
        texts = [cell.decode("utf-8", "replace") for cell in cells]
        # Of rows, those of the documents were found by their ids, and words of the others are not the rarer ones.
        if "lance/data/" not in where:
            self._words("\n".join(texts), where)
        if not self.traces.strings.isdisjoint(texts):
            self.report.found(where, "names it")

    def _vocabulary(self, data: bytes, where: str) -> None:
        dictionary = Dictionary(data)
        self.report.vocabularies += 1
        self.report.vocabulary += dictionary.count
        self.known |= any(token in dictionary for token in self._control_tokens)
        for token, word in self._rare.items():
            if token in dictionary and not self._said_elsewhere(word):
                self.report.found(where, f"the dictionary has the word {token!r}")

    @cached_property
    def _rare(self) -> dict[str, str]:
        """The rarer words as an index spells them (its stems), and a word each comes from."""
        return {token: word for word in sorted(self.traces.words) for token in _tokens(word)}

    def _said_elsewhere(self, word: str) -> bool:
        """Whether a passage of a version that stays has a word of this stem."""
        if word not in self._asked:
            from lance.query import MatchQuery

            query = MatchQuery(word, "searched")
            how = {"columns": ["id"], "full_text_query": query, "limit": 1, "disable_scoring_autoprojection": True}
            self._asked[word] = any(table.scanner(**how).to_table().num_rows for table in self._live)
        return self._asked[word]

    @cached_property
    def _live(self) -> list[Any]:
        found = {manifest.passages_table for manifest in manifests(self.book)}
        return [tables.open_at(self.book / tables.PASSAGES, version) for version in found if version is not None]

    @cached_property
    def _staying(self) -> list[str]:
        """Some passages of the live version."""
        version = read_head(self.book).passages_table
        if version is None:
            return []
        table = tables.open_at(self.book / tables.PASSAGES, version)
        texts: list[str] = table.scanner(columns=["text"], limit=50).to_table()["text"].to_pylist()
        return texts

    @cached_property
    def _control(self) -> Needles:
        found = [piece for text in self._staying for piece in pieces(text)]
        return Needles(piece.encode("utf-8", "replace") for piece in found[:100])

    @cached_property
    def _control_tokens(self) -> set[str]:
        return {token for text in self._staying for token in _tokens(text)}

    def _others(self) -> Iterator[list[str]]:
        """Texts of all rows of other documents, also deleted ones; rows and vectors of ours are left."""
        whole = (tables.DOCUMENTS, "id", ["name", "title", "text"])
        parts = (tables.PASSAGES, "document_id", ["heading"])  # the rest of a passage is its document's
        for table, key, said in (whole, parts):
            for path in sorted((self.book / table / "data").glob("*.lance")):
                where = f"{table}/data/{path.name}"
                for batch in _batches(path):
                    ids = batch.column(key).to_pylist()
                    ours = [id in self.traces.names for id in ids]
                    if any(ours):
                        self.report.found(where, f"{sum(ours)} rows of it")
                    if "vector" in batch.schema.names and len(batch):
                        self.traces.vectors -= heads(_vectors(batch, [not mine for mine in ours]))
                    for column in batch.select(said).columns:
                        yield [t or "" for t, mine in zip(column.to_pylist(), ours, strict=True) if not mine]


def _tokens(text: str) -> list[str]:
    import lance

    how = {name: value for name, value in indices.FULL_TEXT.items() if name != "with_position"}
    return [token.text for token in lance.tokenize(text, **how)]


def _vectors(batch: pa.RecordBatch, kept: list[bool]) -> Any:
    import numpy as np

    rows = batch.column("vector")
    return rows.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)[np.array(kept)]


def _is_lance(path: Path) -> bool:
    """Whether a file is a table or index of Lance's, which its last bytes say; its manifests are not packed."""
    if path.suffix == ".manifest":
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4))
        return file.read(4) == b"LANC"


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Everything a Lance file holds, unpacked, deleted rows too."""
    from lance.file import LanceFileReader

    yield from LanceFileReader(str(path)).read_all(batch_size=1024).to_batches()


def _cells(column: Any) -> list[bytes] | None:
    """The values of a column of texts or bytes, as bytes; None where it is of another kind."""
    import pyarrow as pa

    if column.type not in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        return None
    return [cell or b"" for cell in column.cast(pa.large_binary()).to_pylist()]


def _unpacked(path: Path, overlap: int) -> Iterator[bytes]:
    if path.suffix == ".gz":
        with gzip.open(path) as file:
            yield from _parts(file, overlap)
    else:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    yield from _parts(file, overlap)


def _parts(file: IO[bytes] | gzip.GzipFile, overlap: int) -> Iterator[bytes]:
    """What is in a file, some at a time; each begins with the last bytes of the one before."""
    part = b""
    while data := file.read(UNPACKED):
        yield (part := part[max(0, len(part) - overlap) :] + data)


def _mapped(path: Path) -> memoryview:
    import mmap

    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _what(needle: bytes, traces: Traces) -> str:
    if needle in traces.vectors:
        return "holds a vector of it"
    text = needle.decode("utf-8", "replace")
    return "holds its id" if text in traces.strings else f"says {text[:60]!r}"
