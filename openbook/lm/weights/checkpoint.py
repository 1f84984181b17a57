"""One way to open any checkpoint: what the model is, its weights under our names, its tokenizer.

A `.gguf` file or a folder with `config.json` and safetensors. Everything that can be known without reading the
weights is checked on opening: each parameter of the spec is there in its shape, and nothing is left over.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from openbook.errors import Fault
from openbook.lm.spec import Seq2SeqSpec
from openbook.lm.weights.config import FAMILIES, Spec, architecture_of, spec_from_config
from openbook.lm.weights.gguf import GGUFFile
from openbook.lm.weights.gguf_spec import family_of, spec_from_gguf
from openbook.lm.weights.matching import Made, match
from openbook.lm.weights.names import original, parameters
from openbook.lm.weights.pull import RECORD
from openbook.lm.weights.quants import QUANTS
from openbook.lm.weights.safetensors import SafetensorsFolder, read_json

if TYPE_CHECKING:
    from openbook.lm.tokenizer import Tokenizer
    from openbook.lm.weights.blocks import Blocks

OPENERS = {
    "load_model": "writes text",
    "load_encoder": "embeds texts",
    "load_classifier": "puts labels to texts",
    "load_seq2seq": "reads one text and writes another",
}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SAMPLES, SAMPLE = 64, 4096  # a fingerprint reads 64 samples of 4 KiB from each file of weights


class Source(Protocol):
    """Where tensors come from: a GGUF file or a folder of safetensors."""

    @property
    def size(self) -> int:
        """Bytes on disk."""

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """The tensor `name` as `dtype`."""

    def kinds(self) -> dict[str, int]:
        """How many tensors are of each kind."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: `spec` (what it is), `name`, `format`, `path`, and on demand weights and tokenizer."""

    path: Path
    name: str
    format: str
    spec: Spec
    source: Source
    made: Mapping[str, Made]  # how each parameter of ours is made of the file's tensors

    def state(self, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, torch.Tensor]]:
        """Each parameter under our name, dequantised to `dtype`, one at a time, in the order of the model.

        A tensor of the file is read once, and kept only until the last parameter that is made of it.
        """
        users = Counter(name for made in self.made.values() for name in made.names.values())
        held: dict[str, torch.Tensor] = {}

        def read(name: str) -> torch.Tensor:
            tensor = held.pop(name) if name in held else self.source.tensor(name, dtype)
            users[name] -= 1
            if users[name]:
                held[name] = tensor
            return tensor

        for ours, made in self.made.items():
            yield ours, made.of(read)

    def packed(self) -> Iterator[tuple[str, torch.Tensor | Blocks]]:
        """Each parameter under our name as the file packs it, where that is in blocks, else in fp32.

        What a recipe does to a matrix it may do to its rows of blocks: permute, cut and join them; none adds to them.
        """
        from openbook.lm.weights.blocks import Blocks

        file = self.source
        shapes = parameters(self.spec)
        for ours, made in self.made.items():
            kinds = {file.tensors[name].kind for name in made.names.values()} if isinstance(file, GGUFFile) else set()
            kind = QUANTS.get(next(iter(kinds), ""))
            if isinstance(file, GGUFFile) and len(kinds) == 1 and kind is not None and kind.weights > 1:
                *rows, columns = shapes[ours]
                raw = made.of(file.blocks) if len(rows) and columns % kind.weights == 0 else None
                if raw is not None and raw.shape == (*rows, columns // kind.weights * kind.bytes):
                    yield ours, Blocks(kind.name, raw, columns)
                    continue
            yield ours, made.of(lambda name: file.tensor(name, torch.float32))

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer, from the GGUF metadata or the folder's tokenizer.json."""
        from openbook.lm.tokenizer import Tokenizer

        if isinstance(self.source, GGUFFile):
            return Tokenizer.from_gguf(self.source.metadata, where=str(self.path))
        return Tokenizer.from_folder(self.path)

    def opened_by(self, opener: str) -> None:
        """Refuse to be opened by `opener`, a name of `OPENERS`, if this is another kind of model."""
        spec = self.spec
        if isinstance(spec, Seq2SeqSpec):
            right = "load_seq2seq"
        else:
            right = "load_model" if spec.head else "load_classifier" if spec.classifier else "load_encoder"
        if opener != right:
            raise Fault(
                f"{self.path} {OPENERS[right]}: {right} opens it; here a model is needed that {OPENERS[opener]}"
            )

    @property
    def parameters(self) -> int:
        """How many weights the model has; a tied head or shared embedding is counted once."""
        shapes = parameters(self.spec).items()
        return sum(math.prod(shape) for ours, shape in shapes if original(self.spec, ours) == ours)

    @property
    def bytes(self) -> int:
        """Bytes of the weights on disk."""
        return self.source.size

    @property
    def kinds(self) -> dict[str, int]:
        """How many tensors are stored as each kind, for example `{"Q4_1": 210, "F32": 61, "Q8_0": 1}`."""
        return self.source.kinds()

    @cached_property
    def fingerprint(self) -> str:
        """Sixty-four hex digits that name these weights, their config and their tokenizer in keys of caches.

        It is a SHA-256 of sizes, headers and samples of the data, so it costs milliseconds and tells checkpoints
        apart that differ by chance; it is no proof against someone who makes two files agree on purpose.
        """
        digest = hashlib.sha256(b"openbook fingerprint 1\n")
        if isinstance(self.source, SafetensorsFolder):
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
                file = self.path / name
                digest.update(hashlib.sha256(file.read_bytes() if file.is_file() else b"").digest())
            for file in self.source.files:
                with file.open("rb") as opened:
                    header = int.from_bytes(opened.read(8), "little") + 8
                _sample(digest, file, header)
        elif isinstance(self.source, GGUFFile):
            _sample(digest, self.path, self.source.data_start)
        return digest.hexdigest()


def _sample(digest: hashlib._Hash, file: Path, header: int) -> None:
    """Feed the digest a file's size, its first `header` bytes and samples spread evenly over the rest."""
    size = file.stat().st_size
    digest.update(f"{size} {header}\n".encode())
    with file.open("rb") as opened:
        digest.update(opened.read(header))
        for index in range(SAMPLES):
            opened.seek(header + max(0, size - header - SAMPLE) * index // (SAMPLES - 1))
            digest.update(opened.read(SAMPLE))


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a `.gguf` file or a folder of safetensors. Raises `Fault` naming what is wrong, file and tensor."""
    path = Path(path)
    if path.suffix.lower() in PICKLED:
        raise Fault(f"{path} is a pickle, which can run code; only safetensors and GGUF are read: convert it")
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        wrong = "is no file" if path.exists() else "does not exist"
        raise Fault(f"{path} {wrong}; give a .gguf file or a folder with config.json and safetensors")
    if path.suffix.lower() == ".safetensors":
        checkpoint = _open_folder(path.parent)
        if path.name not in {file.name for file in cast(SafetensorsFolder, checkpoint.source).files}:
            raise Fault(f"{path} is no part of the model in {path.parent}; give the folder")
        return checkpoint
    return _open_gguf(path)


def _open_gguf(path: Path) -> Checkpoint:
    file = GGUFFile.open(path)
    _whole(path, file.metadata)
    spec = _at(path, lambda: spec_from_gguf(file.metadata, file.tensors, file.tensor))
    shapes = {name: info.shape for name, info in file.tensors.items()}
    made = match(spec, family_of(file.metadata).names, shapes, path)
    return Checkpoint(path, _name(path.parent, path.stem), "gguf", spec, file, made)


def _whole(path: Path, metadata: Mapping[str, Any]) -> None:
    """Refuse what llama.cpp keeps in GGUF besides whole models: a part of one, an adapter, eyes for one."""
    count, number, kind = metadata.get("split.count"), metadata.get("split.no"), metadata.get("general.type", "model")
    if isinstance(count, int) and count > 1:
        part = f"{number + 1} of {count}" if isinstance(number, int) else f"one of {count}"
        raise Fault(
            f"{path} is part {part} of a split GGUF; join them with llama.cpp: "
            "llama-gguf-split --merge FIRST-PART JOINED.gguf, and give the joined file"
        )
    if kind != "model":
        raise Fault(f"{path} holds {repr(kind)[:80]}, not a whole model; give the model's own file")


def _open_folder(path: Path) -> Checkpoint:
    pickles = sorted(file.name for file in path.iterdir() if file.suffix.lower() in PICKLED)
    if pickles and not any(path.glob("*.safetensors")):
        raise Fault(
            f"{path / pickles[0]} is a pickle, which can run code; only safetensors and GGUF are read: convert it"
        )
    files = sorted(file.name for file in path.glob("*.gguf"))
    if files and not (path / "config.json").is_file():
        raise Fault(f"{path} has no config.json; give the path of a GGUF file in it: {', '.join(map(repr, files[:3]))}")
    config = read_json(path / "config.json")
    spec = _at(path, lambda: spec_from_config(config))
    table = FAMILIES[architecture_of(config)].names
    folder = SafetensorsFolder(path)
    made = match(spec, table, folder.shapes, path)
    folder.refused(name for each in made.values() for name in each.names.values())
    return Checkpoint(path, _name(path, path.resolve().name), "safetensors", spec, folder, made)


def _name(folder: Path, default: str) -> str:
    """What the model is called: by the record of a pulled one, else as its file or folder is."""
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    name = record.get("name")
    return name if isinstance(name, str) else default


def _at(path: Path, build: Callable[[], Spec]) -> Spec:
    """The spec that `build` makes; a `Fault` of it gets the path in front."""
    try:
        return build()
    except Fault as error:
        raise Fault(f"{path}: {error}") from error
