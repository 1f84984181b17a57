"""Blocks of a pool: none is lost, none leaks, none is written to that another reads, whatever rows do.

The machine keeps beside the cache the simplest thing that could be right: every row's tokens. A key is a number made
of its slot, its position and all tokens up to it, as a model's is, so a block of a wrong prefix shows at once.
"""

from __future__ import annotations

import pytest
import torch
from cache_specs import decoder, unrounded
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from openbook.lm.cache.blocks import ROOT, Blocks, name_of
from openbook.lm.cache.codecs import codec_named
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.cache.paged import PagedCache
from openbook.lm.cache.plan import plan
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec

CPU = torch.device("cpu")
CAPACITY = 24
LOOKS = [(None, 0), (3, 0), (6, 2), (1, 0), (20, 5)]


def model(*looks: tuple[int | None, int]) -> ModelSpec:
    layers = tuple(
        LayerSpec(AttentionSpec(2, 2, 2, window=window, pinned=pinned), FeedForwardSpec(8)) for window, pinned in looks
    )
    return ModelSpec(61, 8, layers, 64)


def key(slot: int, tokens: list[int]) -> float:
    """What stands for the last of these tokens, after all before it, in a slot."""
    return float(hash((slot, tuple(tokens))) % 1_000_003)


class PagedRows(RuleBasedStateMachine):
    """Rows that read, fork, end, publish what they read and begin with what was published."""

    @initialize(
        looks=st.lists(st.sampled_from(LOOKS), min_size=1, max_size=3), rows=st.integers(1, 3), block=st.integers(1, 5)
    )
    def begin(self, looks, rows, block):
        self.block = block
        self.plan = plan(model(*looks))
        self.cache = PagedCache(self.plan, codec_named("raw"), rows, CAPACITY, torch.float64, CPU, block)
        self.texts: list[list[int]] = [[] for _ in range(rows)]
        self.published: set[tuple[int, ...]] = set()
        self.most = rows

    @rule(data=st.data(), width=st.integers(1, 9))
    def read(self, data, width):
        """New tokens, few of them different, so that beginnings agree."""
        news = [
            data.draw(st.lists(st.integers(0, 1), max_size=min(width, CAPACITY - len(text)))) for text in self.texts
        ]
        if not any(news):
            return
        positions = torch.full((len(news), width), -1)
        for row, (text, new) in enumerate(zip(self.texts, news, strict=True)):
            positions[row, width - len(new) :] = torch.arange(len(text), len(text) + len(new))
            text += new
        self.cache.extend(positions)
        for slot in range(len(self.plan.slots)):
            written = torch.zeros(len(news), 2, width, 2, dtype=torch.float64)
            for row, (text, new) in enumerate(zip(self.texts, news, strict=True)):
                for i in range(len(new)):
                    written[row, :, width - len(new) + i] = key(slot, text[: len(text) - len(new) + i + 1])
            self.cache.write(slot, written, -written)
            self.see(slot, news)

    def see(self, slot: int, news: list[list[int]]) -> None:
        """Every position that any new token may see is there once, with the key of its own prefix."""
        window, pinned = self.plan.slots[slot].retention
        positions, (k, v) = self.cache.positions(slot), self.cache.read(slot)
        assert torch.equal(k, -v) and k.shape[2] == positions.shape[1]
        for row, (text, new) in enumerate(zip(self.texts, news, strict=True)):
            held = {p: float(k[row, 0, column, 0]) for column, p in enumerate(positions[row].tolist()) if p >= 0}
            assert len(held) == int((positions[row] >= 0).sum())
            first = 0 if window is None else max(0, len(text) - len(new) + 1 - window)
            wanted = {p for p in range(len(text)) if p >= first or p < pinned} if new else set()
            assert wanted <= set(held)
            assert all(number == key(slot, text[: p + 1]) for p, number in held.items())

    @rule(data=st.data())
    def select(self, data):
        rows = data.draw(st.lists(st.integers(0, len(self.texts) - 1), min_size=1, max_size=4))
        self.cache.select(rows)
        self.texts = [list(self.texts[row]) for row in rows]
        self.most = max(self.most, len(rows))

    @rule(row=st.integers(0, 3))
    def publish(self, row):
        row %= len(self.texts)
        self.cache.publish(row, self.texts[row])
        self.published.add(tuple(self.texts[row]))

    @rule(rows=st.integers(1, 3))
    def reset(self, rows):
        self.cache.reset(rows)
        self.texts = [[] for _ in range(rows)]
        self.most = max(self.most, rows)

    @precondition(lambda self: any(not text for text in self.texts) and self.published)
    @rule(data=st.data())
    def adopt(self, data):
        """An empty row begins with what was published of a text that begins as its own."""
        row = next(i for i, text in enumerate(self.texts) if not text)
        text = [
            *data.draw(st.sampled_from(sorted(self.published))),
            *data.draw(st.lists(st.integers(0, 1), max_size=3)),
        ]
        found = self.cache.match(text)
        assert self.cache.adopt(row, text) == found
        assert found % self.block == 0 and found < max(1, len(text))
        assert any(list(known[:found]) == text[:found] for known in self.published)
        self.texts[row] = text[:found]

    @invariant()
    def nothing_leaks(self):
        if not hasattr(self, "cache"):
            return
        self.cache.check()
        assert self.cache.next_positions_B.tolist() == [len(text) for text in self.texts]
        wanted = self.plan.bytes(
            "paged", codec_named("raw"), batch=self.most, capacity=CAPACITY, dtype=torch.float64, block=self.block
        )
        assert self.cache.nbytes == wanted

    @invariant()
    def what_is_kept_is_what_was_written(self):
        if not hasattr(self, "cache"):
            return
        for row, text in enumerate(self.texts):
            prefix = self.cache.prefix(row)
            for slot, ((part,), plan_) in enumerate(zip(prefix.slots, self.plan.slots, strict=True)):
                assert part[0, 0, :, 0].tolist() == [key(slot, text[: p + 1]) for p in plan_.kept(len(text))]


