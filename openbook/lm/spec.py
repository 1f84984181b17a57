"""What a transformer is, as frozen data.

A model is described, then built. What does not fit together is refused here, when the description is made, with
the remedy in the message; `forward` never has to ask. Letters of shapes: H query heads, K key/value
heads, D head dimension, M model width, E experts, V vocabulary, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openbook.lm.rules import Rule, SpecError, finite, mask_rule, one_of, position_bias, require, rope_scaling

__all__ = [
    "AttentionSpec",
    "ClassifierSpec",
    "ExpertsSpec",
    "FeedForwardSpec",
    "LayerSpec",
    "ModelSpec",
    "NormSpec",
    "QKNormSpec",
    "RopeSpec",
    "Seq2SeqSpec",
    "SpecError",
    "require",
]

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
Place = Literal["pre", "post", "sandwich", "parallel", "parallel_one_norm"]


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding (Su 2021), pairs made of two halves, tables in fp32.

    `scaling` names how frequencies are stretched (`openbook.lm.positions`: linear, dynamic, yarn, llama3, longrope);
    `dims` is how many of a head's dimensions turn, the first ones; None turns all.
    """

    base: float = 10_000.0
    scaling: Rule | None = None
    dims: int | None = None

    def __post_init__(self) -> None:
        finite(**{"rope base": self.base})
        require(self.base > 1, f"rope base is {self.base}; it must be above 1")
        require(
            self.dims is None or (self.dims >= 2 and self.dims % 2 == 0),
            f"rope turns pairs, so an even number of dimensions, not {self.dims}",
        )
        if self.scaling is not None:
            from openbook.lm import positions  # noqa: F401 - registers the scalings

            rope_scaling.check(self.scaling)


@dataclass(frozen=True)
class NormSpec:
    """RMSNorm (Zhang 2019) or LayerNorm. `offset` is added to the stored weight (Gemma multiplies by 1 + w)."""

    kind: Literal["rms", "layer"] = "rms"
    epsilon: float = 1e-5
    offset: float = 0.0
    bias: bool = True

    def __post_init__(self) -> None:
        one_of(Literal["rms", "layer"], norm=self.kind)
        finite(**{"norm epsilon": self.epsilon, "norm offset": self.offset})
        require(self.epsilon >= 0, f"norm epsilon is {self.epsilon}; it must be 0 or more")
        require(self.kind == "rms" or not self.offset, "only RMSNorm's weight has an offset; set offset=0")

    @property
    def has_bias(self) -> bool:
        """Whether a bias is added: LayerNorm's may be absent, RMSNorm has none."""
        return self.kind == "layer" and self.bias


@dataclass(frozen=True)
class QKNormSpec:
    """A norm of queries and keys: of each head (Qwen3, Gemma 3) or of the whole projection (OLMoE), before or after
    RoPE."""

    norm: NormSpec = NormSpec()
    over: Literal["head", "projection"] = "head"
    place: Literal["before_rope", "after_rope"] = "before_rope"

    def __post_init__(self) -> None:
        one_of(Literal["head", "projection"], over=self.over)
        one_of(Literal["before_rope", "after_rope"], place=self.place)
        require(
            self.over == "head" or self.place == "before_rope",
            "a norm of the whole projection stands before RoPE; set place='before_rope', or over='head'",
        )


