"""What is derived of all lines, kept so that a graph opens without deriving it again: `graph/derived-0123….npz`.

The file's name and first bytes are a hash of all that it was derived from: the lines' bytes, which of them the version
has, how they are laid over each other, where the passages are. One that does not fit, is not whole (a hash of what
follows) or has a number out of place is not believed, and derived again. Whoever writes lines, or forgets, sweeps all
of them away.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from openbook.book import versions
from openbook.book.graph.derive import Derived, Places, Tied
from openbook.book.graph.extract import KINDS
from openbook.book.graph.stored import FOLDER, damaged, read_listing, steadily, writing
from openbook.book.manifest import BookFault, sync

if TYPE_CHECKING:
    from openbook.book.store import Book

VERSION = 1
"""Raised when the same lines are derived otherwise, or kept otherwise."""
LEAST = 20_000
"""Mentions of a graph that is kept: a smaller one is derived as quickly as read."""
LONGEST = 1 << 30
"""Bytes of a file that is written or read."""
VERSIONS = 2
"""Versions that are kept, the last ones used."""
NAME = "derived-*.npz"
_TEXTS = ("documents", "normals", "shown", "names", "words", "types", "told")
_MATRICES = ("count_PE", "said_SE", "count_PW")


def fingerprint(folder: Path, lines: list[Path], made: str, places: Places) -> bytes:
    """32 bytes that stand for all that a graph is derived from; `lines` are folders of lines."""
    digest = hashlib.sha256(f"{VERSION} {made}".encode())
    for of in lines:
        digest.update(steadily(of, _hashed))
    for texts in (places.ids, places.documents, places.headings):
        digest.update(_blob(texts))
    for numbers in (places.rows_P, places.starts_P, places.ends_P):
        digest.update(numbers.tobytes())
    return digest.digest()


def _hashed(folder: Path) -> bytes:
    """The hashes of the segments that count."""
    listing, found = read_listing(folder), list[bytes]()
    for name in listing.segments if listing else ():
        try:
            with (folder / name).open("rb") as file:
                found.append(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise damaged(folder / name) from error
    return b"".join(found)


def path_of(folder: Path, key: bytes) -> Path:
    """Where what has this fingerprint is kept."""
    return folder / NAME.replace("*", key.hex()[:16])


def keep(book: Book, key: bytes, derived: Derived, documents: list[str]) -> None:
    """Write what was derived, unless it is small or the folder cannot be written: it is a help and no more."""
    if len(derived.mentions_R4) < LEAST:
        return
    data = _packed(derived, documents)
    folder = book.path / FOLDER
    path = path_of(folder, key)
    if len(data) > LONGEST:
        return
    with suppress(OSError, BookFault), writing(folder):  # which forgetting takes last
        if versions.gone(book.path, book.version):
            return
        fresh = path.with_name(path.name + ".new")
        try:
            with fresh.open("wb") as file:
                file.write(key + hashlib.sha256(data).digest() + data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
        for old in sorted(folder.glob(NAME), key=lambda each: each.stat().st_mtime)[:-VERSIONS]:
            old.unlink()
        sync(folder)


def recall(folder: Path, key: bytes, places: Places) -> tuple[Derived, list[str]] | None:
    """What was derived, and the documents' ids in their order; None where nothing sound of this fingerprint is kept."""
    try:
        with path_of(folder, key).open("rb") as file:
            head, data = file.read(64), file.read(LONGEST + 1)
        if len(data) > LONGEST or head != key + hashlib.sha256(data).digest():
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            if any(each.compress_type for each in arrays.zip.infolist()):
                return None  # `keep` packs nothing: who did may have packed more than memory holds
            return _unpacked(arrays, len(places.ids))
    except (OSError, ValueError, KeyError, EOFError, IndexError, TypeError, MemoryError, BadZipFile):
        return None


