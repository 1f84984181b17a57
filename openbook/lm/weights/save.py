"""Writing a model folder: config.json, safetensors in shards, the tokenizer. Whole or not at all.

Where a family of transformers says exactly what the spec says, its config and names are written, so that other
programs read the folder; else our own (`own.py`). Which of the two is not decided by rules: a config is made, read as
any checkpoint's would be, and kept if what it says is the spec.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.layouts import Layout, Spec
from openbook.lm.weights.names import write
from openbook.lm.weights.safetensors import INDEX, SINGLE

if TYPE_CHECKING:
    from openbook.lm.tokenizer import Tokenizer

SHARD = 4 << 30  # bytes of tensors in one file, more than which is hard to move
CONFIG = "config.json"
UNFINISHED = ".openbook-unfinished-"  # begins the name of the folder in which a model is made
STALE = 86_400  # seconds
Progress = Callable[[str], None]


def save(
    folder: str | Path,
    spec: Spec,
    state: Iterable[tuple[str, Tensor]],
    layout: Layout,
    files: Mapping[str, bytes],
    *,
    tokenizer: Tokenizer | None = None,
    dtype: torch.dtype = torch.bfloat16,
    force: bool = False,
    shard: int = SHARD,
    progress: Progress | None = None,
) -> Path:
    """Write a model whose parameters under our names are `state`, with `files` beside it (`tokenizer_files`).

    The folder is made beside its place, read back, compared with `spec` and `tokenizer`, and moved into place: a
    kill leaves the place as it was, or the whole. Raises `Fault` for a place that is taken (unless `force` and it
    holds a model), and for what does not come back as it was.
    """
    folder = Path(folder)
    free_place(folder, force)
    kind = str(dtype).removeprefix("torch.")
    config = json.dumps({**layout.config, "dtype": kind}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with _workplace(folder) as work:
        made = work / folder.resolve().name  # its last name, since a checkpoint is called as its folder
        made.mkdir()
        for name, content in {**files, CONFIG: config.encode()}.items():
            (made / name).write_bytes(content)
        written = ((name, tensor.to(dtype)) for name, tensor in write(spec, layout.names, state))
        _write_shards(made, written, shard, progress)
        if open_checkpoint(made).spec != spec:
            raise Fault(f"{folder}: what was written does not read back as the same model; nothing was kept")
        if tokenizer is not None:
            _compare(tokenizer, made, folder)
        _sync(made)
        _put(made, folder, work)
    return folder


def _compare(tokenizer: Tokenizer, made: Path, folder: Path) -> None:
    """Refuse a tokenizer that does not come back as it was."""
    written = type(tokenizer).from_folder(made)
    for part in ("vocabulary", "bos_id", "eos_ids", "control_ids", "chat_template"):
        if getattr(written, part) != getattr(tokenizer, part):
            raise Fault(f"{folder}: the {part} of the tokenizer does not read back the same; nothing was kept")


def free_place(folder: Path, force: bool) -> None:
    """Refuse a place where something stands: anything without `force`, what is not a model's folder, and that alone,
    even with it: all that is in it would go."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    model = folder.is_dir() and not folder.is_symlink() and (folder / CONFIG).is_file()
    if not model or not any(folder.glob("*.safetensors")):
        raise Fault(f"{folder} exists and is no model's folder; give another place")
    if any(path.is_dir() for path in folder.iterdir()):
        raise Fault(f"{folder} holds other folders besides a model; give another place")
    if not force:
        raise Fault(f"{folder} holds a model; give another place, or --force to replace it")


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, so that moving out of it is one rename on one file system."""
    parent = folder.resolve().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        work = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    except OSError as error:
        raise Fault(f"{parent} cannot be written: {error}") from error
    try:
        yield work
    except OSError as error:
        raise Fault(f"{folder} could not be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what killed conversions left beside the place; what is a day old is nobody's."""
    for left in parent.glob(f"{UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)


def _write_shards(folder: Path, tensors: Iterable[tuple[str, Tensor]], most: int, progress: Progress | None) -> None:
    """The tensors in files of at most `most` bytes (a larger tensor alone), with an index if there is more than one.
    No more than one file's tensors are held at a time."""
    held: dict[str, Tensor] = {}
    parts: list[dict[str, int]] = []

    def flush() -> None:
        if held:
            _write_file(folder / f"part-{len(parts)}.safetensors", held)
            parts.append({name: tensor.nbytes for name, tensor in held.items()})
            held.clear()

    for name, tensor in tensors:
        if held and sum(t.nbytes for t in held.values()) + tensor.nbytes > most:
            flush()
        held[name] = tensor.contiguous()
        if progress is not None:
            progress(name)
    flush()
    names = [f"model-{n + 1:05}-of-{len(parts):05}.safetensors" for n in range(len(parts))]
    names = [SINGLE] if len(parts) == 1 else names
    for number, name in enumerate(names):
        (folder / f"part-{number}.safetensors").rename(folder / name)
    if len(parts) > 1:
        where = {tensor: file for file, part in zip(names, parts, strict=True) for tensor in part}
        index = {"metadata": {"total_size": sum(map(sum, (p.values() for p in parts)))}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_file(file: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, str(file), metadata={"format": "pt"})
    except SafetensorError as error:
        raise Fault(f"{file.name} could not be written: {error}") from error
    file.chmod((file.parent / CONFIG).stat().st_mode & 0o777)  # the library makes files for their owner alone


def _sync(folder: Path) -> None:
    """Bring the folder and all files in it to the disk."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _put(made: Path, folder: Path, work: Path) -> None:
    """Move the finished folder into place; a model that stood there goes with the workplace."""
    place = folder.resolve()
    if place.exists():
        place.rename(work / ".old")
    try:
        made.rename(place)
    except OSError:
        if (work / ".old").exists() and not place.exists():
            (work / ".old").rename(place)
        raise


def tokenizer_files(path: Path) -> dict[str, bytes]:
    """The files of a checkpoint's tokenizer by name: a folder's as they are, a GGUF file's written as a folder has
    them, so that the same text gives the same ids."""
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in BESIDE if (path / name).is_file()}
    from openbook.lm.weights.gguf import GGUFFile

    return _from_gguf(GGUFFile.open(path).metadata, str(path))


BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "generation_config.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "sentence_bert_config.json",
)  # fmt: skip


def _from_gguf(metadata: Mapping[str, Any], where: str) -> dict[str, bytes]:
    from openbook.lm.tokenizer import Tokenizer
    from openbook.lm.weights.tokenizer_gguf import definition

    tokenizer = Tokenizer.from_gguf(metadata, where)
    tokens = metadata["tokenizer.ggml.tokens"]

    def token(kind: str) -> str | None:
        index = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        return tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else None

    settings = {f"{kind}_token": token(kind) for kind in ("bos", "eos")}
    settings |= {"unk_token": token("unknown"), "pad_token": token("padding")}
    settings |= {"chat_template": tokenizer.chat_template, "tokenizer_class": "PreTrainedTokenizerFast"}
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_id, "eos_token_id": sorted(tokenizer.eos_ids)}
    contents: dict[str, dict[str, Any]] = {
        "tokenizer.json": definition(metadata, where),
        "tokenizer_config.json": settings | {"clean_up_tokenization_spaces": False},
        "generation_config.json": ends,
    }
    return {
        name: (
            json.dumps({k: v for k, v in content.items() if v is not None}, ensure_ascii=False, indent=1) + "\n"
        ).encode()
        for name, content in contents.items()
    }
