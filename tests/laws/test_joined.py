"""Several texts in one forward: each comes out as it would have alone, to the last bit, and so does its cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from native_specs import needs_kernels
from test_cache import LAYOUTS
from test_native_exact import Made, models, run

from openbook.errors import Fault
from openbook.lm.backends.native import NativeRunner
from openbook.lm.backends.runner import FEW, Part, Runner
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec
from openbook.lm.model import LanguageModel

pytestmark = needs_kernels
ROOM = 160


@st.composite
def texts(draw: Any) -> list[list[int]]:
    """Of each text: what its rows have read (0: nothing)."""
    rows = st.lists(st.sampled_from([0, 1, 5, 17, 40, 90]), min_size=1, max_size=4)
    return draw(st.lists(rows, min_size=1, max_size=5))


def begun(runner: Runner, read: list[list[int]], forks: list[bool]) -> list[Cache]:
    """A cache a text; one that forks has its rows twice, which share what they have read where the layout can."""
    caches = []
    for rows, forked in zip(read, forks, strict=True):
        prefixes = [
            runner.prefill([(7 * i + n) % runner.spec.vocabulary for i in range(n)]) if n else None for n in rows
        ]
        cache = runner.cache(prefixes, ROOM)
        if forked:
            cache.select([row for row in range(len(rows)) for _ in range(2)])
        caches.append(cache)
    return caches


def asked(draw: Any, cache: Cache, vocabulary: int, widths: list[int]) -> Part:
    """The next tokens of a text: rows of one width, or of several, padded on a side."""
    count = draw(st.sampled_from(widths))
    tokens = some_tokens(vocabulary, cache.batch, count)
    keep = draw(st.sampled_from([slice(None), slice(-1, None), [0], []]))
    if not draw(st.booleans()):
        return Part(tokens, cache, None, keep)
    lengths = torch.randint(1, count + 1, (cache.batch,))
    at = torch.arange(count)[None] - (count - lengths)[:, None]  # on the left
    positions = torch.where(at >= 0, cache.next_positions_B[:, None] + at, -1)
    return Part(tokens, cache, positions, [count - 1])


def some_tokens(vocabulary: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, vocabulary, shape)


def same(one: Cache, other: Cache) -> None:
    assert torch.equal(one.next_positions_B, other.next_positions_B)
    for row in range(one.batch):
        pairs = zip(one.prefix(row).slots, other.prefix(row).slots, strict=True)
        assert all(torch.equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True))


def each_alone(runner: Runner, parts: list[Part], caches: list[Cache]) -> list[torch.Tensor]:
    return [
        runner.forward(part.tokens_BT, cache, positions_BT=part.positions_BT, keep=part.keep)
        for part, cache in zip(parts, caches, strict=True)
    ]


def held_law(data: st.DataObject, made: Made, read: list[list[int]], threads: int) -> None:
    runner = run(made, threads)
    forks = [data.draw(st.booleans()) for _ in read]
    joined, alone = begun(runner, read, forks), begun(runner, read, forks)
    for widths in ([1], [1, 2, FEW - 1], [1, FEW, 30]):
        parts = [asked(data.draw, cache, runner.spec.vocabulary, widths) for cache in joined]
        expected = each_alone(runner, parts, alone)
        for found, by_itself in zip(runner.together(parts), expected, strict=True):
            assert isinstance(found, torch.Tensor) and torch.equal(found, by_itself)
    for one, other in zip(joined, alone, strict=True):
        same(one, other)


@given(st.data(), models(), texts(), st.integers(1, 3))
@settings(max_examples=20)
def test_texts_read_together_are_the_texts_read_alone(
    data: st.DataObject, made: Made, read: list[list[int]], threads: int
) -> None:
    """Whatever their beginnings, widths, layouts and codecs; decode steps, words read ahead, and long texts."""
    held_law(data, made, read, threads)


@pytest.mark.sweep
@given(st.data(), models(), texts(), st.integers(1, 3))
@settings(max_examples=400)
def test_joined_swept(data: st.DataObject, made: Made, read: list[list[int]], threads: int) -> None:
    held_law(data, made, read, threads)


@given(models(), st.sampled_from(LAYOUTS), st.integers(0, 2))
@settings(max_examples=15)
def test_a_part_that_fails_leaves_all_as_they_were(made: Made, layout: str, which: int) -> None:
    """Its own cache, and the others', which go on as if it had not been asked."""
    spec, state, caching = made
    runner = NativeRunner(spec, state.items(), CacheSpec(layout, caching.codec, caching.block), threads=1)
    read = [[3], [0, 9], [20]]
    joined, alone = begun(runner, read, [False] * 3), begun(runner, read, [False] * 3)
    parts = [Part(some_tokens(spec.vocabulary, cache.batch, 2), cache) for cache in joined]
    parts[which] = parts[which]._replace(tokens_BT=torch.full((joined[which].batch, 2), spec.vocabulary))
    found = runner.together(parts)
    for i, (part, made_of_it) in enumerate(zip(parts, found, strict=True)):
        if i == which:
            assert isinstance(made_of_it, Fault) and "vocabulary" in str(made_of_it)
        else:
            assert torch.equal(made_of_it, runner.forward(part.tokens_BT, alone[i]))  # type: ignore[arg-type]
        same(joined[i], alone[i])


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_a_full_context_fails_alone_and_a_cache_is_in_one_part_only(tiny_model: LanguageModel, backend: str) -> None:
    torch_runner = tiny_model.runner
    assert isinstance(torch_runner, TorchRunner)
    runner: Runner = torch_runner
    if backend == "native":
        runner = NativeRunner(tiny_model.spec, torch_runner.decoder.state_dict().items(), precision="fp32", threads=1)
    token = torch.tensor([[5]])
    full, roomy = runner.cache([runner.prefill([1, 2])], 1), runner.cache([None], 8)
    runner.forward(token, full)
    refused, made = runner.together([Part(token, full), Part(token, roomy)])
    assert isinstance(refused, Fault) and "full" in str(refused)
    assert (
        isinstance(made, torch.Tensor)
        and roomy.next_positions_B.tolist() == [1]
        and full.next_positions_B.tolist() == [3]
    )
    wrong, made = runner.together([Part(token.expand(2, 1), roomy), Part(token, runner.cache([None], 2))])
    assert isinstance(wrong, (ValueError, RuntimeError, Fault)) and isinstance(made, torch.Tensor)
    if backend == "native":
        made, twice = runner.together([Part(token, roomy), Part(token, roomy)])
        assert isinstance(made, torch.Tensor) and isinstance(twice, ValueError)
