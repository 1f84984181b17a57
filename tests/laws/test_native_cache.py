"""Law 1 on the native kernels: cached = uncached = any chunking = token by token = restored from a stored prefix.

Fewer than `FEW` tokens a row at once are computed as they are one by one, and keys are added up in the order of their
positions wherever they lie. So here the law holds to the last bit, under every layout and codec. More tokens at once
are added up in another order: then it holds to rounding, and under a codec, where rounding may cross a step, between
torch and native when both read what one of them wrote.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cache_specs import CAPACITY
from hypothesis import given, settings
from hypothesis import strategies as st
from native_specs import native, needs_kernels, specs, weighted
from test_cache import CODECS, LAYOUTS, kinds
from test_cache_retract import Retracting

from openbook.errors import Fault
from openbook.lm.backends.native import NativeRunner
from openbook.lm.backends.runner import FEW
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.codecs import codec_named
from openbook.lm.cache.dense import DenseCache
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.cache.paged import PagedCache
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec

pytestmark = needs_kernels
CPU = torch.device("cpu")
HEAD_DIMS = (4, 8, 18, 32, 64)
"""Even, as int4 asks; some fill registers and some do not."""


class Called:
    """A native runner under the signature of the module that the scripts of torch's laws call."""

    def __init__(self, runner: NativeRunner) -> None:
        self.runner, self.spec = runner, runner.spec

    def __call__(self, tokens: Any, positions: Any = None, cache: Any = None) -> torch.Tensor:
        return self.runner.forward(tokens, cache, positions_BT=positions)

    def alone(self, text: list[int], codec: str) -> torch.Tensor:
        """Logits `[n, V]` of one text, a token at a time, in the plainest cache."""
        cache = make_cache(self.spec, CacheSpec("dense", codec), 1, len(text), self.runner.dtype, CPU)
        return torch.cat([self(torch.tensor([[token]]), None, cache)[0] for token in text])


class Script(Retracting):
    """What happens to a batch under torch's laws, with fewer than `FEW` tokens at once; logits are compared bit by
    bit."""

    model: Any

    def fresh(self, kind: CacheSpec) -> Cache:
        capacity = 4 * CAPACITY if kind.layout == "dense" else CAPACITY
        return make_cache(self.model.spec, kind, len(self.texts), capacity, self.model.runner.dtype, CPU)

    restored = False

    def restore(self) -> None:
        super().restore()
        self.restored = True

    def retract(self) -> None:
        # A dense cache that begins with a prefix cannot be taken back into it: of a slot with a window it has the end.
        if not (self.restored and isinstance(self.cache, DenseCache)):
            super().retract()

    def feed(self) -> None:
        width = self.data.draw(st.sampled_from([1, 1, 1, 2, 3, 5, 8, FEW - 1]), "tokens at once")
        left = self.data.draw(st.booleans(), "padded on the left")
        counts = [
            min(width, CAPACITY - len(text), self.data.draw(st.sampled_from([width, width, 0, width - 1])))
            for text in self.texts
        ]
        tokens, positions = torch.zeros(len(counts), width, dtype=torch.long), torch.full((len(counts), width), -1)
        starts = [width - count if left else 0 for count in counts]
        for row, (text, count, start) in enumerate(zip(self.texts, counts, starts, strict=True)):
            new = torch.randint(0, self.model.spec.vocabulary, (count,))
            tokens[row, start : start + count] = new
            positions[row, start : start + count] = torch.arange(len(text), len(text) + count)
            text += new.tolist()
        if not any(counts):
            return
        logits = self.model(tokens, positions, self.cache)
        for row, (text, count, start) in enumerate(zip(self.texts, counts, starts, strict=True)):
            if count:
                wanted = self.model.alone(text, self.kind.codec)[-count:]
                assert torch.equal(logits[row, start : start + count], wanted)


