"""From a spec and a file's weights to the native kernels' model; what they cannot run is refused by name.

Under the precisions auto and int8 weights stay as the file packs them (Q4_0 … Q8_0, the k-quants); floats become bf16,
or int8 in blocks of 32. Under bf16 and fp32 all are that. Routers stay fp32: one that rounds chooses badly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.spec import AttentionSpec, ExpertsSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormSpec
from openbook.lm.weights.blocks import Blocks
from openbook.native import kernels

Weight = Tensor | Blocks
PACKED = {"auto": "bf16", "bf16": "bf16", "fp32": "f32", "int8": "q8_0", "wide": "wide"}
"""How floats are packed under each precision."""
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
PLACES = ("pre", "post", "sandwich", "parallel", "parallel_one_norm")


def unsupported(spec: ModelSpec) -> str | None:
    """Why the native kernels cannot run this spec; None if they can."""
    for index, layer in enumerate(spec.layers):
        rules = [rule.name for rule in layer.attention.rules if rule.name != "chunked"]
        if rules:
            return f"layer {index} has the mask rule {rules[0]}, which only torch computes"
        if layer.attention.rules and layer.attention.pinned:
            return f"layer {index} has chunks and pinned positions together"
        if len(layer.attention.rules) > 1:
            return f"layer {index} has more than one mask rule"
        if layer.cross is not None:
            return f"layer {index} has cross-attention"
    return None


def against(spec: ModelSpec, device: torch.device) -> str | None:
    """Why the native backend does not serve this spec on this device; None if it can."""
    if device.type != "cpu":
        return f"{device.type} is no CPU"
    if kernels() is None:
        return "the native kernels are not installed (they need a C++ compiler when openbook is)"
    return unsupported(spec)


class Builder:
    """Makes the parts of one model of its parameters; each is taken once, so that a file's pages can be let go."""

    def __init__(self, spec: ModelSpec, state: Iterable[tuple[str, Weight]], precision: str) -> None:
        self.spec, self.precision = spec, precision
        self._k = kernels()
        self._state = dict(state)
        self._packed: dict[str, Any] = {}

    def model(self) -> Any:
        """The kernels' model."""
        spec, k = self.spec, self._k
        model = k.Model()
        model.width, model.vocabulary = spec.width, spec.vocabulary
        model.embedding = self._matrix("embedding.weight")
        model.embedding_scale = spec.embedding_scale
        model.embedding_norm = self._norm("embedding_norm", spec.embedding_norm)
        model.final_norm = self._norm("norm", spec.final_norm)
        if spec.head:
            weight = model.embedding if spec.tied else self._matrix("head.weight")
            model.head = k.Linear(weight, self._vector("head.bias"))
        model.logit_scale, model.logit_cap = spec.logit_scale, spec.logit_cap or 0.0
        for index, layer in enumerate(spec.layers):
            model.add_layer(self._layer(index, layer))
        return model

    def tensor(self, name: str) -> Tensor:
        """A parameter as fp32 numbers."""
        weight = self._state[name]
        return weight.float() if isinstance(weight, Tensor) else weight.numbers()

    def _vector(self, name: str, offset: float = 0.0) -> Any:
        if name not in self._state:
            return None
        numbers = np.ascontiguousarray((self.tensor(name) + offset).numpy())
        if not np.isfinite(numbers).all():
            raise _damaged(name, "numbers that are not finite")
        return numbers

    def _norm(self, at: str, norm: NormSpec | None) -> Any:
        if norm is None:
            return None
        weight = self._vector(f"{at}.weight", norm.offset)
        return self._k.Norm(weight, self._vector(f"{at}.bias"), norm.epsilon, norm.kind == "layer")

    def _matrix(self, name: str, kind: str | None = None) -> Any:
        try:
            return self._pack(self._state.pop(name), kind)
        except ValueError as error:
            raise _damaged(name, error) from error

    def _pack(self, weight: Weight, kind: str | None = None) -> Any:
        packed = kind is None and self.precision in ("auto", "int8")
        if packed and isinstance(weight, Blocks) and weight.kind in BLOCK_KINDS:
            return self._k.Matrix.blocks(weight.kind, weight.raw.numpy(), weight.columns)
        numbers = weight.float() if isinstance(weight, Tensor) else weight.numbers()
        return self._k.Matrix.floats(kind or PACKED[self.precision], numbers.contiguous().numpy())

    def _linear(self, at: str, kind: str | None = None) -> Any:
        return self._k.Linear(self._matrix(f"{at}.weight", kind), self._vector(f"{at}.bias"))

    def _layer(self, index: int, spec: LayerSpec) -> Any:
        at, layer = f"layers.{index}", self._k.Layer()
        layer.place = PLACES.index(spec.place)
        layer.attention_norm = self._norm(f"{at}.attention_norm", spec.norm)
        if spec.place != "parallel_one_norm":
            layer.feed_forward_norm = self._norm(f"{at}.feed_forward_norm", spec.norm)
        if spec.place == "sandwich":
            layer.attention_post_norm = self._norm(f"{at}.attention_post_norm", spec.norm)
            layer.feed_forward_post_norm = self._norm(f"{at}.feed_forward_post_norm", spec.norm)
        layer.slot = self.spec.slot_of_layer[index]
        self._attention(layer, at, spec.attention)
        if isinstance(spec.feed_forward, ExpertsSpec):
            layer.experts = self._experts(f"{at}.feed_forward", spec.feed_forward)
        else:
            layer.feed_forward = self._feed_forward(f"{at}.feed_forward", spec.feed_forward)
        return layer

    def _attention(self, layer: Any, at: str, spec: AttentionSpec) -> None:
        layer.query = self._linear(f"{at}.attention.query")
        layer.out = self._linear(f"{at}.attention.out")
        if spec.kv_from is None:
            layer.key, layer.value = self._linear(f"{at}.key_value.key"), self._linear(f"{at}.key_value.value")
        how = spec.qk_norm
        if how is not None:
            layer.query_norm = self._norm(f"{at}.attention.query_norm", how.norm)
            layer.key_norm = self._norm(f"{at}.key_value.key_norm", how.norm) if spec.kv_from is None else None
            layer.norm_projection, layer.norm_after_rope = how.over == "projection", how.place == "after_rope"
        layer.heads, layer.kv_heads, layer.dim = spec.heads, spec.kv_heads, spec.head_dim
        layer.causal, layer.window, layer.pinned = spec.causal, spec.window or 0, spec.pinned if spec.window else 0
        layer.chunk = spec.rules[0]["size"] if spec.rules else 0
        layer.scale = spec.head_dim**-0.5 if spec.scale is None else spec.scale
        layer.cap = spec.soft_cap or 0.0
        if spec.sinks:
            layer.sinks = self.tensor(f"{at}.attention.sinks").tolist()
        layer.rope = -1 if spec.rope is None else ropes(self.spec).index((spec.rope, spec.head_dim))
        layer.bias = -1 if spec.bias is None else self.spec.biases.index((spec.bias, spec.heads))

    def _feed_forward(self, at: str, spec: FeedForwardSpec) -> Any:
        up, down = self._linear(f"{at}.up"), self._linear(f"{at}.down")
        gate = self._linear(f"{at}.gate") if spec.gated else None
        return self._k.FeedForward(up, down, gate, ACTIVATIONS.index(spec.activation))

    def _experts(self, at: str, spec: ExpertsSpec) -> Any:
        made = self._k.Experts()
        made.active, made.renormalise, made.noisy = spec.active, spec.renormalise, spec.routing == "noisy"
        made.router = self._linear(f"{at}.router", "f32")
        if spec.balance_bias:
            made.balance = self.tensor(f"{at}.balance").tolist()
        names = ["up", "down", *(["gate"] if spec.expert.gated else [])]
        banks = {name: self._state.pop(f"{at}.{name}") for name in names}
        made.experts = [
            self._expert(spec.expert, {name: bank[e] for name, bank in banks.items()}) for e in range(spec.count)
        ]
        if spec.shared is not None:
            made.shared = self._feed_forward(f"{at}.shared", spec.shared)
            made.shared_gate = self._linear(f"{at}.shared_gate", "f32") if spec.shared_gate else None
        return made

    def _expert(self, spec: FeedForwardSpec, weights: Mapping[str, Weight]) -> Any:
        parts = {name: self._k.Linear(self._pack(weight)) for name, weight in weights.items()}
        return self._k.FeedForward(parts["up"], parts["down"], parts.get("gate"), ACTIVATIONS.index(spec.activation))


def _damaged(name: str, what: object) -> Fault:
    return Fault(f"{name} has {what}; the model's file is damaged: fetch or convert it again")


BLOCK_KINDS = frozenset({"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"})


def ropes(spec: ModelSpec) -> list[tuple[Any, int]]:
    """The distinct rotary embeddings with their head dimensions, in order: layers that agree share one table."""
    found = ((layer.attention.rope, layer.attention.head_dim) for layer in spec.layers)
    return list(dict.fromkeys((rope, dim) for rope, dim in found if rope is not None))
