"""Small decoders drawn over everything that meets a cache, and how to run them without rounding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from hypothesis import strategies as st

from openbook.lm.decoder import Decoder
from openbook.lm.rules import rule
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

VOCABULARY = 61
CAPACITY = 40
LLAMA3 = rule("llama3", factor=8.0, low=1.0, high=4.0, original=16)
ROPES = [None, RopeSpec(), RopeSpec(500.0, LLAMA3), RopeSpec(dims=4)]
BIASES = [None, None, rule("alibi"), rule("relative", buckets=8, max_distance=16, both_ways=False)]
PLACES = ["pre", "pre", "post", "sandwich", "parallel", "parallel_one_norm"]
EXPERTS = ExpertsSpec(4, 2, FeedForwardSpec(12))


@st.composite
def attentions(draw) -> AttentionSpec:
    """What a producer and its readers agree in, and one way to look."""
    kv_heads = draw(st.sampled_from([1, 2]))
    norm = NormSpec(draw(st.sampled_from(["rms", "layer"])), 1e-6)
    over, place = draw(
        st.sampled_from([("head", "before_rope"), ("head", "after_rope"), ("projection", "before_rope")])
    )
    return AttentionSpec(
        heads=kv_heads * draw(st.sampled_from([1, 2, 3])),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([4, 8])),
        rope=draw(st.sampled_from(ROPES)),
        qk_norm=draw(st.sampled_from([None, None, QKNormSpec(norm, over, place)])),
        qkv_bias=draw(st.booleans()),
        **looks(draw),
    )


def looks(draw) -> dict:
    """What every reader of the same keys may have of its own."""
    window = draw(st.sampled_from([None, 1, 2, 3, 5, 8, 20, 60]))
    return {
        "window": window,
        "pinned": draw(st.integers(0, 5)) if window else 0,
        "rules": draw(st.sampled_from([(), (), (rule("chunked", size=6),)])),
        "sinks": draw(st.booleans()),
        "bias": draw(st.sampled_from(BIASES)),
        "scale": draw(st.sampled_from([None, 0.4])),
        "soft_cap": draw(st.sampled_from([None, 3.0])),
    }


@st.composite
def specs(draw) -> ModelSpec:
    """A decoder whose layers differ in how they look, some of which read an earlier layer's keys."""
    base = draw(attentions())
    layers: list[LayerSpec] = []
    for index in range(draw(st.integers(1, 4))):
        producers = [i for i, layer in enumerate(layers) if layer.attention.kv_from is None]
        source = draw(st.sampled_from([None, *producers])) if index else None
        same = {name: getattr(base, name) for name in ("heads", "kv_heads", "head_dim", "rope", "qk_norm", "qkv_bias")}
        attention = AttentionSpec(**same, **looks(draw), kv_from=source)
        feed_forward = draw(st.sampled_from([FeedForwardSpec(24), FeedForwardSpec(24, "gelu", gated=False), EXPERTS]))
        layers.append(LayerSpec(attention, feed_forward, place=draw(st.sampled_from(PLACES))))
    return ModelSpec(
        VOCABULARY,
        16,
        tuple(layers),
        64,
        tied=draw(st.booleans()),
        positions=draw(st.sampled_from([None, "learned", "sinusoidal"])),
        logit_cap=draw(st.sampled_from([None, 5.0])),
    )


def decoder(spec: ModelSpec, seed: int, dtype: torch.dtype = torch.float64) -> Decoder:
    """Random weights everywhere, sinks and biases too, which begin at zero."""
    torch.manual_seed(seed)
    made = Decoder(spec)
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return made.to(dtype).eval()


@contextmanager
def unrounded() -> Iterator[None]:
    """Nothing that is double is rounded to fp32 on the way.

    A codec rounds: what differs in the last bit may be a whole step apart afterwards. In double precision the last bit
    is too small for that to happen, so cached and uncached can be compared exactly.
    """
    single = torch.Tensor.float
    with patch.object(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else single(x)):
        yield
