"""Files of weights for contestants: one model in the formats rivals read, and a model of 1B shape with random weights.

They are made once, under openbook's home, each moved into place when it is whole.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openbook.errors import Fault
from openbook.home import home
from openbook.measure.speed.environments import LLAMA_CPP
from openbook.measure.speed.process import Worker

if TYPE_CHECKING:
    from openbook.lm.weights.checkpoint import Checkpoint
    from openbook.measure.speed.material import Material

ALIGNMENT = 32


def _place(name: str) -> Path:
    folder = home() / "rivals" / "models"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


@contextmanager
def _fresh(path: Path) -> Iterator[Path]:
    """A name to write under; what is there at the end is moved to `path`."""
    fresh = path.with_name(f".{path.name}")
    try:
        yield fresh
        fresh.replace(path)
    except OSError as error:
        raise Fault(f"{path} could not be written: {error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def requantised(checkpoint: Checkpoint, kind: str, threads: int, tell: Callable[[str], None]) -> Path:
    """The model in another format, written by llama.cpp. Raises `Fault` for no GGUF, and where llama.cpp cannot be."""
    if checkpoint.path.suffix != ".gguf":
        raise Fault(f"llama.cpp reads GGUF files, and {checkpoint.path} is none")
    path = _place(f"{checkpoint.name}-{checkpoint.fingerprint[:12]}.{kind}.gguf")
    if not path.is_file():
        LLAMA_CPP.install(tell)
        tell(f"{checkpoint.name} in {kind} …")
        worker = Worker("llama_cpp", LLAMA_CPP, threads)
        try:
            with _fresh(path) as fresh:
                worker.call("quantize", source=str(checkpoint.path), target=str(fresh), kind=kind, threads=threads)
        finally:
            worker.close()
    return path


def as_folder(checkpoint: Checkpoint, tell: Callable[[str], None]) -> Path:
    """The model as a folder of bf16 safetensors that transformers reads."""
    if checkpoint.path.is_dir():
        return checkpoint.path
    path = _place(f"{checkpoint.name}-{checkpoint.fingerprint[:12]}-bf16")
    if not path.is_dir():
        import torch

        from openbook.lm.convert import convert_checkpoint, decoder_or_encoder

        tell(f"{checkpoint.name} as a folder of bf16 …")
        convert_checkpoint(checkpoint, decoder_or_encoder(checkpoint), path, dtype=torch.bfloat16)
    return path


def book(material: Material, count: int, encoder: Path, tell: Callable[[str], None]) -> Path:
    """A book of `count` documents of 100 tokens each, a passage a document; made once."""
    from openbook.book.store import open_book

    texts = [material.tokenizer.decode(tokens) for tokens in material.prompts(count, 100)]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    made = open_book(home() / "books" / f"speed-{count}-{digest}")
    if len(made.documents()) < count:
        from openbook.lm.encoder import load_encoder

        tell(f"a book of {count:,} passages …")
        with tempfile.TemporaryDirectory() as folder:
            for i, text in enumerate(texts):
                (Path(folder) / f"{i:04}.txt").write_text(text, encoding="utf-8")
            made.add(folder, encoder=load_encoder(encoder))
    return made.path


@dataclass(frozen=True)
class Shape:
    """A Llama by its sizes; its head is tied to its embedding."""

    layers: int = 16
    width: int = 2048
    inner: int = 8192
    heads: int = 32
    kv_heads: int = 8

    @property
    def name(self) -> str:
        """For files."""
        return f"llama-{self.layers}x{self.width}"


def random_llama(like: Checkpoint, kind: str, tell: Callable[[str], None], shape: Shape | None = None) -> Path:
    """A GGUF file of that shape (1.07 billion weights) in Q8_0 or Q4_0: random blocks, the tokenizer of `like`."""
    from openbook.lm.weights.gguf import GGUFFile

    shape = shape or Shape()
    if not isinstance(like.source, GGUFFile):
        raise Fault(f"the random model takes the tokenizer of a GGUF file, and {like.path} is none")
    path = _place(f"{shape.name}-{like.fingerprint[:12]}.{kind}.gguf")
    if not path.is_file():
        tell(f"random weights of 1B shape in {kind} …")
        tokenizer = {key: value for key, value in like.source.metadata.items() if key.startswith("tokenizer.")}
        with _fresh(path) as fresh:
            write_gguf(
                fresh, _metadata(shape) | tokenizer, _shapes(shape, len(tokenizer["tokenizer.ggml.tokens"])), kind
            )
    return path


def weight_bytes(path: Path) -> int:
    """Bytes of the file's matrices: what one step of a model with a tied head reads."""
    from openbook.lm.weights.gguf import GGUFFile

    return sum(info.nbytes for info in GGUFFile.open(path).tensors.values() if len(info.shape) > 1)


