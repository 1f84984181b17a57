"""A folder of safetensors as the Hugging Face hub lays it out: one file, or shards with an index."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from openbook.errors import Fault
from openbook.lm.weights.matching import listed

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_JSON = 1 << 27  # bytes; the largest tokenizer.json of the hub has 33 MB
MAX_TENSORS = 1 << 18  # of a folder
MAX_NAME = 1024  # letters of a tensor's name
MAX_FILE_NAME = 200
FLOATS = frozenset({"F32", "F16", "BF16", "F64"})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a `Fault` names a file that is not one."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise Fault(f"{path} is larger than {MAX_JSON} bytes, which is no configuration")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Fault(f"{path} is missing; a model folder needs it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise Fault(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise Fault(f"{path} holds {type(value).__name__}, not an object")
    return value


class SafetensorsFolder:
    """The tensors of a folder by name: shapes and kinds from the headers, data when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _files(folder)
        self._handles: dict[str, Any] = {}
        self._kinds: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in self.files:
            self._open(file)

    def _open(self, file: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            handle: Any = safe_open(str(file), framework="pt")
            names = list(handle.keys())
        except (OSError, SafetensorError) as error:
            words = " ".join(str(error).split())[:200]  # it repeats names out of the file
            raise Fault(f"{file} is not a whole safetensors file ({words}); download it again") from error
        if len(self.shapes) + len(names) > MAX_TENSORS:
            raise Fault(f"{file} brings the tensors to more than {MAX_TENSORS}, which no model has; it is corrupt")
        for name in names:
            if not name.isprintable() or len(name) > MAX_NAME:
                raise Fault(f"{file} names a tensor {name[:80]!r}, which no model does; it is corrupt")
            if name in self.shapes:
                raise Fault(f"{file} holds tensor {name} a second time; the shards do not belong together")
            piece = handle.get_slice(name)
            self.shapes[name], self._kinds[name] = tuple(piece.get_shape()), str(piece.get_dtype())
            self._handles[name] = handle

    def refused(self, names: Iterable[str]) -> None:
        """Refuse tensors, of those with these `names`, that are stored as something else than floats."""
        others: dict[str, list[str]] = {}
        for name in names:
            if self._kinds[name] not in FLOATS:
                others.setdefault(self._kinds[name], []).append(name)
        for kind, wrong in others.items():
            raise Fault(
                f"{self.folder}: {listed(wrong)} stored as {kind}; only {', '.join(sorted(FLOATS))} are read: "
                "take the checkpoint it was made from, or a GGUF file"
            )

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The tensor `name` in `dtype`, a copy of its own; a `Fault` if it is stored as something else than floats."""
        self.refused([name])
        loaded: torch.Tensor = self._handles[name].get_tensor(name)
        return loaded.to(dtype)

    def kinds(self) -> dict[str, int]:
        """How many tensors are of each kind, the most common first."""
        return dict(Counter(self._kinds.values()).most_common())

    @property
    def size(self) -> int:
        """Bytes of the files of tensors."""
        return sum(file.stat().st_size for file in self.files)


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        there = [file.name for file in sorted(folder.glob("*.safetensors")) if file.is_file()]
        more = f"; it holds {', '.join(map(repr, there[:3]))}: if that is the whole model, call it {SINGLE}"
        raise Fault(f"{folder} holds neither {SINGLE} nor {INDEX}{more if there else ''}")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Fault(f"{folder / INDEX} has no weight_map")
    files = []
    for name in sorted({str(name) for name in weight_map.values()}):
        # An index names files beside itself; anything else would let it read what it should not.
        if name != Path(name).name or not name.endswith(".safetensors") or len(name) > MAX_FILE_NAME:
            raise Fault(f"{folder / INDEX} names {repr(name)[:80]}, which is not a safetensors file of its folder")
        if not (folder / name).is_file():
            raise Fault(f"{folder / name} is missing, and the index names it; download it again")
        files.append(folder / name)
    return files