def law_one(layout: str, codec: str, data: st.DataObject, steps: int) -> None:
    spec = data.draw(specs(head_dims=HEAD_DIMS, inner=(8, 33), vocabularies=(61, 64)))
    model = weighted(spec, data.draw(st.integers(0, 9)))
    runner = native(model, precision=data.draw(st.sampled_from(["fp32", "bf16", "int8"])))
    Script(data, Called(runner), data.draw(kinds(layout, codec))).run(steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.data())
@settings(max_examples=6)
def test_whatever_happens_to_a_batch_each_text_is_bit_by_bit_as_if_alone(
    layout: str, codec: str, data: st.DataObject
) -> None:
    law_one(layout, codec, data, steps=6)


@pytest.mark.sweep
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.data())
@settings(max_examples=200)
def test_law_one_natively_swept(layout: str, codec: str, data: st.DataObject) -> None:
    law_one(layout, codec, data, steps=14)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.data())
@settings(max_examples=12)
def test_any_chunks_of_a_text_are_the_whole_of_it(layout: str, data: st.DataObject) -> None:
    runner = native(weighted(data.draw(specs()), 0), CacheSpec(layout))
    chunks = data.draw(st.lists(st.integers(1, 30), min_size=2, max_size=5), "chunks")
    text = torch.randint(0, runner.spec.vocabulary, (2, sum(chunks)))
    whole, cache = runner.forward(text), runner.cache([None, None], room=text.shape[1])
    parts = [runner.forward(part, cache) for part in text.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.data())
@settings(max_examples=5)
def test_torch_and_native_go_on_in_each_others_caches(layout: str, codec: str, data: st.DataObject) -> None:
    """One reads a text, both go on by one token: what they read is the same, and so is what they say."""
    model = weighted(data.draw(specs(head_dims=HEAD_DIMS)), 0, dtype=torch.float32)
    kind = data.draw(kinds(layout, codec))
    runners = [TorchRunner(model, kind), native(model, kind)]
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    text = torch.randint(0, model.spec.vocabulary, (len(lengths), max(lengths)))
    positions = torch.stack([torch.arange(max(lengths)) - (max(lengths) - n) for n in lengths]).clamp(min=-1)
    token = torch.randint(0, model.spec.vocabulary, (len(lengths), 1))
    for writer in runners:
        said = []
        for reader in runners:
            cache = writer.cache([None] * len(lengths), room=40)
            writer.read(text, cache, positions_BT=positions)
            said.append(reader.forward(token, cache))
            assert cache.next_positions_B.tolist() == [n + 1 for n in lengths]
        torch.testing.assert_close(*said, atol=2e-4, rtol=2e-4)


@given(st.data())
@settings(max_examples=20)
def test_hidden_states_are_those_that_logits_come_from(data: st.DataObject) -> None:
    """Also of the tokens of one forward after those of another, as kNN-LM takes them."""
    model = weighted(data.draw(specs()), 0)
    runner, text = native(model), torch.randint(0, model.spec.vocabulary, (2, 30))
    cache = runner.cache([None, None], room=30)
    parts = [runner.hidden(part, cache) for part in text.split(data.draw(st.sampled_from([[5, 25], [20, 10]])), dim=1)]
    states = torch.cat([part.last_BTM for part in parts], dim=1).double()
    with torch.inference_mode():
        logits = model.head(states, model.embedding.weight)
    torch.testing.assert_close(logits, runner.forward(text), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.data())
