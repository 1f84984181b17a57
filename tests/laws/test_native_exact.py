"""A token's numbers do not depend on what is computed beside it, to the last bit.

On quantised weights with keys in bf16, as models run: activations are rounded to eight bits a block, so two sums that
differ in their last bit could part at once. They must not differ.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_specs import KINDS, needs_kernels, quantised, specs, weighted
from test_cache import CODECS, LAYOUTS

from openbook.lm.backends.native import NativeRunner
from openbook.lm.backends.native_build import Weight
from openbook.lm.backends.runner import FEW
from openbook.lm.cache.make import CacheSpec
from openbook.lm.spec import ModelSpec

pytestmark = needs_kernels
Made = tuple[ModelSpec, dict[str, Weight], CacheSpec]


@st.composite
def models(draw: Any) -> Made:
    """A spec, weights in blocks of several kinds, and a cache."""
    wide = draw(st.integers(0, 3)) == 0  # k-quants come in blocks of 256
    sizes = (256,) if wide else (64, 96)
    spec = draw(specs(head_dims=(16, 18, 32, 64), widths=sizes, inner=sizes))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    state = quantised(weighted(spec, 0), kinds, draw(st.integers(0, 99)))
    layout, codec = draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(["raw", *CODECS]))
    return spec, state, CacheSpec(layout, codec, draw(st.sampled_from([3, 16])))


def run(made: Made, threads: int = 1, isa: str = "", precision: str = "auto") -> NativeRunner:
    spec, state, caching = made
    return NativeRunner(spec, state.items(), caching, precision=precision, threads=threads, isa=isa)


def some(spec: ModelSpec, *shape: int) -> torch.Tensor:
    return torch.randint(0, spec.vocabulary, shape)


@given(models(), st.lists(st.integers(0, 90), min_size=2, max_size=20), st.integers(1, FEW - 1))
@settings(max_examples=25)
def test_a_row_alone_is_the_row_among_others(made: Made, lengths: list[int], count: int) -> None:
    runner = run(made)
    prefixes = [runner.prefill(some(runner.spec, n).tolist()) if n else None for n in lengths]
    tokens = some(runner.spec, len(lengths), count)
    room = sum(lengths) + 2 * count
    among = runner.forward(tokens, runner.cache(prefixes, room))
    for row, prefix in enumerate(prefixes):
        alone = runner.forward(tokens[row : row + 1], runner.cache([prefix], room))
        assert torch.equal(among[row], alone[0])


@given(models(), st.lists(st.integers(0, 60), min_size=1, max_size=3), st.lists(st.integers(1, FEW - 1), max_size=3))
@settings(max_examples=25)
def test_few_tokens_at_once_are_the_tokens_one_by_one(made: Made, lengths: list[int], counts: list[int]) -> None:
    runner = run(made)
    prefixes = [runner.prefill(some(runner.spec, n).tolist()) if n else None for n in lengths]
    tokens = some(runner.spec, len(lengths), sum(counts) + 1)
    together, single = (runner.cache(prefixes, tokens.shape[1]) for _ in range(2))
    at_once = [runner.forward(part, together) for part in tokens.split([1, *counts], dim=1)]
    one_by_one = [runner.forward(token, single) for token in tokens.split(1, dim=1)]
    assert torch.equal(torch.cat(at_once, dim=1), torch.cat(one_by_one, dim=1))
    for row in range(len(lengths)):
        pairs = zip(together.prefix(row).slots, single.prefix(row).slots, strict=True)
        assert all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@given(models(), st.lists(st.integers(1, 70), min_size=1, max_size=4))
@settings(max_examples=15)
def test_how_many_threads_share_the_work_changes_nothing(made: Made, counts: list[int]) -> None:
    found = []
    tokens = some(made[0], 2, sum(counts))
    for threads in (1, 2, 3):
        runner = run(made, threads)
        cache = runner.cache([None, None], 2 * tokens.shape[1])
        found.append([runner.forward(part, cache) for part in tokens.split(counts, dim=1)])
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


@given(models(), st.integers(1, 150), st.integers(1, 150))
@settings(max_examples=15)
def test_a_text_is_read_again_as_it_was_read_before(made: Made, length: int, other: int) -> None:
    """Whatever was read between, by this runner or by another of the same weights."""
    runner = run(made)
    text = some(runner.spec, length).tolist()
    first = runner.prefill(text)
    runner.prefill(some(runner.spec, other).tolist())
    for again in (runner.prefill(text), run(made, threads=2).prefill(text)):
        pairs = zip(first.slots, again.slots, strict=True)
        assert all(torch.equal(a, b) for one, two in pairs for a, b in zip(one, two, strict=True))


@pytest.mark.sweep
@given(st.data())
@settings(max_examples=400)
def test_exactness_swept(data: st.DataObject) -> None:
    made = data.draw(models())
    lengths = data.draw(st.lists(st.integers(0, 140), min_size=1, max_size=20))
    test_a_row_alone_is_the_row_among_others.hypothesis.inner_test(made, lengths, data.draw(st.integers(1, FEW - 1)))
    counts = data.draw(st.lists(st.integers(1, FEW - 1), max_size=3))
    test_few_tokens_at_once_are_the_tokens_one_by_one.hypothesis.inner_test(made, lengths[:3], counts)
