"""Law 1, backwards: tokens that were taken back leave a cache as if it had never read them."""

from __future__ import annotations

import pytest
import torch
from cache_specs import VOCABULARY, decoder, specs, unrounded
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from test_cache import CODECS, LAYOUTS, Script, kinds

from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.dense import DenseCache
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.cache.paged import PagedCache
from openbook.lm.cache.prefixes import Prefix
from openbook.lm.decoder import Decoder
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec


class Retracting(Script):
    """A batch of texts from which tokens are taken back now and then."""

    def retract(self) -> None:
        shortest = min(map(len, self.texts))
        count = self.data.draw(st.integers(0, min(shortest, 9)), "taken back")
        before = [len(text) for text in self.texts]
        try:
            self.cache.retract(count)
        except ValueError:
            event("a window cannot go back")
            assert count
            assert not isinstance(self.cache, DenseCache) or any(slot.window for slot in self.cache.plan.slots)
            assert self.cache.next_positions_B.tolist() == before
            return
        self.texts = [text[: len(text) - count] for text in self.texts]
        assert self.cache.next_positions_B.tolist() == [len(text) for text in self.texts]

    def read_ahead(self) -> None:
        """What `evicts` allows can be taken back, and leaves nothing behind."""
        count = self.data.draw(st.integers(1, 6), "read ahead")
        back = self.data.draw(st.integers(0, count), "of which taken back")
        if max(map(len, self.texts)) + count > 40 or self.cache.evicts(count):
            return
        event("read ahead and taken back")
        tokens = torch.randint(0, VOCABULARY, (len(self.texts), count))
        if back < count:
            self.model(tokens[:, : count - back], cache=self.cache)
        kept = prefixes(self.cache)
        if back:
            self.model(tokens[:, count - back :], cache=self.cache)
        self.cache.retract(back)
        for one, other in zip(prefixes(self.cache), kept, strict=True):
            assert same(one, other)
        for text, new in zip(self.texts, tokens[:, : count - back].tolist(), strict=True):
            text += new

    def run(self, steps: int) -> None:
        events = [self.feed, self.feed, self.retract, self.read_ahead, self.read_ahead, self.select, self.restore]
        for _ in range(self.data.draw(st.integers(2, steps), "steps")):
            self.data.draw(st.sampled_from(events))()
            if isinstance(self.cache, PagedCache):
                self.cache.check()
        self.feed()


def prefixes(cache: Cache) -> list[Prefix]:
    return [cache.prefix(row) for row in range(cache.batch)]


def same(one: Prefix, other: Prefix) -> bool:
    pairs = [pair for a, b in zip(one.slots, other.slots, strict=True) for pair in zip(a, b, strict=True)]
    return one.length == other.length and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.data())
@settings(deadline=None, max_examples=5)
def test_what_was_taken_back_was_never_read(layout: str, codec: str, data: st.DataObject) -> None:
    model = decoder(data.draw(specs()), data.draw(st.integers(0, 9)))
    with unrounded(), torch.inference_mode():
        Retracting(data, model, data.draw(kinds(layout, codec))).run(steps=6)


@pytest.mark.sweep
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.data())
@settings(deadline=None, max_examples=150)
def test_what_was_taken_back_was_never_read_swept(layout: str, codec: str, data: st.DataObject) -> None:
    model = decoder(data.draw(specs()), data.draw(st.integers(0, 9)))
    with unrounded(), torch.inference_mode():
        Retracting(data, model, data.draw(kinds(layout, codec))).run(steps=12)