@settings(max_examples=8)
def test_texts_whose_frequencies_change_as_they_grow_are_torchs_in_the_same_chunks(
    layout: str, data: st.DataObject
) -> None:
    """Keys that are kept have the frequencies of their time, which is part of what such a model is."""
    model = weighted(data.draw(specs(growing=True)), 0, dtype=torch.float32)
    chunks = data.draw(st.lists(st.integers(1, 20), min_size=2, max_size=6), "chunks")
    text = torch.randint(0, model.spec.vocabulary, (2, sum(chunks)))
    said = []
    for runner in (TorchRunner(model, CacheSpec(layout)), native(model, CacheSpec(layout))):
        cache = runner.cache([None, None], room=text.shape[1])
        said.append(torch.cat([runner.forward(part, cache) for part in text.split(chunks, dim=1)], dim=1))
    torch.testing.assert_close(*said, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("codec", CODECS)
def test_rows_that_share_blocks_write_to_their_own(codec: str) -> None:
    """A text that is found in published blocks goes on from them; forks of it part without touching each other."""
    runner = native(weighted(small(2), 0), CacheSpec("paged", codec, block=4))
    cache = make_cache(runner.spec, runner.caching, 2, 40, torch.float32, CPU)
    assert isinstance(cache, PagedCache)
    text = torch.randint(0, 61, (18,)).tolist()
    runner.forward(torch.tensor([text[:11]] * 2), cache)
    cache.publish(0, text[:11])
    cache.reset(2)
    found = cache.adopt(1, text)
    assert found == 8
    rest = torch.tensor([[0] * (18 - found), text[found:]])
    runner.forward(rest, cache, positions_BT=torch.stack((torch.full((18 - found,), -1), torch.arange(found, 18))))
    cache.select([1, 1, 1])
    for _ in range(3):
        tokens = torch.randint(0, 61, (3, 2))
        said = runner.forward(tokens, cache)
        cache.check()
        ends = [[*text, *token] for token in tokens.tolist()]
        for row, end in enumerate(ends):
            assert torch.equal(said[row], Called(runner).alone(end, codec)[-2:])
        text, keep = ends[1], [1, 1, 1]
        cache.select(keep)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_write_down_the_same_keys(layout: str, codec: str) -> None:
    """Under a codec to a step of it: a number that lies between two steps may be rounded to either."""
    model = weighted(small(2, window=9), 0, dtype=torch.float32)
    kind = CacheSpec(layout, codec, block=4)
    text = torch.randint(0, model.spec.vocabulary, (1, 30))
    kept = []
    for runner in (TorchRunner(model, kind), native(model, kind)):
        cache = runner.cache([None], room=30)
        runner.read(text, cache)
        kept.append(cache.prefix(0))
    for torchs, natives in zip(kept[0].slots, kept[1].slots, strict=True):
        assert [(part.shape, part.dtype) for part in torchs] == [(part.shape, part.dtype) for part in natives]
        one, other = (codec_named(codec).decode(parts, torch.float32) for parts in (torchs, natives))
        step = torchs[1].float() if codec != "raw" else torch.full_like(one, 1e-5)
        assert ((one - other).abs() <= 1.01 * step + 1e-5).all()


def small(layers: int = 1, vocabulary: int = 61, **attention: Any) -> ModelSpec:
    layer = LayerSpec(AttentionSpec(2, 1, 8, rope=RopeSpec(), **attention), FeedForwardSpec(8))
    return ModelSpec(vocabulary, 8, (layer,) * layers, 4096)


@pytest.mark.parametrize("window", [None, 100])
def test_a_text_of_many_chunks_is_read_as_if_at_once(window: int | None) -> None:
    runner = native(weighted(small(2, window=window), 0))
    text = torch.randint(0, 61, (2, 1300))
    positions = torch.arange(1300).repeat(2, 1)
    positions[1] -= 300  # the second row is shorter: padded on the left
    positions.clamp_(min=-1)
    cache = runner.cache([None, None], room=1300)
    last = runner.read(text, cache, positions_BT=positions)
    whole = runner.forward(text, positions_BT=positions, keep=slice(-1, None))[:, 0]
    torch.testing.assert_close(last, whole, atol=1e-4, rtol=1e-4)
    again = runner.cache([runner.prefill(text[0, :-1].tolist())], room=1)
    torch.testing.assert_close(runner.forward(text[:1, -1:], again)[:, 0], whole[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", ["ring", "paged"])
def test_where_every_layer_has_a_window_a_text_has_no_end(layout: str) -> None:
    runner = native(weighted(small(window=5, pinned=2), 0), CacheSpec(layout, block=2))
    text = torch.randint(0, 61, (1, 50))
    cache = make_cache(runner.spec, runner.caching, 1, 20, torch.float32, CPU)
    out = [runner.forward(part, cache) for part in text.split([7, *[1] * 20, 23], dim=1)]
    torch.testing.assert_close(torch.cat(out, dim=1), runner.forward(text), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("times", [0, 1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_may_be_chosen_again_and_again_between_two_forwards(layout: str, times: int) -> None:
    """Memory that one choice let go may be given to the next: where keys lie is looked up, never remembered."""
    runner = native(weighted(small(30), 0, 0.3), CacheSpec(layout, block=3))
    texts = [torch.randint(0, 61, (n,)).tolist() for n in (3, 7, 5)]
    cache = runner.cache([runner.prefill(text) for text in texts], room=30)
    order = [0, 1, 2]
    for rows in ([2, 0], [1, 0, 1], [2, 1, 0], [0], [0, 0, 0]):
        token = torch.randint(0, 61, (len(order), 1))
        runner.forward(token, cache)
        texts = [texts[i] + token[i].tolist() for i in range(len(order))]
        for _ in range(times):
            cache.select(list(range(len(order)))[::-1])
        texts = texts[::-1] if times % 2 else texts
        cache.select(rows)
        texts, order = [texts[row] for row in rows], rows
    token = torch.randint(0, 61, (len(order), 1))
    found = runner.forward(token, cache)
    for row, text in enumerate(texts):
        wanted = Called(runner).alone([*text, int(token[row])], "raw")[-1]
        assert torch.equal(found[row, 0], wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_forward_that_fails_leaves_the_cache_as_it_was(layout: str) -> None:
    runner = native(weighted(small(2), 0), CacheSpec(layout, block=3))
    cache = runner.cache([None, None], room=9)
    text = torch.randint(0, 61, (2, 5))
    runner.forward(text, cache)
    for wrong in (61, -1, 1 << 40):
        tokens = torch.randint(0, 61, (2, 3))
        tokens[1, 2] = wrong
        with pytest.raises(Fault, match="vocabulary"):
            runner.forward(tokens, cache)
        assert cache.next_positions_B.tolist() == [5, 5]
    with pytest.raises(Fault, match="context is full"):
        runner.forward(torch.zeros(2, 5, dtype=torch.long), cache)
    assert cache.next_positions_B.tolist() == [5, 5]
    for row in range(2):
        kept = cache.prefix(row)
        fresh = runner.prefill(text[row].tolist())
        for one, other in zip(kept.slots, fresh.slots, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    after, whole = runner.forward(text[:, :2], cache), runner.forward(torch.cat((text, text[:, :2]), 1))[:, -2:]
    assert torch.equal(after, whole)


def test_what_is_padding_may_be_any_token() -> None:
    runner = native(weighted(small(), 0))
    tokens = torch.tensor([[-7, 5, 6], [4, 5, 99]])
    positions = torch.tensor([[-1, 0, 1], [0, 1, -1]])
    found = runner.forward(tokens, positions_BT=positions)
    assert torch.equal(found[0, 1:], runner.forward(torch.tensor([[5, 6]]))[0])
    assert torch.equal(found[1, :2], runner.forward(torch.tensor([[4, 5]]))[0])


@pytest.mark.parametrize("keep", [slice(None), slice(-1, None), [0, 3], [-1], [2, -1], slice(1, 1)])
def test_the_columns_that_are_kept_are_those_of_a_slice_or_list(keep: Any) -> None:
    runner = native(weighted(small(), 0))
    text = torch.randint(0, 61, (2, 5))
    assert torch.equal(runner.forward(text, keep=keep), runner.forward(text)[:, keep])
