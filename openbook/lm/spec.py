"""What a transformer is, as frozen data.

A model is described, then built. What does not fit together is refused here, when the description is made, with
the remedy in the message; `forward` never has to ask. Letters of shapes: H query heads, K key/value
heads, D head dimension, M model width, V vocabulary, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openbook.errors import Fault

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
NormKind = Literal["rms", "layer"]
NormPlace = Literal["pre", "post"]


class SpecError(Fault, ValueError):
    """A description that cannot be a model; the message says why and what would fit."""


def require(holds: bool, problem: str) -> None:
    """Refuse a description: raise `SpecError(problem)` unless `holds`."""
    if not holds:
        raise SpecError(problem)


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched to a longer context.

    `linear` divides every frequency by `factor`; `llama3` divides the slow ones only and blends between
    (Llama 3.1: wavelengths over `original/low` are divided, under `original/high` kept).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 8192

    def __post_init__(self) -> None:
        require(self.factor > 0, f"rope scaling factor is {self.factor}; it must be above 0")
        require(
            self.kind != "llama3" or self.high_frequency_factor > self.low_frequency_factor,
            "llama3 rope scaling needs high_frequency_factor above low_frequency_factor",
        )


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding (Su 2021), pairs made of the two halves of a head, tables in fp32."""

    base: float = 10_000.0
    scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        require(self.base > 1, f"rope base is {self.base}; it must be above 1")


@dataclass(frozen=True)
class NormSpec:
    """RMSNorm (Zhang 2019) or LayerNorm, and whether it stands before or after each block."""

    kind: NormKind = "rms"
    place: NormPlace = "pre"
    epsilon: float = 1e-5


@dataclass(frozen=True)
class AttentionSpec:
    """One layer's attention: H query heads over K key/value heads of dimension D.

    MHA is K = H, MQA K = 1, GQA between. `window` W shows a query the W latest keys, itself counted (Mistral);
    None shows all. `kv_from` names the earlier layer whose keys and values this layer reads instead of making its
    own (CLA, Brandon 2024).
    """

    heads: int
    kv_heads: int
    head_dim: int
    causal: bool = True
    window: int | None = None
    rope: RopeSpec | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    kv_from: int | None = None

    def __post_init__(self) -> None:
        require(min(self.heads, self.kv_heads, self.head_dim) >= 1, "heads, kv_heads and head_dim must be 1 or more")
        require(
            self.heads % self.kv_heads == 0,
            f"{self.heads} query heads do not divide into {self.kv_heads} key/value heads; kv_heads must divide heads",
        )
        require(self.window is None or self.window >= 1, f"window is {self.window}; it counts the query, so 1 or more")
        require(self.rope is None or self.head_dim % 2 == 0, f"rope needs an even head_dim, not {self.head_dim}")

    @property
    def rule(self) -> tuple[bool, int | None]:
        """What the mask depends on besides positions: layers with one rule share one mask."""
        return self.causal, self.window


@dataclass(frozen=True)
class FeedForwardSpec:
    """The position-wise MLP: `act(x·W_up)·W_down`, or gated `(act(x·W_gate) ⊙ x·W_up)·W_down` (Shazeer 2020)."""

    width: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        require(self.width >= 1, f"feed-forward width is {self.width}; it must be 1 or more")


@dataclass(frozen=True)
class LayerSpec:
    """One block: attention, then feed-forward, each with its norm and residual."""

    attention: AttentionSpec
    feed_forward: FeedForwardSpec
    norm: NormSpec = NormSpec()


@dataclass(frozen=True)
class ModelSpec:
    """A whole stack: V tokens in, M wide, L layers, `max_positions` long.

    `learned_positions` adds a learned vector per position; `token_types` a learned vector per segment (BERT);
    `embedding_norm` normalises their sum (BERT); `final_norm` normalises the output (pre-norm decoders).
    `head` says whether there is an output projection to V logits, and `tied` whether it is the embedding itself.
    """

    vocabulary: int
    width: int
    layers: tuple[LayerSpec, ...]
    max_positions: int
    head: bool = True
    tied: bool = True
    learned_positions: bool = False
    token_types: int = 0
    embedding_norm: NormSpec | None = None
    final_norm: NormSpec | None = NormSpec()

    def __post_init__(self) -> None:
        require(min(self.vocabulary, self.width, self.max_positions) >= 1, "sizes of a model must be 1 or more")
        require(len(self.layers) >= 1, "a model needs at least one layer")
        require(
            not self.head or all(layer.attention.causal for layer in self.layers),
            "a next-token head needs causal attention in every layer; set head=False for an encoder",
        )
        for index, layer in enumerate(self.layers):
            self._check_sharing(index, layer.attention)

    def _check_sharing(self, index: int, reader: AttentionSpec) -> None:
        source = reader.kv_from
        if source is None:
            return
        require(0 <= source < index, f"layer {index} reads keys of layer {source}; it can only read an earlier layer")
        producer = self.layers[source].attention
        require(
            producer.kv_from is None,
            f"layer {index} reads keys of layer {source}, which makes none; read layer {producer.kv_from} instead",
        )
        same = ("kv_heads", "head_dim", "rope", "causal")
        differing = [name for name in same if getattr(producer, name) != getattr(reader, name)]
        require(
            not differing,
            f"layer {index} reads keys of layer {source} but differs in {', '.join(differing)}; they must be equal",
        )

    @property
    def producers(self) -> tuple[int, ...]:
        """Indices of the layers that make keys and values."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.attention.kv_from is None)

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Bytes of keys and values one token needs: `2 · itemsize · Σ over producing layers (K · D)`."""
        shapes = (self.layers[i].attention for i in self.producers)
        return 2 * itemsize * sum(a.kv_heads * a.head_dim for a in shapes)
