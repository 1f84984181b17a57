"""Laws of encoder–decoders for drawn specs: a cache changes nothing, padding changes nothing, nor does the company."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.lm.cache.codecs import codec_named
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.cache.protocol import Transient
from openbook.lm.rules import rule
from openbook.lm.seq2seq import Seq2Seq, classic
from openbook.lm.spec import (
    AttentionSpec,
    ExpertsSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelSpec,
    NormSpec,
    QKNormSpec,
    RopeSpec,
    Seq2SeqSpec,
    SpecError,
)

V, M, D, S, T = 23, 16, 8, 6, 7


@st.composite
def specs(draw: st.DrawFn) -> Seq2SeqSpec:
    """Encoder–decoders that no paper has: every variant of attention, in layers that read a memory."""
    kind = draw(st.sampled_from(["rms", "layer"]))
    norm, place = NormSpec(kind), draw(st.sampled_from(["pre", "post"]))
    positions = draw(st.sampled_from([None, "learned", "sinusoidal"]))
    inner: FeedForwardSpec | ExpertsSpec = FeedForwardSpec(12, "gelu", gated=draw(st.booleans()))
    inner = draw(st.sampled_from([inner, ExpertsSpec(4, 2, FeedForwardSpec(6))]))

    def attention(causal: bool, window: int | None, source: int | None) -> AttentionSpec:
        bias = rule("relative", buckets=8, max_distance=6, both_ways=not causal) if positions is None else None
        return AttentionSpec(
            4,
            kv_heads,
            D,
            causal=causal,
            window=window,
            bias=bias,
            rope=rope,
            qk_norm=qk_norm,
            sinks=sinks,
            kv_from=source,
        )

    kv_heads = draw(st.sampled_from([1, 2, 4]))
    rope, sinks = draw(st.sampled_from([None, RopeSpec()])), draw(st.booleans())
    qk_norm = draw(st.sampled_from([None, QKNormSpec(norm)]))
    windows = [draw(st.sampled_from([None, 1, 3])) for _ in range(2)]
    shared = draw(st.booleans())
    cross = AttentionSpec(
        4, draw(st.sampled_from([1, 2, 4])), D, causal=False, scale=draw(st.sampled_from([None, 1.0]))
    )
    final = norm if place == "pre" else None
    common = {"vocabulary": V, "max_positions": 16, "positions": positions, "final_norm": final}
    return Seq2SeqSpec(
        encoder=ModelSpec(
            width=M, layers=(LayerSpec(attention(False, None, None), inner, norm, place),) * 2, head=False, **common
        ),
        decoder=ModelSpec(
            width=M,
            layers=tuple(
                LayerSpec(attention(True, window, 0 if layer and shared else None), inner, norm, place, cross)
                for layer, window in enumerate(windows)
            ),
            tied=draw(st.booleans()),
            memory_width=M,
            **common,
        ),
        start=0,
        shared_embedding=draw(st.booleans()),
    )


def built(spec: Seq2SeqSpec, seed: int) -> Seq2Seq:
    torch.manual_seed(seed)
    model = Seq2Seq(spec).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@settings(max_examples=40, deadline=None)
@given(
    specs(),
    st.integers(0, 2**31),
    st.sampled_from(["dense", "ring", "paged"]),
    st.sampled_from(["raw", "int8", "int4"]),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
@torch.no_grad()
def test_cached_is_uncached_in_any_chunks(
    spec: Seq2SeqSpec, seed: int, layout: str, codec: str, sizes: list[int]
) -> None:
    model = built(spec, seed)
    read, write = torch.randint(V, (2, S)), torch.randint(V, (2, sum(sizes)))
    memory = model.encode(read)
    whole = model(write, cache=Transient(spec.decoder, codec_named(codec)), memory=memory)
    kind = CacheSpec(layout, codec, block=2)
    cache = make_cache(spec.decoder, kind, 2, sum(sizes), torch.float32, torch.device("cpu"))
    parts = [model(part, cache=cache, memory=memory) for part in write.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-3, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(specs(), st.integers(0, 2**31), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
@torch.no_grad()
def test_padding_and_company_change_nothing(spec: Seq2SeqSpec, seed: int, before: int, after: int, late: int) -> None:
    """A text alone, and beside a longer one, padded wherever: it is read and written the same."""
    model = built(spec, seed)
    alone, other = torch.randint(V, (1, S - 2)), torch.randint(V, (1, S + 4))
    write = torch.randint(V, (1, T))
    expected = model(write, memory=model.encode(alone))
    width = max(S + 4, before + S - 2 + after)
    tokens, positions = torch.zeros(2, width, dtype=torch.long), torch.full((2, width), -1)
    tokens[0, before : before + S - 2], positions[0, before : before + S - 2] = alone[0], torch.arange(S - 2)
    tokens[1, : S + 4], positions[1, : S + 4] = other[0], torch.arange(S + 4)
    writes, places = torch.zeros(2, late + T, dtype=torch.long), torch.full((2, late + T), -1)
    writes[0, late:], places[0, late:] = write[0], torch.arange(T)
    writes[1, :T], places[1, :T] = write[0], torch.arange(T)
    memory = model.encode(tokens, positions)
    found = model(writes, places, memory=memory)
    torch.testing.assert_close(found[0, late:], expected[0], rtol=1e-3, atol=1e-3)
    moved = model(writes.flip(0), places.flip(0), memory=memory.select([1, 0]))
    torch.testing.assert_close(moved, found.flip(0), rtol=1e-3, atol=1e-3)


def test_what_is_no_encoder_decoder_is_refused() -> None:
    fine = classic(V, width=M, heads=2, layers=1)
    for build, said in (
        (lambda: Seq2SeqSpec(fine.decoder, fine.decoder, 0), "has no head"),
        (lambda: Seq2SeqSpec(fine.encoder, fine.encoder, 0), "needs a next-token head"),
        (lambda: Seq2SeqSpec(fine.encoder, fine.decoder, V), "not in the vocabulary"),
        (lambda: Seq2SeqSpec(classic(V + 1, width=M, heads=2).encoder, fine.decoder, 0), "one vocabulary and width"),
        (lambda: Seq2SeqSpec(classic(V, width=2 * M, heads=2).encoder, fine.decoder, 0), "reads a memory 16 wide"),
    ):
        with pytest.raises(SpecError, match=said):
            build()


def test_the_example_of_the_page_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "encoder-decoder.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(compile(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], "encoder-decoder.md", "exec"), names)  # noqa: S102
    assert len(names["memory"].keys_values) == 3 and names["memory"].keys_values[0][0].shape == (2, 4, 9, 16)
    assert names["log_p"].shape == (3, 1000)
