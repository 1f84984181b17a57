"""From the metadata of a GGUF file to a spec: the registry, and what architectures share.

Keys: ggml/docs/gguf.md, section "LLM". The architectures themselves are in `gguf_families.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from openbook.errors import Fault
from openbook.lm.rules import Rule, rule
from openbook.lm.spec import ModelSpec, RopeSpec, Seq2SeqSpec
from openbook.lm.weights.config import layer_count as layer_count
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.gguf import TensorInfo
from openbook.lm.weights.names import NameTable

Tensors = Mapping[str, TensorInfo]
Load = Callable[[str], torch.Tensor]
Build = Callable[[Fields, Tensors, Load | None], ModelSpec | Seq2SeqSpec]
ROPE_FACTORS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"


@dataclass(frozen=True)
class GGUFFamily:
    """How an architecture's metadata becomes a spec, and what its files call our parameters."""

    build: Build
    names: NameTable


GGUF_FAMILIES: dict[str, GGUFFamily] = {}


def gguf_family(architecture: str, names: NameTable) -> Callable[[Build], Build]:
    """Register the decorated function for a `general.architecture`."""

    def register(build: Build) -> Build:
        GGUF_FAMILIES[architecture] = GGUFFamily(build, names)
        return build

    return register


def family_of(metadata: Mapping[str, Any]) -> GGUFFamily:
    """The family of a GGUF file; a `Fault` names an architecture that is not supported."""
    from openbook.lm.weights import gguf_families  # noqa: F401 - registers the families

    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in GGUF_FAMILIES:
        known = ", ".join(sorted(GGUF_FAMILIES))
        raise Fault(f"GGUF architecture {repr(architecture)[:80]} is not supported; openbook runs {known}")
    return GGUF_FAMILIES[architecture]


def spec_from_gguf(metadata: Mapping[str, Any], tensors: Tensors, load: Load | None = None) -> ModelSpec | Seq2SeqSpec:
    """The spec of a GGUF file; `load` gives a tensor by name and is asked only for RoPE's factors.

    Raises `Fault` naming an architecture or a key that is not supported.
    """
    family, prefix = family_of(metadata), f"{metadata['general.architecture']}."
    own = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    return family.build(Fields(own, f"GGUF metadata {prefix[:-1]}"), tensors, load)


def vocabulary(tensors: Tensors) -> int:
    """The number of tokens: the rows of the embedding."""
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise Fault("the GGUF file has no tensor token_embd.weight; it is not a whole model")
    return embedding.shape[0]


def head_dim(fields: Fields, default: int) -> int:
    """Keys and values must be as wide as a head."""
    dim = fields.whole("attention.key_length", default)
    fields.only("attention.value_length", dim)
    return dim


def rope(fields: Fields, dim: int, tensors: Tensors, load: Load | None) -> RopeSpec:
    """RoPE over heads of `dim`: its base, the part that turns, its scaling (linear, yarn, llama3, longrope)."""
    base, dims = fields.real("rope.freq_base", 10_000.0), fields.whole("rope.dimension_count", dim)
    part = None if dims == dim else dims
    kind = fields.take("rope.scaling.type", "none")
    original = fields.take("rope.scaling.original_context_length")
    fields.take("rope.scaling.finetuned")  # whether the model was trained with the scaling: no arithmetic
    table_factor = fields.real("rope.scaling.attn_factor", 1.0)
    old_factor = fields.real("rope.scale_linear", 1.0)  # the key's name before 2023-10
    factor = fields.real("rope.scaling.factor", old_factor)
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise fields.fault("rope.scaling.type", f"is {kind!r}; supported are none, linear, yarn and longrope")
    if LONG in tensors or SHORT in tensors:
        return RopeSpec(base, _longrope(fields, dims, tensors, load, table_factor), part)
    if table_factor != 1.0:
        raise fields.fault("rope.scaling.attn_factor", f"is {table_factor}, which only longrope has")
    scaling = rule("linear", factor=factor) if factor != 1.0 and (kind == "linear" or old_factor != 1.0) else None
    if kind == "yarn":
        length = fields.whole("rope.scaling.original_context_length")
        table = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0  # YaRN, section 3.4
        fields.only("rope.scaling.yarn_ext_factor", 1.0)
        fields.only("rope.scaling.yarn_attn_factor", 1.0)
        fast, slow = (
            fields.real(f"rope.scaling.yarn_beta_{name}", turns) for name, turns in (("fast", 32.0), ("slow", 1.0))
        )
        scaling = rule("yarn", factor=factor, original=length, table_factor=table, fast=fast, slow=slow)
    if ROPE_FACTORS not in tensors:
        return RopeSpec(base, scaling, part)
    if scaling is not None:
        raise Fault(f"the GGUF file scales RoPE twice: rope.scaling.factor and the tensor {ROPE_FACTORS}")
    return RopeSpec(base, _scaling_of(_factors(ROPE_FACTORS, dims, tensors, load), base, original), part)


def _factors(name: str, dims: int, tensors: Tensors, load: Load | None) -> list[float]:
    if load is None or name not in tensors or tensors[name].count != dims // 2:
        raise Fault(f"tensor {name} must hold {dims // 2} factors, one for each pair of a head")
    factors: list[float] = load(name).double().tolist()
    return factors


def _longrope(fields: Fields, dims: int, tensors: Tensors, load: Load | None, table_factor: float) -> Rule:
    return rule(
        "longrope",
        long=tuple(_factors(LONG, dims, tensors, load)),
        short=tuple(_factors(SHORT, dims, tensors, load)),
        original=fields.whole("rope.scaling.original_context_length"),
        table_factor=table_factor,
    )


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
