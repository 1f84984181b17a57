"""The text encoder: a bidirectional stack whose mean output is a text's vector (MiniLM, BERT family).

Shapes: B batch, T positions, M width, N texts. Vectors have unit length, so their dot product is the cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.cache.protocol import Transient
from openbook.lm.pooling import Pooling, pooling_of
from openbook.lm.spec import ModelSpec, require
from openbook.lm.stack import Stack
from openbook.lm.tokenizer import well_formed

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as WordPieces

    from openbook.lm.weights.checkpoint import Checkpoint

DEFAULT = "minilm"
Encode = Callable[[Tensor, Tensor], Tensor]
"""Tokens and positions `[B, T]` (−1: padding) to hidden states `[B, T, M]`."""


def pad(texts: Sequence[Sequence[int]], *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Texts of any length as one batch: tokens `[B, T]`, and positions `[B, T]` with −1 where a text has ended, or with
    `left` not begun, so that all end in the same column."""
    longest = max(map(len, texts))
    tokens_BT = torch.zeros(len(texts), longest, dtype=torch.long)
    positions_BT = torch.full((len(texts), longest), -1, dtype=torch.long)
    for row, text in enumerate(texts):
        start = longest - len(text) if left else 0
        tokens_BT[row, start : start + len(text)] = torch.tensor(text)
        positions_BT[row, start : start + len(text)] = torch.arange(len(text))
    return tokens_BT, positions_BT


