"""Tensors of texts in files: one small header that names them exactly, then their bytes. Nothing in a file is believed.

    byte 0    20  the format's name
         20   32  identity: who computed what from which tokens (a SHA-256 the caller makes)
         52    8  bytes after the header, little-endian
         60    4  CRC-32 of those bytes
         64        the tensors in order, each from a multiple of 64 bytes on

A file says nothing about how it is to be read: the reader knows which tensors it wants, and so the file's exact size
and all of its header but the checksum. It is read into memory of the process, not mapped: a mapping costs as much
once every byte is checked, and ends the process (SIGBUS) if anybody shortens the file later.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

FORMAT = b"openbook kv 1\n".ljust(20, b"\0")
HEADER, CHECKSUM, ALIGN = 64, 4, 64
SUFFIX, PARTIAL = ".kv", ".partial"
SPARE_BYTES = 1 << 30
"""So much of the disk is left to others, whatever the budget says."""
ABANDONED_SECONDS = 3600
"""A half-written file this old has no writer any more."""

Wanted = Sequence[tuple[tuple[int, ...], torch.dtype]]
"""Shape and dtype of each tensor of an entry."""


class Folder:
    """Entries of one make, `root/make/name.kv`; all under `root` share one budget, the longest unused leaves first.

    Processes share it without a lock: a file appears whole, by renaming, and one that goes while it is read is read to
    its end. A root or folder that is a link elsewhere is not used; neither is an entry that is not a plain file.
    """

    def __init__(self, root: Path, make: str, budget: int) -> None:
        self.root, self.path, self.budget = root, root / make, budget

    @property
    def usable(self) -> bool:
        """Whether entries may be kept here at all."""
        return self.budget > 0 and not self.root.is_symlink() and not self.path.is_symlink()

    def read(self, name: str, identity: bytes, wanted: Wanted) -> list[Tensor] | None:
        """The tensors of an entry in one piece of memory, and the entry marked as used; None if it is not whole."""
        if not self.usable:
            return None
        size, starts = _places(wanted)
        try:
            with _plain_file(self.path / f"{name}{SUFFIX}") as file:
                if os.fstat(file).st_size != HEADER + size:
                    return None
                header, data = bytearray(HEADER), torch.empty(size, dtype=torch.uint8)
                bytes_ = data.numpy().data
                if os.readv(file, [header, bytes_]) != HEADER + size:
                    return None
                if header != _header(identity, size, zlib.crc32(bytes_)):
                    return None
                with contextlib.suppress(OSError):  # a book that may only be read serves all the same
                    os.utime(file)
        except OSError:
            return None
        return [
            data[start : start + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for start, (shape, dtype) in zip(starts, wanted, strict=True)
        ]

    def holds(self, name: str, identity: bytes, wanted: Wanted) -> bool:
        """Whether an entry is there, which marks it as used; by size and header: `read` alone knows if it is whole."""
        if not self.usable:
            return False
        size, _ = _places(wanted)
        try:
            with _plain_file(self.path / f"{name}{SUFFIX}") as file:
                header, unchecked = os.read(file, HEADER), HEADER - CHECKSUM
                named = header[:unchecked] == _header(identity, size, 0)[:unchecked]
                if not named or os.fstat(file).st_size != HEADER + size:
                    return False
                with contextlib.suppress(OSError):
                    os.utime(file)
                return True
        except OSError:
            return False

    def write(self, name: str, identity: bytes, tensors: Sequence[Tensor]) -> bool:
        """Store an entry; False where it does not fit or the disk will not have it: a cache may be without it."""
        size, starts = _places([(tuple(t.shape), t.dtype) for t in tensors])
        if not self.usable or HEADER + size > self.budget:
            return False
        path = self.path / f"{name}{SUFFIX}"
        partial = path.with_name(f"{name}.{secrets.token_hex(6)}{PARTIAL}")
        data = torch.zeros(size, dtype=torch.uint8)
        for start, tensor in zip(starts, tensors, strict=True):
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            data[start : start + len(raw)] = raw
        bytes_ = data.numpy().data
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.path).free - size < SPARE_BYTES:
                return False
            with partial.open("xb") as file:
                file.write(_header(identity, size, zlib.crc32(bytes_)))
                file.write(bytes_)
            partial.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            return False
        return True

    @property
    def room(self) -> int:
        """Bytes that entries may occupy in all: the budget, or less where the disk has less to give."""
        if not self.usable:
            return 0
        return self._room(self.used)

    @property
    def used(self) -> int:
        """Bytes of the entries of all makes."""
        return sum(size for _, size, _ in self._entries())

    def _room(self, used: int) -> int:
        there = next(path for path in (self.root, *self.root.absolute().parents) if path.exists())
        return max(0, min(self.budget, used + shutil.disk_usage(there).free - SPARE_BYTES))

    def trim(self, reserve: int = 0) -> None:
        """Delete what has gone unused the longest until the rest, and `reserve` bytes more, are within the budget."""
        if not self.usable:
            return
        entries = sorted(self._entries())
        used = sum(size for _, size, _ in entries)
        excess = used + reserve - self._room(used)
        abandoned = time.time_ns() - ABANDONED_SECONDS * 10**9
        for used_ns, size, path in entries:
            if excess > 0 or (path.endswith(PARTIAL) and used_ns < abandoned):
                with contextlib.suppress(OSError):
                    Path(path).unlink()
                    excess -= size

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        """Last use (ns), bytes and path of each; what another process deletes meanwhile is passed over."""
        for folder in _scan(self.root):
            if folder.is_dir(follow_symlinks=False):
                for entry in _scan(Path(folder.path)):
                    # `.safetensors` is what an earlier openbook wrote: it is not read, but it takes room.
                    if entry.name.endswith((SUFFIX, PARTIAL, ".safetensors")):
                        with contextlib.suppress(OSError):
                            status = entry.stat(follow_symlinks=False)
                            if stat.S_ISREG(status.st_mode):
                                yield status.st_mtime_ns, status.st_size, entry.path


def size_of(wanted: Wanted) -> int:
    """Bytes of the file that holds these tensors."""
    return HEADER + _places(wanted)[0]


def _places(wanted: Wanted) -> tuple[int, list[int]]:
    """Bytes in all, and where each tensor begins."""
    starts, end = [], 0
    for shape, dtype in wanted:
        starts.append(end)
        end += -(-prod(shape) * dtype.itemsize // ALIGN) * ALIGN
    return end, starts


def _header(identity: bytes, size: int, checksum: int) -> bytes:
    return FORMAT + identity + size.to_bytes(8, "little") + checksum.to_bytes(CHECKSUM, "little")


@contextlib.contextmanager
def _plain_file(path: Path) -> Iterator[int]:
    """A file opened for reading; `OSError` for a link, and for what only looks like a file (a pipe would wait)."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(f"{path} is not a plain file")
        yield file
    finally:
        os.close(file)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