def _blob(texts: list[str]) -> bytes:
    """Texts with their lengths before them."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    lengths = np.array([len(encoded), *map(len, encoded)], dtype=np.int64)
    return lengths.tobytes() + b"".join(encoded)


def _texts(blob: Any) -> list[str]:
    data = blob.tobytes()
    count = int(np.frombuffer(data, np.int64, 1)[0])
    ends = np.cumsum(np.frombuffer(data, np.int64, count + 1))  # of which the first is the count
    ends += 8 * (count + 1) - count
    if count < 0 or (np.diff(ends) < 0).any() or int(ends[-1]) != len(data):
        raise ValueError
    whole = memoryview(data)
    bounds = ends.tolist()
    return [str(whole[a:b], "utf-8", "surrogatepass") for a, b in pairwise(bounds)]


def _packed(d: Derived, documents: list[str]) -> bytes:
    texts = {
        "documents": documents, "normals": d.normals, "shown": d.shown, "names": list(d.names),
        "words": sorted(d.words, key=d.words.__getitem__), "types": list(d.types.values()),
        "told": [tie.what for tie in d.ties],
    }  # fmt: skip
    arrays: dict[str, Any] = {name: np.frombuffer(_blob(texts[name]), np.uint8) for name in _TEXTS}
    for name in _MATRICES:
        matrix = getattr(d, name)
        arrays |= {f"{name}.{part}": getattr(matrix, part) for part in ("data", "indices", "indptr")}
        arrays[f"{name}.shape"] = np.array(matrix.shape, dtype=np.int64)
    arrays |= {name: getattr(d, name) for name in _NUMBERS}
    arrays["entity_N"] = np.array(list(d.names.values()), dtype=np.int64)
    arrays["types_of"] = np.array(list(d.types), dtype=np.int64)
    arrays["ties_T4"] = np.array([tie[:4] for tie in d.ties], dtype=np.int64).reshape(-1, 4)
    packed = io.BytesIO()
    np.savez(packed, **arrays)
    return packed.getvalue()


_NUMBERS = ("kinds_E", "spans_S2", "document_S", "passage_S", "about_D", "informative_E", "mentions_R4")


def _unpacked(arrays: Any, passages: int) -> tuple[Derived, list[str]]:
    from scipy import sparse

    texts = {name: _texts(arrays[name]) for name in _TEXTS}
    made: dict[str, Any] = {name: arrays[name] for name in _NUMBERS}
    for name in _MATRICES:
        parts = tuple(arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
        kind = sparse.csc_matrix if name == "count_PW" else sparse.csr_matrix
        made[name] = kind(parts, shape=tuple(arrays[f"{name}.shape"].tolist()))
        made[name].check_format(full_check=True)
    entity_N, types_of, ties_T4 = arrays["entity_N"], arrays["types_of"], arrays["ties_T4"]
    _check(made, texts, entity_N, types_of, ties_T4, passages)
    forms: dict[int, list[str]] = defaultdict(list)
    for name, entity in zip(texts["names"], entity_N.tolist(), strict=True):
        forms[entity].append(name)
    derived = Derived(
        normals=texts["normals"],
        shown=texts["shown"],
        names=dict(zip(texts["names"], entity_N.tolist(), strict=True)),
        forms=dict(forms),
        words={word: i for i, word in enumerate(texts["words"])},
        types=dict(zip(types_of.tolist(), texts["types"], strict=True)),
        ties=[Tied(a, b, c, d, what) for (a, b, c, d), what in zip(ties_T4.tolist(), texts["told"], strict=True)],
        **made,
    )
    return derived, texts["documents"]


def _check(
    made: dict[str, Any], texts: dict[str, list[str]], entity_N: Any, types_of: Any, ties_T4: Any, passages: int
) -> None:
    """Whether all numbers fit each other; ValueError where not: what follows would read what is not there."""
    E, S, D = len(texts["normals"]), len(made["spans_S2"]), len(texts["documents"])
    bounds = [
        (made["kinds_E"], len(KINDS)), (made["document_S"], D), (made["passage_S"], max(1, passages)), (entity_N, E),
        (made["about_D"] + 1, E + 1), (made["mentions_R4"][:, 0], S), (made["mentions_R4"][:, 1], E), (types_of, E),
        (ties_T4[:, :2].ravel(), E), (ties_T4[:, 2:].ravel(), S),
    ]  # fmt: skip
    inside = all(each.dtype == np.int64 and ((each >= 0) & (each < most)).all() for each, most in bounds)
    shapes = {
        "kinds_E": (E,), "informative_E": (E,), "spans_S2": (S, 2), "document_S": (S,), "passage_S": (S,),
        "about_D": (D,), "count_PE": (passages, E), "said_SE": (S, E),
        "count_PW": (passages, max(1, len(texts["words"]))),
    }  # fmt: skip
    fitting = all(made[name].shape == shape for name, shape in shapes.items()) and len(texts["shown"]) == E
    if not (inside and fitting and made["informative_E"].dtype == np.float64 and (made["spans_S2"] >= 0).all()):
        raise ValueError
