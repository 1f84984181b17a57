"""Encoder and decoder: one reads a text whole, the other writes another and attends to it (Vaswani 2017).

    p(y | x) = Π_t p(y_t | y_<t, memory(x))          arXiv 1706.03762, section 3

Shapes: B batch, N rows of hypotheses, S tokens read, T tokens written, M model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from openbook.errors import Fault
from openbook.lm.cache.make import AUTO, CacheSpec, make_cache
from openbook.lm.cache.protocol import KeyValueCache
from openbook.lm.decoder import Decoder
from openbook.lm.encoder import Encoder, pad
from openbook.lm.spec import (
    Activation,
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelSpec,
    NormSpec,
    Seq2SeqSpec,
    require,
)
from openbook.lm.stack import Memory

if TYPE_CHECKING:
    from openbook.lm.decoding.beam import Beams, Found
    from openbook.lm.tokenizer import Tokenizer


class Seq2Seq(nn.Module):
    """A `Seq2SeqSpec`, built. A shared embedding is one module under two names."""

    def __init__(self, spec: Seq2SeqSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec.encoder)
        self.decoder = Decoder(spec.decoder, self.encoder.embedding if spec.shared_embedding else None)

    @classmethod
    def load(
        cls, spec: Seq2SeqSpec, state: Iterable[tuple[str, Tensor]], device: torch.device | str | None = None
    ) -> Seq2Seq:
        """Build the spec and give it these weights (`encoder.…`, `decoder.…`), which keep their dtype."""
        with torch.device("meta"):
            model = cls(spec)
        tensors = {name: tensor.to(device or "cpu") for name, tensor in state}
        if spec.shared_embedding:
            tensors["decoder.embedding.weight"] = tensors["encoder.embedding.weight"]
        model.load_state_dict(tensors, assign=True)
        return model.eval()

    def encode(self, tokens_BS: Tensor, positions_BS: Tensor | None = None) -> Memory:
        """What the decoder reads of these texts: keys and values of every layer, made once.

        A position of −1 marks padding, which nobody sees; without positions nothing is padding.
        """
        if positions_BS is None:
            positions_BS = torch.arange(tokens_BS.shape[1], device=tokens_BS.device).expand_as(tokens_BS)
        return self.decoder.remember(self.encoder(tokens_BS, positions_BS), positions_BS)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
        *,
        memory: Memory,
        keep: slice = slice(None),
    ) -> Tensor:
        """fp32 logits `[B, T', V]` of what follows these tokens of the decoder, given a memory (`Decoder.forward`)."""
        logits_BTV: Tensor = self.decoder(tokens_BT, positions_BT, cache, memory=memory, keep=keep)
        return logits_BTV


class Continuations:
    """What can follow in the decoder, for searches (`openbook.lm.decoding`): rows of hypotheses, each of one text.

    `log_p_NV` are fp32 log-probabilities of N rows. `limit` is the most tokens that will be asked for. Where a model
    demands a first token (mBART's language) or, at the limit, a last one, that token has all of the probability.
    """

    def __init__(
        self,
        model: Seq2Seq,
        memory: Memory,
        limit: int,
        *,
        kind: CacheSpec = AUTO,
        start: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> None:
        self.model, self.memory, self.limit = model, memory, limit
        self.start_token = model.spec.start if start is None else start
        self.first, self.last = first, last
        self._texts = list(range(len(memory.positions_BS)))
        self._rows, self._length = memory, 0
        weight = model.encoder.embedding.weight
        self._cache = make_cache(model.spec.decoder, kind, len(self._texts), limit, weight.dtype, weight.device)

    def start(self) -> Tensor:
        """What may come first, a row a text of the memory."""
        return self._read([self.start_token] * len(self._texts))

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """What may follow: row n goes on from the row `parents[n]` of before, with `tokens[n]`."""
        if list(parents) != list(range(len(self._texts))):
            self._cache.select(parents)
            texts = [self._texts[parent] for parent in parents]
            # Beams of one text read the same memory: mostly nothing is to be moved.
            if texts != self._texts:
                self._texts, self._rows = texts, self.memory.select(texts)
        return self._read(tokens)

    @torch.inference_mode()
    def _read(self, tokens: Sequence[int]) -> Tensor:
        device = self.memory.positions_BS.device
        tokens_N1 = torch.tensor(list(tokens), dtype=torch.long, device=device)[:, None]
        logits_N1V = self.model(tokens_N1, cache=self._cache, memory=self._rows)
        self._length += 1
        demanded = self.first if self._length == 1 and self.first is not None else None
        demanded = self.last if self._length == self.limit and self.last is not None else demanded
        log_p_NV: Tensor = logits_N1V[:, 0].log_softmax(-1)
        if demanded is not None:
            log_p_NV = torch.full_like(log_p_NV, float("-inf"))
            log_p_NV[:, demanded] = 0.0
        return log_p_NV


def classic(
    vocabulary: int,
    *,
    width: int = 512,
    heads: int = 8,
    inner: int = 2048,
    layers: int | tuple[int, int] = 6,
    place: Literal["post", "pre"] = "post",
    activation: Activation = "relu",
    bias: bool = True,
    norm: NormSpec = NormSpec("layer", 1e-5),  # noqa: B008 - frozen
    max_positions: int = 1024,
    start: int = 0,
) -> Seq2SeqSpec:
    """The Transformer as published, by default its base model; `layers` of the encoder and of the decoder.

    Sinusoidal positions, embeddings times √M and shared by encoder, decoder and head (sections 3.4 and 3.5). `place`
    "post" normalises after each residual sum, as the paper does; "pre" before each part and once more at the end of a
    stack (Xiong 2020, arXiv 2002.04745). `start` is the decoder's first token.
    """
    require(width % heads == 0, f"{heads} heads do not divide the width {width}; give a number that does")
    deep, tall = (layers, layers) if isinstance(layers, int) else layers

    def stack(count: int, decodes: bool) -> ModelSpec:
        attention, cross = (
            AttentionSpec(heads, heads, max(1, width // heads), causal=causal, qkv_bias=bias, out_bias=bias)
            for causal in (decodes, False)
        )
        feed_forward = FeedForwardSpec(inner, activation, gated=False, bias=bias)
        return ModelSpec(
            vocabulary=vocabulary,
            width=width,
            layers=(LayerSpec(attention, feed_forward, norm, place, cross if decodes else None),) * count,
            max_positions=max_positions,
            head=decodes,
            embedding_scale=width**0.5,
            positions="sinusoidal",
            final_norm=norm if place == "pre" else None,
            memory_width=width if decodes else None,
        )

    return Seq2SeqSpec(stack(deep, decodes=False), stack(tall, decodes=True), start)


@dataclass(frozen=True)
class Seq2SeqModel:
    """What `load_seq2seq` returns. `start` begins what is written; `first` and `last`, where there are any, are the
    tokens the model demands next and at the limit (`forced_bos_token_id`, `forced_eos_token_id`)."""

    name: str
    model: Seq2Seq
    tokenizer: Tokenizer
    start: int
    first: int | None = None
    last: int | None = None

    @property
    def spec(self) -> Seq2SeqSpec:
        """What kind of transformer it is."""
        return self.model.spec

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> Memory:
        """The memory of these texts, with what the tokenizer puts around a text. Raises `Fault` for one too long."""
        ids = [self.tokenizer.encode(text, special=True) for text in texts]
        longest, most = max(map(len, ids), default=0), self.spec.encoder.max_positions
        if not ids or not all(ids):
            raise Fault("there is nothing to read: give texts that are not empty")
        if longest > most and self.spec.encoder.positions == "learned":
            raise Fault(
                f"a text of {longest} tokens is too long: {self.name} has positions for {most}; cut it in parts"
            )
        device = self.model.encoder.embedding.weight.device
        tokens_BS, positions_BS = pad(ids)
        return self.model.encode(tokens_BS.to(device), positions_BS.to(device))

    def continuations(self, texts: Sequence[str], limit: int, kind: CacheSpec = AUTO) -> Continuations:
        """What can be written of these texts, at most `limit` tokens each: for searches (`openbook.lm.decoding`)."""
        most = self.spec.decoder.max_positions
        if limit < 1 or (limit > most and self.spec.decoder.positions == "learned"):
            raise Fault(f"at most {limit} tokens are asked for; {self.name} writes from 1 to {most}")
        return Continuations(
            self.model, self.read(texts), limit, kind=kind, start=self.start, first=self.first, last=self.last
        )

    def search(
        self, texts: Sequence[str], limit: int, beams: Beams, kind: CacheSpec = AUTO, *, penalty: float = 1.0
    ) -> list[list[Found]]:
        """The best texts of at most `limit` tokens for each of these, best first; one beam is greedy.

        `penalty` above 1 makes tokens that were written already less likely.
        """
        from openbook.lm.decoding.beam import beam_search
        from openbook.lm.decoding.draft import Draft

        drafts = [Draft(self.tokenizer.eos_ids) for _ in texts]
        return beam_search(self.continuations(texts, limit, kind), drafts, beams, limit, penalty=penalty)

    def write(self, texts: Sequence[str], limit: int = 128, beams: int = 1, length_penalty: float = 1.0) -> list[str]:
        """The best text for each of these, of at most `limit` tokens."""
        from openbook.lm.decoding.beam import Beams

        found = self.search(texts, limit, Beams(beams, length_penalty))
        return [self.tokenizer.decode(best.tokens) for best, *_ in found]


def load_seq2seq(
    name: str | Path,
    *,
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    device: str | None = None,
    fetch: bool = True,
) -> Seq2SeqModel:
    """An encoder–decoder by hub name, GGUF file, or folder of safetensors + config.json + tokenizer.json."""
    from openbook.lm.device import device_named, dtype_named
    from openbook.lm.weights.checkpoint import open_checkpoint
    from openbook.lm.weights.pull import locate

    target = device_named(device)
    dtype = dtype_named(precision, target)
    checkpoint = open_checkpoint(locate(name, fetch=fetch))
    checkpoint.opened_by("load_seq2seq")
    spec, tokenizer = cast("Seq2SeqSpec", checkpoint.spec), checkpoint.tokenizer()
    if tokenizer.vocabulary > spec.encoder.vocabulary:
        raise Fault(
            f"{checkpoint.path}: its tokenizer has {tokenizer.vocabulary} tokens, its weights have "
            f"{spec.encoder.vocabulary}; they are not of one model"
        )
    demanded = _demanded(checkpoint.path, spec.decoder.vocabulary)
    model = Seq2Seq.load(spec, checkpoint.state(dtype), target)
    start = demanded["decoder_start"]
    first, last = demanded["forced_bos"], demanded["forced_eos"]
    return Seq2SeqModel(checkpoint.name, model, tokenizer, spec.start if start is None else start, first, last)


def _demanded(folder: Path, vocabulary: int) -> dict[str, int | None]:
    """The tokens that writing begins and ends with: as generation_config.json says, where there is none config.json."""
    from openbook.lm.weights.safetensors import read_json

    found: dict[str, int | None] = dict.fromkeys(("decoder_start", "forced_bos", "forced_eos"))
    files = (folder / "generation_config.json", folder / "config.json") if folder.is_dir() else ()
    file = next(filter(Path.is_file, files), None)
    said = {} if file is None else read_json(file)
    for name in found:
        value = said.get(f"{name}_token_id")
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if value is not None and (type(value) is not int or not 0 <= value < vocabulary):
            raise Fault(f"{file}: {name}_token_id is {value!r}, not one token of {vocabulary}")
        found[name] = value
    return found
