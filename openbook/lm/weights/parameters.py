"""Which parameters a model has, under our names, and in which shapes: what any checkpoint is measured against.

Letters: V vocabulary, M model width, H query heads, K key/value heads, D head dimension, E experts, I inner width.
"""

from __future__ import annotations

import torch

from openbook.lm.rules import position_bias, require
from openbook.lm.spec import (
    AttentionSpec,
    ExpertsSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelSpec,
    NormSpec,
    QKNormSpec,
    Seq2SeqSpec,
)

MOST_HEADS = 1 << 20  # with a position bias, in all layers: their modules are built to ask them
Shape = tuple[int, ...]
Shapes = dict[str, Shape]


def parameters(spec: ModelSpec | Seq2SeqSpec) -> Shapes:
    """Our names of all parameters, with their shapes (weights `[out, in]`), in the order of the model.

    An encoder–decoder has those of both, `encoder.…` and `decoder.…`; an embedding that they share is under both names.
    """
    if isinstance(spec, ModelSpec):
        return _stack(spec)
    both = {"encoder": spec.encoder, "decoder": spec.decoder}
    return {f"{side}.{name}": shape for side, stack in both.items() for name, shape in _stack(stack).items()}


def _stack(spec: ModelSpec) -> Shapes:
    shapes: Shapes = {"embedding.weight": (spec.vocabulary, spec.width)}
    if spec.positions == "learned":
        shapes["positions.weight"] = (spec.max_positions + spec.position_offset, spec.width)
    if spec.token_types:
        shapes["token_types.weight"] = (spec.token_types, spec.width)
    if spec.embedding_norm:
        shapes |= _norm("embedding_norm", spec.embedding_norm, spec.width)
    shapes |= _biases(spec)
    for index, layer in enumerate(spec.layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in _layer(layer, spec).items()}
    if spec.final_norm:
        shapes |= _norm("norm", spec.final_norm, spec.width)
    if spec.head and not spec.tied:
        shapes["head.weight"] = (spec.vocabulary, spec.width)
    if spec.head_bias:
        shapes["head.bias"] = (spec.vocabulary,)
    if spec.classifier:
        shapes |= _linear("pooler", spec.width, spec.width, True)
        shapes |= _linear("classifier", len(spec.classifier.labels), spec.width, True)
    return shapes


def _biases(spec: ModelSpec) -> Shapes:
    """What the position biases have learned: asked of their modules, since anybody may register one."""
    heads = sum(heads for _, heads in spec.biases)
    require(heads <= MOST_HEADS, f"position biases of {heads} heads are not built; at most {MOST_HEADS} are")
    with torch.device("meta"):
        modules = [position_bias.call(rule, heads) for rule, heads in spec.biases]
    return {
        f"biases.{index}.{name}": tuple(tensor.shape)
        for index, module in enumerate(modules)
        for name, tensor in module.state_dict().items()
    }


def _layer(layer: LayerSpec, spec: ModelSpec) -> Shapes:
    width = spec.width
    shapes = _attention("attention", "key_value", layer.attention, width, width)
    shapes |= _norm("attention_norm", layer.norm, width)
    if layer.cross is not None and spec.memory_width is not None:
        shapes |= _attention("cross", "cross_key_value", layer.cross, width, spec.memory_width)
        shapes |= _norm("cross_norm", layer.norm, width)
    if layer.place != "parallel_one_norm":
        shapes |= _norm("feed_forward_norm", layer.norm, width)
    shapes |= _feed_forward("feed_forward", layer.feed_forward, width)
    if layer.place == "sandwich":
        shapes |= _norm("attention_post_norm", layer.norm, width) | _norm("feed_forward_post_norm", layer.norm, width)
    return shapes


def _linear(name: str, out: int, into: int, bias: bool) -> Shapes:
    return {f"{name}.weight": (out, into), **({f"{name}.bias": (out,)} if bias else {})}


def _norm(name: str, norm: NormSpec, width: int) -> Shapes:
    return {f"{name}.weight": (width,), **({f"{name}.bias": (width,)} if norm.has_bias else {})}


def _qk_norm(name: str, how: QKNormSpec | None, heads: int, head_dim: int) -> Shapes:
    if how is None:
        return {}
    return _norm(name, how.norm, head_dim * (1 if how.over == "head" else heads))


def _attention(reader: str, producer: str, spec: AttentionSpec, width: int, memory: int) -> Shapes:
    """Queries of an input `width` wide; keys and values of one `memory` wide, unless another layer makes them."""
    shapes = _linear(f"{reader}.query", spec.heads * spec.head_dim, width, spec.qkv_bias)
    if spec.kv_from is None:
        shapes |= _linear(f"{producer}.key", spec.kv_heads * spec.head_dim, memory, spec.qkv_bias)
        shapes |= _linear(f"{producer}.value", spec.kv_heads * spec.head_dim, memory, spec.qkv_bias)
        shapes |= _qk_norm(f"{producer}.key_norm", spec.qk_norm, spec.kv_heads, spec.head_dim)
    shapes |= _qk_norm(f"{reader}.query_norm", spec.qk_norm, spec.heads, spec.head_dim)
    shapes |= {f"{reader}.sinks": (spec.heads,)} if spec.sinks else {}
    return shapes | _linear(f"{reader}.out", width, spec.heads * spec.head_dim, spec.out_bias)


def _feed_forward(at: str, spec: FeedForwardSpec | ExpertsSpec, width: int) -> Shapes:
    if isinstance(spec, ExpertsSpec):
        return _experts(at, spec, width)
    shapes = _linear(f"{at}.gate", spec.width, width, spec.bias) if spec.gated else {}
    shapes |= _linear(f"{at}.up", spec.width, width, spec.bias)
    return shapes | _linear(f"{at}.down", width, spec.width, spec.bias)


def _experts(at: str, spec: ExpertsSpec, width: int) -> Shapes:
    """Banks of all experts are parameters of their own, `[E, I, M]` and `[E, M, I]`."""
    count, inner = spec.count, spec.expert.width
    shapes = _linear(f"{at}.router", count, width, False)
    shapes |= _linear(f"{at}.noise", count, width, False) if spec.routing == "noisy" else {}
    shapes |= {f"{at}.balance": (count,)} if spec.balance_bias else {}
    shapes |= {f"{at}.gate": (count, inner, width)} if spec.expert.gated else {}
    shapes |= {f"{at}.up": (count, inner, width), f"{at}.down": (count, width, inner)}
    shapes |= _feed_forward(f"{at}.shared", spec.shared, width) if spec.shared else {}
    return shapes | (_linear(f"{at}.shared_gate", 1, width, False) if spec.shared_gate else {})
