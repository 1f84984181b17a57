"""Rows that begin with prefixes kept elsewhere are rows that hold them: the same numbers, and nothing copied."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cache_specs import CAPACITY, decoder, specs
from hypothesis import given, settings
from hypothesis import strategies as st
from native_specs import needs_kernels
from test_cache import CODECS
from test_native_exact import Made, models, run

from openbook.lm.backends.runner import FEW
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.branched import BranchedCache, branched_cache
from openbook.lm.cache.codecs import codec_named
from openbook.lm.cache.make import CacheSpec
from openbook.lm.cache.plan import plan
from openbook.lm.cache.prefixes import Prefix
from openbook.lm.spec import ModelSpec

LENGTHS = st.lists(st.sampled_from([0, 1, 3, 9, 21]), min_size=1, max_size=4)


def branched(runner: Any, prefixes: list[Prefix | None], room: int) -> BranchedCache:
    codec = codec_named(runner.caching.codec)
    return branched_cache(plan(runner.spec), codec, prefixes, room, runner.dtype, runner.device)


def bits_of(cache: Any) -> list[torch.Tensor]:
    return [part for row in range(cache.batch) for parts in cache.prefix(row).slots for part in parts]


@given(specs(), st.sampled_from(["raw", *CODECS]), LENGTHS, st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=25)
def test_branched_rows_are_dense_rows(spec: ModelSpec, codec: str, lengths: list[int], counts: list[int]) -> None:
    """Cached = whole, forked, and gone back; in torch, to rounding."""
    if any(layer.attention.head_dim % 2 for layer in spec.layers):
        return
    runner = TorchRunner(decoder(spec, 0), CacheSpec("dense", codec))
    torch.manual_seed(len(lengths))
    prefixes = [runner.prefill(torch.randint(0, 61, (n,)).tolist()) if n else None for n in lengths]
    mine, dense = branched(runner, prefixes, CAPACITY), runner.cache(prefixes, CAPACITY)
    steps = torch.randint(0, 61, (len(lengths), sum(counts) + 4))
    for part in steps[:, :-4].split(counts, dim=1):
        torch.testing.assert_close(runner.forward(part, mine), runner.forward(part, dense), atol=1e-9, rtol=1e-9)
    rows = [len(lengths) - 1, 0, 0]
    mine.select(rows)
    dense.select(rows)
    read = steps[rows, -4:]
    found = [runner.forward(read, cache) for cache in (mine, dense)]
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-9)
    mine.retract(3)
    again = runner.forward(read[:, 1:], mine)
    torch.testing.assert_close(again, found[0][:, 1:], atol=1e-9, rtol=1e-9)
    for one, other in zip(bits_of(mine), bits_of(dense), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9 if codec == "raw" else 1.0, rtol=1e-9)


@needs_kernels
@given(models(), LENGTHS, st.lists(st.sampled_from([1, 1, 4, 11, 12, 40]), min_size=1, max_size=4))
@settings(max_examples=20)
def test_natively_they_are_dense_rows_to_the_last_bit(made: Made, lengths: list[int], counts: list[int]) -> None:
    """Whatever is read after them, forked in between; also texts so long that their keys are laid out, unless a window
    has left some behind: of those a dense cache holds the places, a branched one does not, so sums begin elsewhere."""
    spec, state, caching = made
    if any(layer.attention.window for layer in spec.layers):
        counts = [min(count, FEW - 1) for count in counts]
    runner = run((spec, state, CacheSpec("dense", caching.codec)))
    prefixes = [runner.prefill([(5 * i + n) % spec.vocabulary for i in range(3 * n)]) if n else None for n in lengths]
    mine, dense = branched(runner, prefixes, 4 * sum(counts) + 2), runner.cache(prefixes, 4 * sum(counts) + 2)
    for count in counts:
        tokens = torch.randint(0, spec.vocabulary, (mine.batch, count))
        assert torch.equal(runner.forward(tokens, mine), runner.forward(tokens, dense))
        rows = [*range(mine.batch), 0][:6]
        mine.select(rows)
        dense.select(rows)
    assert all(map(torch.equal, bits_of(mine), bits_of(dense)))


@needs_kernels
def test_what_rows_begin_with_is_there_once(tiny_model: Any) -> None:
    from openbook.lm.backends.native import NativeRunner

    weights = tiny_model.runner.decoder.state_dict().items()
    runner = NativeRunner(tiny_model.spec, weights, precision="fp32", threads=1)
    passage = runner.prefill(list(range(200)))
    caches = [runner.cache([passage, passage], 8) for _ in range(10)]
    assert all(isinstance(cache, BranchedCache) and cache.prefixes[0] is passage for cache in caches)
    per_token = passage.nbytes // passage.length
    assert sum(cache.nbytes for cache in caches) == 10 * 2 * 8 * per_token
    with pytest.raises(ValueError, match="began with"):
        caches[0].retract(1)
    with pytest.raises(RuntimeError, match="empty row"):
        caches[0].restore(0, passage)
