"""From the metadata of a GGUF file to a `ModelSpec`. Keys: ggml/docs/gguf.md, section "LLM"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from openbook.errors import Fault
from openbook.lm.rules import Rule, rule
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormSpec, RopeSpec
from openbook.lm.weights.config import layer_count
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.gguf import TensorInfo

Tensors = Mapping[str, TensorInfo]
Load = Callable[[str], torch.Tensor]
ROPE_FACTORS = "rope_freqs.weight"


def spec_from_gguf(metadata: Mapping[str, Any], tensors: Tensors, load: Load | None = None) -> ModelSpec:
    """The spec of a GGUF file; `load` gives a tensor by name and is asked only for `rope_freqs.weight`.

    Raises `Fault` naming an architecture or a key that is not supported.
    """
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise Fault(f"GGUF architecture {architecture!r} is not supported; openbook runs llama")
    own = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    return _llama(Fields(own, "GGUF metadata llama"), tensors, load)


def _llama(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    fields.only("expert_count", 0)
    fields.only("expert_used_count", 0)
    fields.only("attention.causal", True)
    fields.only("use_parallel_residual", False)
    fields.only("attention.layer_norm_epsilon")
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise Fault("the GGUF file has no tensor token_embd.weight; it is not a whole model")
    width, heads = fields.whole("embedding_length"), fields.whole("attention.head_count")
    head_dim = _head_dim(fields, max(1, width // heads))
    norm = NormSpec("rms", fields.real("attention.layer_norm_rms_epsilon"))
    window = fields.take("attention.sliding_window")
    attention = AttentionSpec(
        heads=heads,
        kv_heads=fields.whole("attention.head_count_kv", heads),
        head_dim=head_dim,
        window=None if window in (None, 0) else fields.whole("attention.sliding_window"),
        rope=_rope(fields, head_dim, tensors, load),
        qkv_bias="blk.0.attn_q.bias" in tensors,
        out_bias="blk.0.attn_output.bias" in tensors,
    )
    feed_forward = FeedForwardSpec(fields.whole("feed_forward_length"), "silu", bias="blk.0.ffn_up.bias" in tensors)
    spec = ModelSpec(
        vocabulary=embedding.shape[0],
        width=width,
        layers=(LayerSpec(attention, feed_forward, norm),) * layer_count(fields, "block_count"),
        max_positions=fields.whole("context_length"),
        tied="output.weight" not in tensors,
        final_norm=norm,
    )
    fields.only("vocab_size", spec.vocabulary)
    fields.finish({"tensor_data_layout"})
    return spec


def _head_dim(fields: Fields, default: int) -> int:
    """Keys, values and the rotated part must all be as wide as a head."""
    head_dim = fields.whole("attention.key_length", default)
    fields.only("attention.value_length", head_dim)
    fields.only("rope.dimension_count", head_dim)
    return head_dim


def _rope(fields: Fields, head_dim: int, tensors: Tensors, load: Load | None) -> RopeSpec:
    base = fields.real("rope.freq_base", 10_000.0)
    kind = fields.take("rope.scaling.type", "none")
    original = fields.take("rope.scaling.original_context_length")
    fields.take("rope.scaling.finetuned")  # whether the model was trained with the scaling: no arithmetic
    fields.only("rope.scaling.attn_factor", 1, 1.0)
    old_factor = fields.real("rope.scale_linear", 1.0)  # the key's name before 2023-10
    factor = fields.real("rope.scaling.factor", old_factor)
    if kind not in ("none", "linear"):
        raise fields.fault("rope.scaling.type", f"is {kind!r}, which is not supported; none and linear are")
    scaling = rule("linear", factor=factor) if factor != 1.0 and (kind == "linear" or old_factor != 1.0) else None
    if ROPE_FACTORS not in tensors:
        return RopeSpec(base, scaling)
    if scaling is not None:
        raise Fault(f"the GGUF file scales RoPE twice: rope.scaling.factor and the tensor {ROPE_FACTORS}")
    if load is None or tensors[ROPE_FACTORS].count != head_dim // 2:
        raise Fault(f"tensor {ROPE_FACTORS} must hold {head_dim // 2} factors, half a head")
    return RopeSpec(base, _scaling_of(load(ROPE_FACTORS).double().tolist(), base, original))


def _scaling_of(factors: list[float], base: float, original: object) -> Rule | None:
    """The llama3 scaling that gives these divisors of the frequencies.

    A GGUF stores the divisors and not the four numbers that made them. The numbers of every released model are
    tried, and taken only if they give all divisors back; any other tensor is refused by name.
    """
    if all(factor == 1.0 for factor in factors):
        return None
    if min(factors) == max(factors):
        return rule("linear", factor=factors[0])
    lengths = {8192, *([original] if isinstance(original, int) and original >= 1 else [])}
    for length in sorted(lengths, reverse=True):
        if not all(math.isfinite(factor) and factor > 0 for factor in factors):
            break
        scaling = rule("llama3", factor=max(factors), low=1.0, high=4.0, original=length)
        if all(
            math.isclose(*pair, rel_tol=1e-4)
            for pair in zip(factors, llama3_divisors(scaling, base, len(factors)), strict=True)
        ):
            return scaling
    raise Fault(f"tensor {ROPE_FACTORS} is not a llama3 scaling that openbook knows; take the safetensors checkpoint")


def llama3_divisors(scaling: Rule, base: float, pairs: int) -> list[float]:
    """What llama3 scaling divides each of `pairs` rotary frequencies by, fastest first (Llama 3.1)."""
    low, high = scaling["low"], scaling["high"]
    divisors = []
    for index in range(pairs):
        turns = scaling["original"] * base ** (-index / pairs) / (2 * math.pi)
        blend = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1 / ((1 - blend) / scaling["factor"] + blend))
    return divisors