def _metadata(shape: Shape) -> dict[str, Any]:
    head = shape.width // shape.heads
    return {
        "general.architecture": "llama",
        "general.name": f"random {shape.name}",
        "llama.block_count": shape.layers,
        "llama.context_length": 8192,
        "llama.embedding_length": shape.width,
        "llama.feed_forward_length": shape.inner,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": head,
        "llama.rope.freq_base": 500_000.0,
    }


def _shapes(shape: Shape, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape, innermost last, in the order of the file."""
    keys = shape.width // shape.heads * shape.kv_heads
    layer = {
        "attn_norm": (shape.width,),
        "attn_q": (shape.width, shape.width),
        "attn_k": (keys, shape.width),
        "attn_v": (keys, shape.width),
        "attn_output": (shape.width, shape.width),
        "ffn_norm": (shape.width,),
        "ffn_gate": (shape.inner, shape.width),
        "ffn_up": (shape.inner, shape.width),
        "ffn_down": (shape.width, shape.inner),
    }
    every = {f"blk.{i}.{name}.weight": sizes for i in range(shape.layers) for name, sizes in layer.items()}
    return {"token_embd.weight": (vocabulary, shape.width), **every, "output_norm.weight": (shape.width,)}


# Number, bytes and scale of a block of 32: the scale gives weights a deviation of 0.02.
BLOCKS = {"Q4_0": (2, 18, 0.02 / 4.61), "Q8_0": (8, 34, 0.02 / 73.9)}
_TYPES = {"uint32": 4, "int32": 5, "float32": 6, "bool": 7, "string": 8, "array": 9}


def write_gguf(path: Path, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], kind: str) -> None:
    """A GGUF file (version 3): matrices of random blocks, vectors of ones."""
    number, size, scale = BLOCKS[kind]
    header = [b"GGUF", struct.pack("<IQQ", 3, len(shapes), len(metadata))]
    header += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    counts = {
        name: 4 * sizes[0] if len(sizes) == 1 else sizes[0] * sizes[1] // 32 * size for name, sizes in shapes.items()
    }
    for name, sizes in shapes.items():
        code = 0 if len(sizes) == 1 else number
        header.append(_string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes[::-1], code, offset))
        offset += _padded(counts[name])
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        head = b"".join(header)
        file.write(head.ljust(_padded(len(head)), b"\0"))
        for name, sizes in shapes.items():
            if len(sizes) == 1:
                raw = np.ones(sizes, "<f4").tobytes()
            else:
                blocks = np.frombuffer(random.bytes(counts[name]), np.uint8).reshape(-1, size).copy()
                blocks[:, :2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
                raw = blocks.tobytes()
            file.write(raw.ljust(_padded(len(raw)), b"\0"))


def _padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    """A metadata value with its type; lists are of strings, int32 or float32, as tokenizers have them."""
    if isinstance(value, bool):
        return struct.pack("<I?", _TYPES["bool"], value)
    if isinstance(value, int):
        return struct.pack("<II", _TYPES["uint32"], value)
    if isinstance(value, float):
        return struct.pack("<If", _TYPES["float32"], value)
    if isinstance(value, str):
        return struct.pack("<I", _TYPES["string"]) + _string(value)
    kind = {str: "string", int: "int32", float: "float32"}[type(value[0])]
    start = struct.pack("<IIQ", _TYPES["array"], _TYPES[kind], len(value))
    if kind == "string":
        return start + b"".join(map(_string, value))
    return start + struct.pack(f"<{len(value)}{'i' if kind == 'int32' else 'f'}", *value)
