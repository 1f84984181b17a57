"""Small models drawn over everything that the native kernels run, their runners, and quantised weights to give them.

Sizes are drawn odd on purpose: heads, widths and vocabularies that no register holds evenly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from openbook.lm.backends.native import NativeRunner
from openbook.lm.backends.native_build import Weight
from openbook.lm.cache.make import AUTO, CacheSpec
from openbook.lm.rules import Rule, rule
from openbook.lm.spec import (
    AttentionSpec,
    ExpertsSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelSpec,
    NormSpec,
    QKNormSpec,
    RopeSpec,
)
from openbook.lm.stack import Stack
from openbook.lm.stacks import build
from openbook.lm.weights.blocks import Blocks
from openbook.lm.weights.quants import QUANTS
from openbook.native import kernels

needs_kernels = pytest.mark.skipif(kernels() is None, reason="the native kernels are not installed")
LONGEST = 320
"""Positions of the drawn models."""
BIASES = [None, None, rule("alibi"), rule("alibi", scale=0.25)]
ACTIVATIONS = ["silu", "gelu", "gelu_tanh", "relu"]
PLACES = ["pre", "pre", "post", "sandwich", "parallel", "parallel_one_norm"]
KINDS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
"""Blocks of GGUF that stay as they are."""


def scalings(pairs: int, growing: bool) -> list[Rule | None]:
    """Every way to stretch frequencies; `growing` ones change with the text, so that what is cached is another's."""
    fixed = [
        None,
        None,
        rule("linear", factor=2.5),
        rule("llama3", factor=8.0, low=1.0, high=4.0, original=16),
        rule("yarn", factor=4.0, original=16, table_factor=1.3),
        rule("yarn", factor=4.0, original=16, table_factor=0.8, fast=8.0, slow=0.5, truncate=False),
    ]
    short, long = tuple(1.0 + i / 7 for i in range(pairs)), tuple(2.0 + i for i in range(pairs))
    more = [
        rule("dynamic", factor=3.0, original=12),
        rule("longrope", short=short, long=long, original=12, table_factor=1.1),
    ]
    return fixed + more if growing else fixed


@st.composite
def norms(draw: Any, epsilon: float = 1e-6) -> NormSpec:
    if draw(st.booleans()):
        return NormSpec("layer", epsilon, bias=draw(st.booleans()))
    return NormSpec("rms", epsilon, offset=draw(st.sampled_from([0.0, 0.0, 1.0])))


