"""Law 1: cached = uncached = any chunking of the prefill = token by token = restored from a stored prefix.

For every attention, layout and codec: whatever is done to a batch of texts, each text's logits are those of that text
alone, in one forward, nothing kept. Under a codec the forward that keeps nothing passes its keys and values through it.
"""

from __future__ import annotations

import pytest
import torch
from cache_specs import CAPACITY, VOCABULARY, decoder, specs, unrounded
from hypothesis import event, given, settings
from hypothesis import strategies as st

from openbook.errors import Fault
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.codecs import codec_named
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.cache.paged import PagedCache
from openbook.lm.cache.protocol import Transient
from openbook.lm.decoder import Decoder
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec

LAYOUTS, CODECS = ["dense", "ring", "paged"], ["raw", "int8", "int4"]
CPU = torch.device("cpu")
EXACT = 1e-9


def alone(model: Decoder, text: list[int], codec: str) -> torch.Tensor:
    """Logits `[n, V]` of one text in one forward that keeps nothing."""
    tokens, positions = torch.tensor([text]), torch.arange(len(text))[None]
    return model(tokens, positions, Transient(model.spec, codec_named(codec)))[0]


class Script:
    """A batch of texts to which things happen; every logit is compared with that of its text alone."""

    def __init__(self, data: st.DataObject, model: Decoder, kind: CacheSpec) -> None:
        self.data, self.model, self.kind = data, model, kind
        self.texts: list[list[int]] = [[] for _ in range(data.draw(st.integers(1, 3)))]
        self.cache = self.fresh(kind)

    def fresh(self, kind: CacheSpec) -> Cache:
        # As a rectangle of columns counts padding too, it is given room for it.
        capacity = 4 * CAPACITY if kind.layout == "dense" else CAPACITY
        return make_cache(self.model.spec, kind, len(self.texts), capacity, torch.float64, CPU)

    def feed(self) -> None:
        """New tokens, of another count for each row, padded on the left."""
        width = self.data.draw(st.sampled_from([1, 1, 1, 2, 3, 5, 8, 13]), "tokens at once")
        counts = [
            min(width, CAPACITY - len(text), self.data.draw(st.sampled_from([width, width, 0, width - 1])))
            for text in self.texts
        ]
        tokens, positions = torch.zeros(len(counts), width, dtype=torch.long), torch.full((len(counts), width), -1)
        for row, (text, count) in enumerate(zip(self.texts, counts, strict=True)):
            new = torch.randint(0, VOCABULARY, (count,))
            tokens[row, width - count :] = new
            positions[row, width - count :] = torch.arange(len(text), len(text) + count)
            text += new.tolist()
        if not any(counts):
            return
        logits = self.model(tokens, positions, self.cache)
        for row, (text, count) in enumerate(zip(self.texts, counts, strict=True)):
            if count:
                wanted = alone(self.model, text, self.kind.codec)[-count:]
                torch.testing.assert_close(logits[row, width - count :], wanted, atol=EXACT, rtol=EXACT)

    def select(self) -> None:
        """Some rows, some of them twice, in another order."""
        rows = self.data.draw(st.lists(st.integers(0, len(self.texts) - 1), min_size=1, max_size=4), "rows")
        self.cache.select(rows)
        self.texts = [list(self.texts[row]) for row in rows]

    def restore(self) -> None:
        """Every row kept as a prefix and restored, in another layout too."""
        layout = self.data.draw(st.sampled_from(LAYOUTS), "layout")
        prefixes = [self.cache.prefix(row) for row in range(len(self.texts))]
        self.cache = self.fresh(CacheSpec(layout, self.kind.codec, self.kind.block))
        for row, prefix in enumerate(prefixes):
            assert prefix.length == len(self.texts[row])
            self.cache.restore(row, prefix)

    def run(self, steps: int) -> None:
        for _ in range(self.data.draw(st.integers(1, steps), "steps")):
            happens = self.data.draw(st.sampled_from([self.feed, self.feed, self.feed, self.select, self.restore]))
            event(happens.__name__)
            happens()
            if isinstance(self.cache, PagedCache):
                self.cache.check()
        self.feed()


@st.composite
def kinds(draw, layout: str, codec: str) -> CacheSpec:
    return CacheSpec(layout, codec, draw(st.sampled_from([1, 3, 4, 16])))