PagedRows.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=15)
TestPagedRows = PagedRows.TestCase


class TestPagedRowsSwept(PagedRows.TestCase):
    settings = settings(deadline=None, max_examples=1000, stateful_step_count=40)


TestPagedRowsSwept = pytest.mark.sweep(TestPagedRowsSwept)


@given(st.lists(st.sampled_from(["take", "share", "drop", "publish", "find"]), max_size=40), st.data())
@settings(deadline=None, max_examples=60)
def test_blocks_keep_their_contract(steps, data):
    """Against lists: who holds what, and which names were given in which order."""
    blocks, held, named = Blocks(4), [], {}
    for number, step in enumerate(steps):
        if step == "take" and len(set(held)) < 4:
            block = blocks.take()
            assert block not in held
            named = {name: b for name, b in named.items() if b != block}
            held.append(block)
        elif step == "share" and held:
            held.append(data.draw(st.sampled_from(held)))
            blocks.share(held[-1])
        elif step == "drop" and held:
            blocks.drop(held.pop(data.draw(st.integers(0, len(held) - 1))))
        elif step == "publish" and held:
            block = data.draw(st.sampled_from(held))
            blocks.publish(b"%d" % number, block)
            if block not in named.values():
                named[b"%d" % number] = block
        for name, block in named.items():
            assert blocks.find(name) == block
        assert all(blocks.writable(b) == (held.count(b) == 1 and b not in named.values()) for b in held)
        assert blocks.available == 4 - len(set(held))
        blocks.check(held)


def test_the_block_that_waited_longest_is_forgotten_first():
    blocks = Blocks(3)
    a, b, c = blocks.take(), blocks.take(), blocks.take()
    for name, block in ((b"a", a), (b"b", b), (b"c", c)):
        blocks.publish(name, block)
    for block in (b, a, c):
        blocks.drop(block)
    blocks.share(b)  # found again, and left again: now the latest
    blocks.drop(b)
    assert [blocks.take(), blocks.take()] == [a, c] and blocks.find(b"b") == b and blocks.find(b"a") is None
    with pytest.raises(RuntimeError, match="too small"):
        blocks.take() and blocks.take()


