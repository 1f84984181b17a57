"""A reader of GGUF files, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

The file is mapped, not read: opening costs its header alone, and a tensor's bytes are touched when it is asked for.
A file comes from anywhere, so every length and offset in it is checked against the file before it is used; what
does not hold is a `Fault` of one line that names the file.
"""

from __future__ import annotations

import math
import mmap
import struct
import warnings
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openbook.errors import Fault
from openbook.lm.weights.quants import QUANTS, dequantize, kind_of

MAX_NAME = 1024  # letters of a key or a tensor's name; GGUF allows tensors 64
MAX_STRING = 1 << 24  # bytes; the longest honest string is a chat template
MAX_ENTRIES = 1 << 22  # of one array; the largest vocabularies hold 2^18 tokens
MAX_KEYS = 1 << 14
MAX_TENSORS = 1 << 18

# GGUF value types: number → (struct code, size in bytes).
_SCALARS = {
    0: ("B", 1), 1: ("b", 1), 2: ("H", 2), 3: ("h", 2), 4: ("I", 4), 5: ("i", 4),
    6: ("f", 4), 7: ("?", 1), 10: ("Q", 8), 11: ("q", 8), 12: ("d", 8),
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is: `shape` outermost dimension first, `offset` from the start of the file, both in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    nbytes: int

    @property
    def count(self) -> int:
        """How many weights it has."""
        return math.prod(self.shape)


class GGUFFile:
    """An open GGUF file: `metadata` by key, `tensors` by name, and `tensor(name)` unpacked."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path = path
        self._view = view
        header = _Header(path, view)
        self.version = header.version
        self.metadata: dict[str, Any] = header.metadata
        self.tensors: dict[str, TensorInfo] = header.tensors
        self.data_start = header.data_start

    @classmethod
    def open(cls, path: str | Path) -> GGUFFile:
        """Map `path` and read its header. A `Fault` says what is wrong with a file that is not a whole GGUF."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise Fault(f"{path} cannot be read: {error}") from error
        return cls(path, memoryview(mapped))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._view)

    def bytes(self, start: int, stop: int) -> bytes:
        """The bytes of the file from `start` to `stop`."""
        return bytes(self._view[start:stop])

    def tensor(self, name: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The tensor `name`, dequantised to `dtype` in its row-major shape."""
        if name not in self.tensors:
            raise Fault(f"{self.path} has no tensor {name}")
        info = self.tensors[name]
        raw = np.frombuffer(self._view, np.uint8, info.nbytes, info.offset)
        out = torch.empty(info.count, dtype=dtype)
        dequantize(QUANTS[info.kind], raw, out)
        return out.reshape(info.shape)

    def blocks(self, name: str) -> torch.Tensor:
        """The tensor `name` as it is packed, uint8 `[..., rows, bytes of a row]`, in the file's memory: read only."""
        info = self.tensors[name]
        raw = np.frombuffer(self._view, np.uint8, info.nbytes, info.offset)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has no tensors that cannot be written; nobody writes this one
            return torch.from_numpy(raw).reshape(*info.shape[:-1], -1)

    def kinds(self) -> dict[str, int]:
        """How many tensors are of each kind, the most common first."""
        return dict(Counter(info.kind for info in self.tensors.values()).most_common())


class _Header:
    """One pass over the header; `at` is the position, and nothing is believed before it is checked."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path, self.view, self.at = path, view, 0
        self.version = self._version()
        tensor_count, key_count = self._number("Q"), self._number("Q")
        self._bound("tensors", tensor_count, MAX_TENSORS)
        self._bound("metadata keys", key_count, MAX_KEYS)
        self.metadata: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._name()
            self._refuse(key in self.metadata, f"names the metadata key {key!r} twice")
            self.metadata[key] = self._value(self._number("I"))
        declared = [self._declaration() for _ in range(tensor_count)]
        self.data_start = self._aligned()
        self.tensors: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in declared:
            self._refuse(name in self.tensors, f"names the tensor {name!r} twice")
            self.tensors[name] = self._placed(name, shape, kind, offset)
        self._check_overlap()

    def _fault(self, problem: str) -> Fault:
        return Fault(f"{self.path} {problem}; download it again")

    def _refuse(self, wrong: bool, problem: str) -> None:
        if wrong:
            raise self._fault(problem)

    def _bound(self, what: str, count: int, most: int) -> None:
        self._refuse(count > most, f"declares {count} {what} (at most {most} are read): it is corrupt")

    def _version(self) -> int:
        if bytes(self.view[:4]) != b"GGUF":
            raise Fault(f"{self.path} is not a GGUF file: it does not begin with the letters GGUF")
        self.at = 4
        version = int(self._number("I"))
        if version in (2, 3):
            return version
        if version & 0xFFFF == 0:
            raise Fault(f"{self.path} is a big-endian GGUF, which is not read; take the little-endian file")
        raise Fault(f"{self.path} is GGUF version {version}; versions 2 and 3 are read: convert it")

    def _take(self, size: int) -> memoryview:
        end = self.at + size
        if end > len(self.view):
            raise self._fault(f"is truncated: its header needs bytes {self.at}–{end}, the file has {len(self.view)}")
        piece = self.view[self.at : end]
        self.at = end
        return piece

    def _number(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _string(self) -> str:
        length = self._number("Q")
        self._bound("bytes in one string", length, MAX_STRING)
        try:
            return str(self._take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise self._fault(f"has a string at byte {self.at - length} that is not UTF-8") from error

    def _name(self) -> str:
        """A key or the name of a tensor: printable, because messages of one line show it."""
        name = self._string()
        self._bound("letters in one name", len(name), MAX_NAME)
        self._refuse(not name.isprintable(), f"has the name {name[:80]!r}, which cannot be printed")
        return name

    def _strings(self, count: int) -> list[str]:
        """`count` strings: a vocabulary has 10⁵ of them, so this is one loop and not `_string` again and again."""
        view, at, size, read = self.view, self.at, len(self.view), _LENGTH.unpack_from
        strings = []
        for _ in range(count):
            start = at + 8
            end = start + read(view, at)[0] if start <= size else size + 1
            if end > size or end - start > MAX_STRING:
                break
            try:
                strings.append(str(view[start:end], "utf-8"))
            except UnicodeDecodeError:
                break
            at = end
        self.at = at
        if len(strings) < count:
            self._string()  # the one that stopped the loop: says what is wrong with it
        return strings

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind][0])
        if kind == _STRING:
            return self._string()
        self._refuse(kind != _ARRAY, f"has a metadata value of unknown type {kind}")
        return self._array(self._number("I"), self._number("Q"))

    def _array(self, kind: int, count: int) -> list[Any]:
        self._bound("entries in one array", count, MAX_ENTRIES)
        if kind == _STRING:
            return self._strings(count)
        self._refuse(kind not in _SCALARS, f"has a metadata array of type {kind}, which is not read")
        code, size = _SCALARS[kind]
        return list(struct.unpack(f"<{count}{code}", self._take(count * size)))

    def _declaration(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, kind number and offset in the data, as the file declares a tensor (innermost size first)."""
        name = self._name()
        dimensions = self._number("I")
        self._refuse(not 1 <= dimensions <= 4, f"gives tensor {name!r} {dimensions} dimensions, not 1 to 4")
        sizes = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        kind, offset = struct.unpack("<IQ", self._take(12))
        return name, sizes[::-1], kind, offset

    def _alignment(self) -> int:
        alignment = self.metadata.get("general.alignment", 32)
        good = isinstance(alignment, int) and 1 <= alignment <= 1 << 16 and alignment & (alignment - 1) == 0
        self._refuse(not good, f"has general.alignment {repr(alignment)[:80]}, which is not a power of two")
        return int(alignment)

    def _aligned(self) -> int:
        alignment = self._alignment()
        return -(-self.at // alignment) * alignment

    def _placed(self, name: str, shape: tuple[int, ...], number: int, offset: int) -> TensorInfo:
        """The tensor with its place in the file, once it is known to be there."""
        try:
            kind = kind_of(number)
        except Fault as error:
            raise Fault(f"{self.path}: {name}: {error}") from error
        count = math.prod(shape)
        self._refuse(count == 0, f"gives tensor {name!r} the empty shape {shape}")
        self._refuse(shape[-1] % kind.weights != 0, f"gives {kind.name} tensor {name!r} rows of {shape[-1]} weights")
        self._refuse(offset % self._alignment() != 0, f"puts tensor {name!r} at the unaligned offset {offset}")
        start, nbytes = self.data_start + offset, count // kind.weights * kind.bytes
        end = start + nbytes
        self._refuse(
            end > len(self.view),
            f"is truncated: tensor {name} needs bytes {start}–{end}, the file has {len(self.view)}",
        )
        return TensorInfo(name, shape, kind.name, start, nbytes)

    def _check_overlap(self) -> None:
        # A byte of the file is one tensor's: so what is allocated is in proportion to the file, whatever it declares.
        placed = sorted(self.tensors.values(), key=lambda info: info.offset)
        for first, second in pairwise(placed):
            overlap = second.offset < first.offset + first.nbytes
            self._refuse(overlap, f"puts tensors {first.name} and {second.name} on the same bytes")
