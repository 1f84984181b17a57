"""Keys and values of texts that come back: kept in memory, and on disk, under byte budgets.

Reuse is exact and only exact: an entry answers for the very tokens it was made from, from position 0 on, under the
very weights (the folder carries the model's fingerprint).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from openbook.lm.cache.codecs import Parts, codec_named
from openbook.lm.cache.plan import Plan

UNWRITTEN_BYTES = 256 << 20
"""Entries that wait for the disk hold no more than this."""


class Prefix(NamedTuple):
    """The keys and values of one text of `length` tokens from position 0 on, as a codec wrote them.

    A tensor `[2, K, n, width]` a part and slot (keys, values): the n positions that its slot keeps (`Slot.kept`).
    """

    length: int
    codec: str
    slots: tuple[Parts, ...]

    @property
    def nbytes(self) -> int:
        """Bytes its tensors occupy."""
        return sum(part.nbytes for parts in self.slots for part in parts)

    def fits(self, plan: Plan, codec: str, dtype: torch.dtype) -> bool:
        """Whether these can be keys and values of this model, codec and precision: count, shapes, dtypes, finite."""
        if self.codec != codec or self.length < 1 or len(self.slots) != len(plan.slots):
            return False
        kind = codec_named(codec)
        for parts, slot in zip(self.slots, plan.slots, strict=True):
            n = slot.columns(self.length)
            wanted = [((2, slot.kv_heads, n, width), d) for width, d in kind.widths(slot.head_dim, dtype)]
            if [(tuple(part.shape), part.dtype) for part in parts] != wanted:
                return False
            if not bool(torch.isfinite(kind.decode(parts, dtype)).all()):
                return False
        return True


class PrefixStore:
    """Least recently used entries leave first, from memory (`budget` bytes) and from `folder` (`disk_budget`).

    What cannot be written, read or believed on disk is silently made again: a cache may be deleted at any time, and
    whoever can write a book's folder can write anything there. `accepts` says whether an entry read from disk is of
    the right make; a folder that is a link elsewhere is not used.
    """

    def __init__(
        self,
        budget: int,
        folder: Path | None = None,
        disk_budget: int = 0,
        accepts: Callable[[Prefix], bool] = lambda prefix: True,
    ) -> None:
        self.budget = budget
        linked = folder is not None and (folder.is_symlink() or folder.parent.is_symlink())
        self.folder = folder if disk_budget > 0 and not linked else None
        self.disk_budget = disk_budget
        self._accepts = accepts
        self._held: OrderedDict[str, Prefix] = OrderedDict()
        self._unwritten: dict[str, Prefix] = {}
        self._bytes = self._unwritten_bytes = 0

    def get(self, name: str, tokens: Sequence[int]) -> Prefix | None:
        """The entry made from these tokens under this name, or None."""
        key = _key(name, tokens)
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        prefix = self._read(key, len(tokens))
        if prefix is not None:
            self._hold(key, prefix)
        return prefix

    def put(self, name: str, tokens: Sequence[int], prefix: Prefix) -> None:
        """Keep the keys and values of these tokens. `name` says whose text it is, so that it can be forgotten."""
        key = _key(name, tokens)
        self._hold(key, prefix)
        if self.folder is not None:
            self._unwritten[key] = prefix
            self._unwritten_bytes += prefix.nbytes
            if self._unwritten_bytes > min(self.budget, UNWRITTEN_BYTES):
                self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet; apart from `put`, so that nobody waits for the disk before an answer."""
        for key, prefix in self._unwritten.items():
            self._write(key, prefix)
        if self._unwritten and self.folder is not None:
            with contextlib.suppress(OSError):
                self._trim(self.folder)
        self._unwritten.clear()
        self._unwritten_bytes = 0

    def _hold(self, key: str, prefix: Prefix) -> None:
        if prefix.nbytes > self.budget or key in self._held:
            return
        self._held[key] = prefix
        self._bytes += prefix.nbytes
        while self._bytes > self.budget:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= oldest.nbytes

    def _read(self, key: str, length: int) -> Prefix | None:
        if self.folder is None:
            return None
        path = self.folder / f"{key}.safetensors"
        try:
            if path.is_symlink() or path.stat().st_size > self.budget:
                return None
            prefix = _load(path)
            os.utime(path)
        except OSError:
            return None
        whole = prefix is not None and prefix.length == length
        return prefix if whole and prefix is not None and self._accepts(prefix) else None

    def _write(self, key: str, prefix: Prefix) -> None:
        if self.folder is None:
            return
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        path = self.folder / f"{key}.safetensors"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tensors = {
                f"{i}.{j}": part.cpu().contiguous()
                for i, parts in enumerate(prefix.slots)
                for j, part in enumerate(parts)
            }
            save_file(tensors, partial, metadata={"length": str(prefix.length), "codec": prefix.codec})
            partial.replace(path)
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _trim(self, folder: Path) -> None:
        ours = [
            (e.stat(), e.path)
            for e in os.scandir(folder)
            if e.name.endswith((".safetensors", ".partial")) and e.is_file(follow_symlinks=False)
        ]
        entries = sorted((status.st_mtime_ns, status.st_size, path) for status, path in ours)
        excess = sum(size for _, size, _ in entries) - self.disk_budget
        for _, size, path in entries:  # the oldest first: a read touches its entry
            if excess <= 0:
                return
            Path(path).unlink(missing_ok=True)
            excess -= size


def _load(path: Path) -> Prefix | None:
    """What a file holds, as it says; None if it is not of this make. Whether it can be believed is another matter."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said, names = file.metadata() or {}, sorted(file.keys())
            pairs = [tuple(int(number) for number in name.split(".")) for name in names]
            slots: dict[int, dict[int, torch.Tensor]] = {}
            for name, (slot, part) in zip(names, pairs, strict=True):
                slots.setdefault(slot, {})[part] = file.get_tensor(name)
        ordered = tuple(tuple(slots[i][j] for j in range(len(slots[i]))) for i in range(len(slots)))
        return Prefix(int(said["length"]), said["codec"], ordered)
    except (SafetensorError, KeyError, ValueError):
        return None


def _key(name: str, tokens: Sequence[int]) -> str:
    digest = hashlib.sha256(b",".join(b"%d" % t for t in tokens)).hexdigest()
    return f"{name}.{digest[:32]}"