@st.composite
def ropes(draw: Any, head_dim: int, growing: bool) -> RopeSpec | None:
    even = [dims for dims in (2, 4, 10, 16) if dims <= head_dim]
    if head_dim % 2:
        dims = draw(st.sampled_from(even)) if even else None
    else:
        dims = draw(st.sampled_from([None, None, *even]))
    turned = head_dim if dims is None else dims
    if turned % 2 or draw(st.integers(0, 3)) == 0:
        return None
    return RopeSpec(
        draw(st.sampled_from([100.0, 10_000.0])), draw(st.sampled_from(scalings(turned // 2, growing))), dims
    )


def looks(draw: Any, causal: bool) -> dict[str, Any]:
    """What every reader of the same keys may have of its own."""
    window = draw(st.sampled_from([None, None, 1, 2, 3, 7, 20, 60]))
    chunked = draw(st.integers(0, 3)) == 0
    both_ways = not causal or draw(st.booleans())
    relative = rule("relative", buckets=8, max_distance=16, both_ways=both_ways)
    return {
        "causal": causal,
        "window": window,
        "pinned": draw(st.sampled_from([0, 1, 5, 18])) if window and not chunked else 0,
        "rules": (rule("chunked", size=draw(st.sampled_from([1, 6, 17]))),) if chunked else (),
        "sinks": draw(st.booleans()),
        "bias": draw(st.sampled_from([*BIASES, relative])),
        "scale": draw(st.sampled_from([None, 0.4])),
        "soft_cap": draw(st.sampled_from([None, 3.0])),
    }


@st.composite
def feed_forwards(draw: Any, widths: tuple[int, ...] = (8, 24, 33)) -> FeedForwardSpec | ExpertsSpec:
    def plain(bias: bool) -> FeedForwardSpec:
        activation, gated = draw(st.sampled_from(ACTIVATIONS)), draw(st.booleans())
        return FeedForwardSpec(draw(st.sampled_from(widths)), activation, gated, bias)

    if draw(st.integers(0, 2)):
        return plain(draw(st.booleans()))
    count = draw(st.integers(2, 5))
    active = draw(st.integers(1, count))
    noisy = active > 1 and draw(st.integers(0, 3)) == 0
    shared = plain(draw(st.booleans())) if draw(st.booleans()) else None
    return ExpertsSpec(
        count,
        active,
        plain(False),
        "noisy" if noisy else "softmax",
        renormalise=active > 1 and (noisy or draw(st.booleans())),
        balance_bias=not noisy and draw(st.booleans()),
        shared=shared,
        shared_gate=shared is not None and draw(st.booleans()),
    )


@st.composite
def specs(
    draw: Any,
    *,
    causal: bool = True,
    head: bool = True,
    growing: bool = False,
    head_dims: tuple[int, ...] = (3, 4, 8, 15, 16, 18, 32, 48, 80),
    widths: tuple[int, ...] = (5, 16, 20, 33),
    inner: tuple[int, ...] = (8, 24, 33),
    vocabularies: tuple[int, ...] = (17, 61, 64),
) -> ModelSpec:
    """A model whose layers differ in how they look, some of which read an earlier layer's keys (CLA)."""
    kv_heads, head_dim = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from(head_dims))
    over, place = draw(
        st.sampled_from([("head", "before_rope"), ("head", "after_rope"), ("projection", "before_rope")])
    )
    qk_norm = QKNormSpec(draw(norms()), over, place) if draw(st.integers(0, 2)) == 0 else None
    rope = draw(ropes(head_dim, growing))
    layers: list[LayerSpec] = []
    for index in range(draw(st.integers(1, 3))):
        producers = [i for i, layer in enumerate(layers) if layer.attention.kv_from is None]
        attention = AttentionSpec(
            heads=kv_heads * draw(st.sampled_from([1, 2, 3, 5])),
            kv_heads=kv_heads,
            head_dim=head_dim,
            rope=rope,
            qk_norm=qk_norm,
            qkv_bias=draw(st.booleans()),
            out_bias=draw(st.booleans()),
            kv_from=draw(st.sampled_from([None, *producers])) if index else None,
            **looks(draw, causal),
        )
        layers.append(LayerSpec(attention, draw(feed_forwards(inner)), draw(norms()), draw(st.sampled_from(PLACES))))
    width = draw(st.sampled_from(widths))
    positions = draw(st.sampled_from([None, None, "learned", "learned" if width % 2 else "sinusoidal"]))
    return ModelSpec(
        draw(st.sampled_from(vocabularies)),
        width,
        tuple(layers),
        LONGEST,
        head=head,
        tied=draw(st.booleans()),
        head_bias=head and draw(st.booleans()),
        embedding_scale=draw(st.sampled_from([1.0, 2.5])),
        positions=positions,
        position_offset=2 if positions == "learned" and draw(st.booleans()) else 0,
        token_types=draw(st.sampled_from([0, 0, 2])),
        embedding_norm=draw(st.sampled_from([None, None, NormSpec("layer", 1e-6), NormSpec()])),
        final_norm=draw(st.sampled_from([NormSpec("rms", 1e-6), NormSpec("layer", 1e-6, bias=False), None])),
        logit_scale=draw(st.sampled_from([1.0, 0.3])),
        logit_cap=draw(st.sampled_from([None, 5.0])),
    )


def weighted(spec: ModelSpec, seed: int, gain: float = 1.2, dtype: torch.dtype = torch.float64) -> Any:
    """The model with random weights everywhere, sinks, biases and norms too; those of norms around 1.

    A matrix multiplies the size of what it is given by `gain`, so that rounding does not grow much from layer to layer.
    """
    torch.manual_seed(seed)
    made: Stack = build(spec)  # type: ignore[assignment]
    for name, weight in made.named_parameters():
        std = gain * weight.shape[-1] ** -0.5 if weight.dim() > 1 else 0.3
        torch.nn.init.normal_(weight, std=std, mean=1.0 if name.endswith("norm.weight") else 0.0)
    for name, buffer in made.named_buffers():
        if name.endswith("balance"):
            torch.nn.init.normal_(buffer, std=0.3)
    return made.to(dtype).eval()


def native(
    model: Any, caching: CacheSpec = AUTO, *, precision: str = "fp32", threads: int = 1, isa: str = ""
) -> NativeRunner:
    """The same model on the native kernels."""
    state = [(name, weight.float()) for name, weight in model.state_dict().items()]
    return NativeRunner(model.spec, state, caching, precision=precision, threads=threads, isa=isa)


def blocks(kind: str, rows: int, columns: int, seed: int, size: float = 0.05) -> Blocks:
    """A matrix of this kind: any levels, any small scales, numbers of about `size`."""
    quant = QUANTS[kind]
    draw = np.random.default_rng(seed)
    count = rows * columns // quant.weights
    raw = draw.integers(0, 256, (count, quant.bytes), dtype=np.uint8)
    # Where a block keeps its scale, and its minimum if it has one (ggml-common.h). Super-blocks multiply theirs by
    # whole numbers of 4, 6 or 8 bits.
    at, shrink = {
        "Q4_0": ([0], 8), "Q4_1": ([0, 2], 8), "Q5_0": ([0], 16), "Q5_1": ([0, 2], 16), "Q8_0": ([0], 128),
        "Q2_K": ([80, 82], 30), "Q3_K": ([108], 60), "Q4_K": ([0, 2], 400), "Q5_K": ([0, 2], 800),
        "Q6_K": ([208], 2000),
    }[kind]  # fmt: skip
    for place in at:
        numbers = draw.normal(0, size / shrink, count).astype("<f2")
        raw[:, place : place + 2] = numbers.view(np.uint8).reshape(count, 2)
    return Blocks(kind, torch.from_numpy(raw.reshape(rows, -1)), columns)


def quantised(model: Any, kinds: list[str], seed: int) -> dict[str, Weight]:
    """A state whose matrices are blocks, of the kinds in turn; what has no whole blocks in a row stays a float."""
    state: dict[str, Weight] = {}
    for index, (name, weight) in enumerate(model.state_dict().items()):
        kind = kinds[index % len(kinds)]
        if weight.dim() == 2 and weight.shape[1] % QUANTS[kind].weights == 0 and "router" not in name:
            state[name] = blocks(kind, *weight.shape, seed + index, 2 * weight.shape[1] ** -0.5)
        else:
            state[name] = weight.float()
    return state


def plain(state: dict[str, Weight]) -> dict[str, Tensor]:
    """The numbers that such a state stands for."""
    return {name: w if isinstance(w, Tensor) else w.numbers() for name, w in state.items()}


def batch(draw: Any, vocabulary: int, longest: int = 40, rows: int = 3) -> tuple[Tensor, Tensor]:
    """Texts of any lengths: tokens, and positions with −1 on either side of them or between them.

    A text may begin at a later position than 0, and leave positions out: who sees whom follows from positions alone.
    """
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=rows))
    width = max(lengths) + draw(st.sampled_from([0, 0, 3]))
    tokens, positions = torch.randint(0, vocabulary, (len(lengths), width)), torch.full((len(lengths), width), -1)
    for row, length in enumerate(lengths):
        at = {
            "right": torch.arange(length),
            "left": torch.arange(width - length, width),
            "between": torch.randperm(width)[:length].sort().values,
        }[draw(st.sampled_from(["right", "left", "between"]))]
        first, step = draw(st.sampled_from([(0, 1), (0, 1), (5, 1), (1, 2)]))
        positions[row, at] = first + step * torch.arange(length)
    return tokens, positions