@pytest.mark.parametrize("misuse", ["drop", "publish", "leak"])
def test_misuse_is_not_silent(misuse):
    blocks = Blocks(2)
    with pytest.raises(RuntimeError):
        if misuse == "drop":
            blocks.drop(0)
        elif misuse == "publish":
            blocks.publish(b"a", 0)
        else:
            blocks.take()
            blocks.check([])


def test_a_name_stands_for_all_tokens_before():
    assert name_of(name_of(ROOT, [1]), [2]) != name_of(name_of(ROOT, [3]), [2])
    assert name_of(ROOT, [1, 2]) != name_of(ROOT, [12])


@pytest.mark.parametrize("codec", ["raw", "int8", "int4"])
@pytest.mark.parametrize("window", [None, 6])
def test_a_row_that_adopts_goes_on_as_if_it_had_read(window, codec):
    """The second text shares 8 tokens with the first; its other tokens are read, those are not."""
    spec = model((None, 0), (window, 0))
    reader = decoder(spec, 0)
    first, second = list(range(10)), [*range(8), 50, 51, 52]
    with unrounded(), torch.inference_mode():
        cache = make_cache(spec, CacheSpec("paged", codec, 4), 2, 24, torch.float64, CPU)
        assert isinstance(cache, PagedCache)
        reader(torch.tensor([first[:8]] * 2), torch.tensor([[*range(8)], [-1] * 8]), cache)
        cache.publish(0, first[:8])  # before the window leaves them behind
        reader(torch.tensor([first[8:]] * 2), torch.tensor([[8, 9], [-1, -1]]), cache)
        before = sum(pool.blocks.available for pool in cache._pools.values())
        assert cache.match(second) == 8 == cache.adopt(1, second)
        revived = 0 if window is None else 1  # the window had left block 0 behind, idle
        assert sum(pool.blocks.available for pool in cache._pools.values()) == before - revived
        positions = torch.tensor([[-1, 10, 11], [8, 9, 10]])
        shared = reader(torch.tensor([[0, 20, 21], [50, 51, 52]]), positions, cache)[1]
        apart = make_cache(spec, CacheSpec("dense", codec), 1, 24, torch.float64, CPU)
        wanted = reader(torch.tensor([second]), cache=apart)[0, -3:]
        torch.testing.assert_close(shared, wanted, atol=1e-9, rtol=1e-9)
        cache.check()


def test_forks_share_until_they_differ():
    """Four beams of 16 tokens in blocks of 4 hold 4 blocks; each then writes one of its own."""
    spec = model((None, 0))
    reader = decoder(spec, 0)
    cache = make_cache(spec, CacheSpec("paged", block=4), 1, 32, torch.float64, CPU)
    assert isinstance(cache, PagedCache)
    (pool,) = cache._pools.values()
    with torch.inference_mode():
        reader(torch.zeros(1, 14, dtype=torch.long), cache=cache)
        cache.select([0] * 4)
        assert pool.blocks.count - pool.blocks.available == 4
        reader(torch.arange(4)[:, None], cache=cache)
        assert pool.blocks.count - pool.blocks.available == 3 + 4
        cache.select([2])
        assert pool.blocks.count - pool.blocks.available == 4
    cache.check()


def test_of_a_text_that_ended_the_end_is_forgotten_first():
    """A beginning that stays can be found; an end whose beginning is gone cannot."""
    spec = model((None, 0))
    reader, text = decoder(spec, 0), list(range(13))
    cache = make_cache(spec, CacheSpec("paged", block=4), 1, 16, torch.float64, CPU)
    with torch.inference_mode():
        reader(torch.tensor([text]), cache=cache)
        cache.publish(0, text)
        cache.reset(1)
        assert cache.match(text) == 12
        reader(torch.full((1, 5), 60), cache=cache)
    assert cache.match(text) == 8