def small(window: int | None = None, pinned: int = 0) -> ModelSpec:
    layer = LayerSpec(AttentionSpec(2, 1, 4, rope=RopeSpec(), window=window, pinned=pinned), FeedForwardSpec(8))
    return ModelSpec(VOCABULARY, 8, (layer,) * 2, 64)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_room_that_was_read_into_is_room_again(layout: str) -> None:
    runner = TorchRunner(Decoder(small()), CacheSpec(layout, block=3))
    cache = runner.cache([None, None], room=6)
    for _ in range(5):
        runner.forward(torch.zeros(2, 6, dtype=torch.long), cache)
        assert not cache.evicts(1)
        cache.retract(6)
    assert cache.next_positions_B.tolist() == [0, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_than_was_read_cannot_be_taken_back(layout: str) -> None:
    runner = TorchRunner(Decoder(small()), CacheSpec(layout))
    cache = runner.cache([None], room=6)
    runner.forward(torch.zeros(1, 3, dtype=torch.long), cache)
    for count in (4, -1):
        with pytest.raises(ValueError, match="taken back"):
            cache.retract(count)
    cache.retract(3)


@pytest.mark.parametrize("layout", ["ring", "paged"])
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_what_a_window_has_let_go_is_not_brought_back(layout: str, length: int, count: int, block: int) -> None:
    """Where `evicts` says so there is something that a later query would miss; else all comes back."""
    window = 5
    runner = TorchRunner(Decoder(small(window)), CacheSpec(layout, block=block))
    cache = runner.cache([None], room=20)
    runner.forward(torch.zeros(1, length, dtype=torch.long), cache)
    kept, told = cache.prefix(0), cache.evicts(count)
    runner.forward(torch.zeros(1, count, dtype=torch.long), cache)
    if told:
        assert length + count > window
        with pytest.raises(ValueError, match="brought back"):
            cache.retract(count)
        assert int(cache.next_positions_B[0]) == length + count
    else:
        cache.retract(count)
        assert same(cache.prefix(0), kept)


@given(st.integers(1, 6), st.integers(1, 20), st.integers(1, 9), st.integers(1, 5), st.integers(2, 5))
@settings(deadline=None, max_examples=60)
def test_pinned_positions_do_not_hide_what_a_window_let_go(
    pinned: int, length: int, count: int, block: int, window: int
) -> None:
    """A block that stays for its pinned positions has others too: the oldest needed may be there and the next not."""
    spec = small(window, pinned=pinned)
    runner = TorchRunner(Decoder(spec), CacheSpec("paged", block=block))
    cache = runner.cache([None], room=40)
    runner.forward(torch.zeros(1, length, dtype=torch.long), cache)
    told = cache.evicts(count)
    runner.forward(torch.zeros(1, count, dtype=torch.long), cache)
    back = 0
    for less in range(1, count + 1):
        try:
            cache.retract(1)
        except ValueError:
            break
        back = less
        assert cache.prefix(0).length == length + count - less
    assert back == count or told


@pytest.mark.parametrize("layout", LAYOUTS)
@given(st.integers(1, 9), st.integers(0, 4), st.integers(1, 4), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_a_chunk_that_moves_a_window_on_does_not_read_what_was_taken_back(
    layout: str, length: int, lag: int, count: int, chunk: int
) -> None:
    """It reads what was held and then the new: nothing may stand there twice, nor in a row that is shorter."""
    spec = small(window=9)
    model = decoder(spec, 5)
    cache = make_cache(spec, CacheSpec(layout, block=4), 2, 40, torch.float64, torch.device("cpu"))
    text = torch.randint(0, VOCABULARY, (2, length + chunk))
    positions = torch.arange(length + chunk).repeat(2, 1)
    positions[1] -= min(lag, length)
    positions.clamp_(min=-1)
    with unrounded(), torch.inference_mode():
        model(text[:, :length], positions[:, :length], cache)
        assume(not cache.evicts(count))
        model(torch.randint(0, VOCABULARY, (2, count)), cache=cache)
        cache.retract(count)
        went_on = model(text[:, length:], positions[:, length:], cache)
        whole = model(text, positions)[:, length:]
        torch.testing.assert_close(went_on, whole, atol=1e-9, rtol=1e-9)


@given(st.integers(1, 4), st.integers(0, 3), st.integers(1, 8), st.booleans())
@settings(deadline=None, max_examples=20)
def test_a_block_that_others_hold_is_not_changed(block: int, extra: int, count: int, tight: bool) -> None:
    """Paged: a row forgets and goes on otherwise; whoever finds the published text reads what was there."""
    length = 2 * block + extra
    assume(count <= length)
    capacity = length + 1 if tight else 40  # in a tight pool what was published makes room
    model = decoder(small(), 3)
    cache = make_cache(small(), CacheSpec("paged", block=block), 1, capacity, torch.float64, torch.device("cpu"))
    assert isinstance(cache, PagedCache)
    text = torch.randint(0, VOCABULARY, (1, length))
    with unrounded(), torch.inference_mode():
        model(text, cache=cache)
        cache.publish(0, text[0].tolist())
        cache.retract(count)
        other = torch.randint(0, VOCABULARY, (1, count + 1))
        went_on = model(other, cache=cache)[:, -1]
        whole = torch.cat((text[:, : length - count], other), dim=1)
        torch.testing.assert_close(went_on, model(whole)[:, -1], atol=1e-9, rtol=1e-9)
        cache.reset(1)
        found = cache.adopt(0, text[0].tolist())
        assert found <= (length - 1) // block * block and (tight or found == (length - 1) // block * block)
        last = model(text[:, found:], cache=cache)[:, -1]
        torch.testing.assert_close(last, model(text)[:, -1], atol=1e-9, rtol=1e-9)
        cache.check()