def law_one(layout: str, codec: str, data: st.DataObject, steps: int) -> None:
    model = decoder(data.draw(specs()), data.draw(st.integers(0, 9)))
    with unrounded(), torch.inference_mode():
        Script(data, model, data.draw(kinds(layout, codec))).run(steps)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.data())
@settings(deadline=None, max_examples=6)
def test_whatever_happens_to_a_batch_each_text_is_as_if_alone(layout, codec, data):
    law_one(layout, codec, data, steps=6)


@pytest.mark.sweep
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.data())
@settings(deadline=None, max_examples=200)
def test_law_one_swept(layout, codec, data):
    law_one(layout, codec, data, steps=12)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(specs(), st.lists(st.integers(1, 9), min_size=2, max_size=5))
@settings(deadline=None, max_examples=8)
def test_chunks_in_the_precision_that_is_used(layout, spec, chunks):
    """In fp32, through a runner, to 1e-4."""
    text = torch.randint(0, VOCABULARY, (2, min(sum(chunks), CAPACITY)))
    runner = TorchRunner(decoder(spec, 0, torch.float32), CacheSpec(layout))
    whole, cache = runner.forward(text), runner.cache([None, None], room=text.shape[1])
    parts = [runner.forward(part, cache) for part in text.split(chunks[0], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=1e-4)


def small(layers: int = 1, **attention) -> ModelSpec:
    layer = LayerSpec(AttentionSpec(2, 1, 4, rope=RopeSpec(), **attention), FeedForwardSpec(8))
    return ModelSpec(VOCABULARY, 8, (layer,) * layers, 4096)


@pytest.mark.parametrize("window", [None, 100])
def test_a_text_of_many_chunks_is_read_as_if_at_once(window):
    runner = TorchRunner(Decoder(small(2, window=window)))
    text = torch.randint(0, VOCABULARY, (2, 1300))
    positions = torch.arange(1300).repeat(2, 1)
    positions[1] -= 300  # the second row is shorter: padded on the left
    positions.clamp_(min=-1)
    cache = runner.cache([None, None], room=1300)
    last = runner.read(text, cache, positions_BT=positions)
    whole = runner.forward(text, positions_BT=positions, keep=slice(-1, None))[:, 0]
    torch.testing.assert_close(last, whole, atol=1e-4, rtol=1e-4)
    again = runner.cache([runner.prefill(text[0, :-1].tolist())], room=1)
    torch.testing.assert_close(runner.forward(text[:1, -1:], again)[:, 0], whole[:1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_full_context_is_a_fault_not_an_eviction(layout):
    runner = TorchRunner(Decoder(small()), CacheSpec(layout))
    cache = runner.cache([None], room=4)
    runner.forward(torch.zeros(1, 3, dtype=torch.long), cache)
    with pytest.raises(Fault, match="context is full"):
        runner.forward(torch.zeros(1, 2, dtype=torch.long), cache)
    assert int(cache.next_positions_B[0]) == 3


@pytest.mark.parametrize("layout", ["ring", "paged"])
def test_where_every_layer_has_a_window_a_text_has_no_end(layout):
    spec = small(window=5, pinned=2)
    model = decoder(spec, 0)
    cache = make_cache(spec, CacheSpec(layout, block=2), 1, 20, torch.float64, CPU)
    text = torch.randint(0, VOCABULARY, (1, 50))
    with unrounded(), torch.inference_mode():
        out = torch.cat([model(part, cache=cache) for part in text.split([7, *[1] * 20, 23], dim=1)], dim=1)
        torch.testing.assert_close(out[0], alone(model, text[0].tolist(), "raw"), atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_kept_under_one_codec_is_restored_under_another(layout):
    spec = small(2)
    model = decoder(spec, 0)
    cache = make_cache(spec, CacheSpec(layout), 1, 20, torch.float64, CPU)
    with torch.inference_mode():
        model(torch.randint(0, VOCABULARY, (1, 9)), cache=cache)
    kept = cache.prefix(0)
    coarse = make_cache(spec, CacheSpec("ring", "int8"), 2, 20, torch.float64, CPU)
    coarse.restore(1, kept)
    for slot, (raw,) in enumerate(kept.slots):
        wanted = codec_named("int8").encode(raw)
        assert all(torch.equal(a, b) for a, b in zip(coarse.prefix(1).slots[slot], wanted, strict=True))
    back = make_cache(spec, CacheSpec(layout), 1, 20, torch.float64, CPU)
    back.restore(0, coarse.prefix(1))
    assert [len(parts) for parts in back.prefix(0).slots] == [1, 1]