def batches(lengths: Sequence[int], tokens_at_once: int) -> Iterator[list[int]]:
    """Indices grouped by length, so that little is padding; each group within a budget of padded tokens."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > tokens_at_once:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


class Encoder(Stack):
    """Hidden states of a `ModelSpec` without a head; every token sees every other."""

    def __init__(self, spec: ModelSpec) -> None:
        require(not spec.head, "this spec has a next-token head; it describes a decoder (openbook.lm.decoder)")
        super().__init__(spec)

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """`[B, T, M]`. A position of −1 marks padding, which nobody sees."""
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
        return self.hidden(tokens_BT, positions_BT, Transient(self.spec))


class TextEncoder:
    """Texts to unit vectors: word pieces, encoder, mean over tokens or the first one, normalised (Reimers 2019, arXiv
    1908.10084)."""

    def __init__(
        self,
        encode: Encode,
        spec: ModelSpec,
        pieces: WordPieces,
        name: str,
        max_tokens: int,
        pooling: Pooling = "mean",
        alone: Callable[[], AbstractContextManager[None]] = nullcontext,
        tokens_at_once: int = 4096,
    ) -> None:
        self.encode = encode
        self._alone, self._tokens_at_once = alone, tokens_at_once
        self.pooling = pooling
        self.name = name
        self.width = spec.width
        self.max_tokens = min(max_tokens, spec.max_positions)
        pieces.no_padding()
        pieces.enable_truncation(self.max_tokens)
        self._shortened = pieces

    @cached_property
    def _pieces(self) -> WordPieces:
        """Word pieces of texts of any length: a second copy, made only where texts are cut, not to embed a question."""
        whole = type(self._shortened).from_str(self._shortened.to_str())
        whole.no_truncation()
        return whole

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors, float32 `[N, M]`, in the order of `texts`; what lies beyond `max_tokens` is not read."""
        encodings = self._encode(texts)
        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        for batch in batches([len(e.ids) for e in encodings], self._tokens_at_once):
            with self._alone():
                vectors[batch] = self._embed([encodings[i].ids for i in batch])
        return vectors

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Word pieces of each text, without the special ones."""
        sound = list(map(well_formed, texts))
        return [len(e.ids) for e in self._pieces.encode_batch_fast(sound, add_special_tokens=False)]

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Character offsets of each word piece of a text, end exclusive."""
        return list(self._pieces.encode(well_formed(text), add_special_tokens=False).offsets)

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        return list(self._shortened.encode_batch([self._bounded(t) for t in texts]))

    def _bounded(self, text: str) -> str:
        # A word piece is rarely over 32 characters: what lies beyond cannot be read, so it is not tokenised either.
        return well_formed(text[: self.max_tokens * 32])

    def _embed(self, ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        tokens_BT, positions_BT = pad(ids)
        with torch.inference_mode():
            hidden_BTM = self.encode(tokens_BT, positions_BT)
            positions_BT = positions_BT.to(hidden_BTM.device)
            counted_BT = positions_BT == 0 if self.pooling == "first" else positions_BT >= 0
            counted_BT1 = counted_BT.to(hidden_BTM)[..., None]
            mean_BM = (hidden_BTM * counted_BT1).sum(1) / counted_BT1.sum(1).clamp(min=1)  # a text without a token: 0
            unit: npt.NDArray[np.float32] = F.normalize(mean_BM.float(), dim=-1).cpu().numpy()
        return unit


def load_encoder(
    name: str | Path = DEFAULT, device: str | None = None, *, fetch: bool = True, backend: str = "auto"
) -> TextEncoder:
    """A text encoder: by name (`minilm`), GGUF file, or folder of safetensors, config and tokenizer.json.

    `backend` `auto` is native on a CPU where the kernels are installed, in int8 (cosines of short and long texts differ
    from fp32's by some 10⁻³); else torch, in fp32.
    """
    from openbook.lm.device import device_named
    from openbook.lm.weights.checkpoint import open_checkpoint
    from openbook.lm.weights.pull import locate

    target = device_named(device)
    checkpoint = open_checkpoint(locate(name, fetch=fetch))
    checkpoint.opened_by("load_encoder")
    spec = cast("ModelSpec", checkpoint.spec)
    pieces, max_tokens = pieces_of(checkpoint, spec), longest_text(checkpoint.path, spec)
    pooling = pooling_of(checkpoint)
    encode, alone, at_once = _encode_with(checkpoint, spec, target, backend)
    return TextEncoder(encode, spec, pieces, checkpoint.name, max_tokens, pooling, alone, at_once)


def _encode_with(
    checkpoint: Checkpoint, spec: ModelSpec, device: torch.device, backend: str
) -> tuple[Encode, Callable[[], AbstractContextManager[None]], int]:
    """What runs the encoder, `Runner.alone` of it, and how many tokens it is best given at once."""
    from openbook.lm.backends.native_build import against

    why = against(spec, device) if backend != "torch" else "torch was asked for"
    if backend == "native" and why is not None:
        raise Fault(f"the native backend cannot run {checkpoint.name}: {why}; use backend torch")
    if why is None:
        from openbook.lm.backends.native import NativeRunner

        runner = NativeRunner(spec, checkpoint.packed(), precision="wide")
        return runner.encode, runner.alone, 512  # more would not stay in a core's cache
    with torch.device("meta"):
        encoder = Encoder(spec)
    encoder.load_state_dict(dict(checkpoint.state(torch.float32)), assign=True)
    module = encoder.to(device).eval()
    return lambda tokens_BT, positions_BT: module(tokens_BT.to(device), positions_BT.to(device)), nullcontext, 4096


def pieces_of(checkpoint: Checkpoint, spec: ModelSpec) -> WordPieces:
    """The word pieces of a checkpoint, each of whose ids has a row in the weights."""
    from openbook.lm.weights.gguf import GGUFFile
    from openbook.lm.weights.safetensors import read_json
    from openbook.lm.weights.tokenizer_gguf import definition
    from openbook.lm.weights.tokenizer_json import build, checked, tokenizer_file

    where = checkpoint.path
    if isinstance(checkpoint.source, GGUFFile):
        described = definition(checkpoint.source.metadata, str(where))
    else:
        where = tokenizer_file(where)
        described = read_json(where)
    pieces: WordPieces = build(checked(described, str(where)), str(where))
    highest = max(pieces.get_vocab().values(), default=-1)
    if highest >= spec.vocabulary:
        raise Fault(
            f"{where} has {highest + 1} tokens, the weights beside it have {spec.vocabulary}; they are not of one model"
        )
    return pieces


def longest_text(path: Path, spec: ModelSpec) -> int:
    """The length the encoder was trained for: `max_seq_length` beside it, else all its positions."""
    from openbook.lm.weights.safetensors import read_json

    beside = path / "sentence_bert_config.json"
    length = read_json(beside).get("max_seq_length") if beside.is_file() else None
    if length is None:
        return spec.max_positions
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= spec.max_positions:
        raise Fault(f"{beside}: max_seq_length is {length!r}, not a whole number from 1 to {spec.max_positions}")
    return length