@dataclass(frozen=True)
class AttentionSpec:
    """One layer's attention: H query heads over K key/value heads of dimension D.

    MHA is K = H, MQA K = 1, GQA between. Who sees whom: `causal`; `window` W shows a query the W latest keys, itself
    counted (Mistral), None all; `pinned` first positions are seen past the window too; `rules` narrow further.
    `sinks` adds a learned logit a head to the softmax (gpt-oss). `kv_from` names the earlier layer whose keys and
    values this layer reads instead of making its own (CLA, Brandon 2024). `scale` multiplies q·k (None: D^−½);
    `soft_cap` c bounds logits by c·tanh(x/c) (Gemma 2); `bias` is what a distance adds (ALiBi, T5).
    """

    heads: int
    kv_heads: int
    head_dim: int
    causal: bool = True
    window: int | None = None
    pinned: int = 0
    rules: tuple[Rule, ...] = ()
    sinks: bool = False
    rope: RopeSpec | None = None
    bias: Rule | None = None
    qk_norm: QKNormSpec | None = None
    scale: float | None = None
    soft_cap: float | None = None
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
        require(self.pinned >= 0, f"pinned is {self.pinned}; it counts first positions, so 0 or more")
        require(
            self.pinned == 0 or self.window is not None,
            "pinned positions are those seen past a window; set a window, or pinned=0",
        )
        turned = self.head_dim if self.rope is None or self.rope.dims is None else self.rope.dims
        require(
            self.rope is None or (turned % 2 == 0 and turned <= self.head_dim),
            f"rope turns pairs of a head: an even head_dim of at least {turned}, not {self.head_dim}",
        )
        finite(soft_cap=self.soft_cap, scale=self.scale)
        require(self.soft_cap is None or self.soft_cap > 0, f"soft_cap is {self.soft_cap}; it must be above 0")
        require(self.scale is None or self.scale > 0, f"scale is {self.scale}; it must be above 0")
        if self.rules or self.bias is not None or self.rope is not None:
            from openbook.lm import positions  # registers the built-in rules

            if self.rope is not None and self.rope.scaling is not None:
                positions.check_scaling(self.rope, self.head_dim)
        for rule in self.rules:
            mask_rule.check(rule)
        if self.bias is not None:
            position_bias.check(self.bias)

    @property
    def sees(self) -> tuple[bool, int | None, int, tuple[Rule, ...]]:
        """What the mask depends on besides positions: layers that agree in it share one mask."""
        return self.causal, self.window, self.pinned, self.rules

    @property
    def groups(self) -> int:
        """G = H / K, the query heads that share a key/value head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class FeedForwardSpec:
    """The position-wise MLP: `act(x·W_up)·W_down`, or gated `(act(x·W_gate) ⊙ x·W_up)·W_down` (Shazeer 2020)."""

    width: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        require(self.width >= 1, f"feed-forward width is {self.width}; it must be 1 or more")
        one_of(Activation, activation=self.activation)


@dataclass(frozen=True)
class ExpertsSpec:
    """A mixture of E feed-forwards, `active` of them a token.

    `routing` "softmax" takes the top k of softmax(x·W_r), renormalised to sum to 1 if `renormalise` (Mixtral,
    Qwen3-MoE) or not (OLMoE); "noisy" is Shazeer 2017: noise in training, top k, then softmax. `balance_bias` adds a
    bias to the scores that changes the selection only (2408.15664). `shared` is a feed-forward that every token
    passes, through a sigmoid gate if `shared_gate` (Qwen2-MoE).
    """

    count: int
    active: int
    expert: FeedForwardSpec
    routing: Literal["softmax", "noisy"] = "softmax"
    renormalise: bool = True
    balance_bias: bool = False
    shared: FeedForwardSpec | None = None
    shared_gate: bool = False

    def __post_init__(self) -> None:
        one_of(Literal["softmax", "noisy"], routing=self.routing)
        require(
            1 <= self.active <= self.count,
            f"{self.active} of {self.count} experts are active; it must be from 1 to {self.count}",
        )
        require(
            self.active > 1 or self.count == 1 or not self.renormalise,
            "one active expert, its weight normalised, always weighs 1: its router gets no gradient; "
            "set active=2 or more, or routing='softmax' with renormalise=False",
        )
        require(not self.expert.bias, "experts have no bias; set bias=False")
        require(
            self.routing == "softmax" or not self.balance_bias,
            "the noisy gate balances by its losses; set balance_bias=False, or routing='softmax'",
        )
        require(
            self.routing == "softmax" or self.renormalise,
            "the noisy gate takes its softmax after the selection, so it sums to 1; set renormalise=True",
        )
        require(self.shared is not None or not self.shared_gate, "shared_gate gates a shared expert; give one")


@dataclass(frozen=True)
class LayerSpec:
    """One block: attention, cross-attention to a memory if `cross`, then feed-forward or experts.

    `place` of the norms: "pre" x + f(n(x)); "post" n(x + f(x)); "sandwich" x + n'(f(n(x))) (Gemma 2); "parallel" x +
    f(n(x)) + g(n'(x)) (Falcon 40B), "parallel_one_norm" with n' = n (Falcon 7B).
    """

    attention: AttentionSpec
    feed_forward: FeedForwardSpec | ExpertsSpec
    norm: NormSpec = NormSpec()
    place: Place = "pre"
    cross: AttentionSpec | None = None

    def __post_init__(self) -> None:
        one_of(Place, place=self.place)
        if self.cross is None:
            return
        require(self.place in ("pre", "post"), f"cross-attention stands in pre- and post-norm layers, not {self.place}")
        plain = AttentionSpec(1, 1, 1, causal=False).sees
        require(
            self.cross.sees == plain and self.cross.kv_from is None,
            "cross-attention sees the whole memory: causal=False, no window, no rules, no kv_from",
        )
        require(self.cross.rope is None and self.cross.bias is None, "a memory has no distance: no rope, no bias")


@dataclass(frozen=True)
class ClassifierSpec:
    """A head on an encoder's first token: dense, `activation`, dense to the labels (BERT, RoBERTa, DistilBERT).

    `multiple` says that each label holds or not by itself: probabilities are sigmoids, not one softmax.
    """

    labels: tuple[str, ...]
    activation: Literal["tanh", "relu"] = "tanh"
    multiple: bool = False

    def __post_init__(self) -> None:
        require(len(self.labels) >= 1, "a classifier needs at least one label")
        one_of(Literal["tanh", "relu"], activation=self.activation)


@dataclass(frozen=True)
class ModelSpec:
    """A whole stack: V tokens in, M wide, L layers, `max_positions` long.

    Embeddings are multiplied by `embedding_scale` (Gemma: √M), then get a vector a position (`positions`, learned
    rows counted from `position_offset`, or sinusoidal), one a segment (`token_types`, BERT), and `embedding_norm`.
    `final_norm` normalises the output. `head` says whether there is an output projection to V logits, `tied` whether
    it is the embedding itself, `head_bias` whether a bias is added; hidden states are multiplied by `logit_scale`
    before it, logits are bounded by `logit_cap` after it (Gemma 2). `memory_width` is the width of what
    cross-attention reads; `classifier` a head on an encoder.
    """

    vocabulary: int
    width: int
    layers: tuple[LayerSpec, ...]
    max_positions: int
    head: bool = True
    tied: bool = True
    head_bias: bool = False
    embedding_scale: float = 1.0
    positions: Literal["learned", "sinusoidal"] | None = None
    position_offset: int = 0
    token_types: int = 0
    embedding_norm: NormSpec | None = None
    final_norm: NormSpec | None = NormSpec()
    logit_scale: float = 1.0
    logit_cap: float | None = None
    memory_width: int | None = None
    classifier: ClassifierSpec | None = None

    def __post_init__(self) -> None:
        require(min(self.vocabulary, self.width, self.max_positions) >= 1, "sizes of a model must be 1 or more")
        require(len(self.layers) >= 1, "a model needs at least one layer")
        require(
            min(self.position_offset, self.token_types) >= 0,
            f"position_offset is {self.position_offset}, token_types {self.token_types}; they must be 0 or more",
        )
        if self.positions is not None:
            one_of(Literal["learned", "sinusoidal"], positions=self.positions)
        finite(embedding_scale=self.embedding_scale, logit_scale=self.logit_scale, logit_cap=self.logit_cap)
        require(
            not self.head or all(layer.attention.causal for layer in self.layers),
            "a next-token head needs causal attention in every layer; set head=False for an encoder",
        )
        require(self.head or not self.head_bias, "head_bias is the bias of a head; set head=True")
        require(not self.head or self.classifier is None, "a classifier stands on an encoder; set head=False")
        require(self.logit_cap is None or self.logit_cap > 0, f"logit_cap is {self.logit_cap}; it must be above 0")
        require(
            self.position_offset == 0 or self.positions == "learned", "position_offset counts rows of learned positions"
        )
        require(self.positions != "sinusoidal" or self.width % 2 == 0, "sinusoidal positions need an even width")
        crossed = any(layer.cross for layer in self.layers)
        require(
            crossed == (self.memory_width is not None),
            "cross-attention reads a memory: give memory_width and layers with cross, or neither",
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
        same = ("kv_heads", "head_dim", "rope", "qk_norm", "causal")
        differing = [name for name in same if getattr(producer, name) != getattr(reader, name)]
        require(
            not differing,
            f"layer {index} reads keys of layer {source} but differs in {', '.join(differing)}; they must be equal",
        )

    @property
    def producers(self) -> tuple[int, ...]:
        """Indices of the layers that make keys and values."""
        return tuple(i for i, layer in enumerate(self.layers) if layer.attention.kv_from is None)

    @property
    def slot_of_layer(self) -> tuple[int, ...]:
        """Which of `producers`, by number, makes the keys and values that each layer reads."""
        slots = {layer: slot for slot, layer in enumerate(self.producers)}
        sources = (layer.attention.kv_from for layer in self.layers)
        return tuple(slots[index if source is None else source] for index, source in enumerate(sources))

    @property
    def retentions(self) -> tuple[tuple[int | None, int], ...]:
        """How much of what each of `producers` makes is still read later: the widest window of its readers (None:
        everything), and the most pinned first positions."""
        readers: list[list[AttentionSpec]] = [[] for _ in self.producers]
        for slot, layer in zip(self.slot_of_layer, self.layers, strict=True):
            readers[slot].append(layer.attention)
        windows = [[reader.window for reader in each if reader.window is not None] for each in readers]
        return tuple(
            (max(wide) if len(wide) == len(each) else None, max(reader.pinned for reader in each))
            for each, wide in zip(readers, windows, strict=True)
        )

    @property
    def biases(self) -> tuple[tuple[Rule, int], ...]:
        """The distinct position biases with their heads, in order: layers that agree share one table (T5)."""
        found = ((layer.attention.bias, layer.attention.heads) for layer in self.layers)
        return tuple(dict.fromkeys((bias, heads) for bias, heads in found if bias is not None))

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Bytes of keys and values one token needs: `2 · itemsize · Σ over producing layers (K · D)`."""
        shapes = (self.layers[i].attention for i in self.producers)
        return 2 * itemsize * sum(a.kv_heads * a.head_dim for a in shapes)


@dataclass(frozen=True)
class Seq2SeqSpec:
    """An encoder, and a decoder that attends to its output (Vaswani 2017). `start` is the decoder's first token."""

    encoder: ModelSpec
    decoder: ModelSpec
    start: int
    shared_embedding: bool = True

    def __post_init__(self) -> None:
        require(not self.encoder.head and self.encoder.classifier is None, "the encoder of a seq2seq has no head")
        require(self.decoder.head, "the decoder of a seq2seq needs a next-token head")
        require(
            self.decoder.memory_width == self.encoder.width,
            f"the decoder reads a memory {self.decoder.memory_width} wide, the encoder makes {self.encoder.width}",
        )
        require(
            all(layer.cross for layer in self.decoder.layers), "every layer of the decoder of a seq2seq needs cross"
        )
        require(0 <= self.start < self.decoder.vocabulary, f"start token {self.start} is not in the vocabulary")
        sizes = (self.encoder.vocabulary, self.encoder.width), (self.decoder.vocabulary, self.decoder.width)
        require(not self.shared_embedding or sizes[0] == sizes[1], "a shared embedding needs one vocabulary and width")
