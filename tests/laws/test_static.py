"""Law: a step in fixed shapes is the eager step, for every attention and codec, whatever happens to the batch between.

What a GPU adds is that steps are recorded and replayed. Here that is played by a recorder which runs the step again and
writes its result where the first one stood, as a graph does; on a GPU the graphs themselves are tested.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace

import pytest
import torch
from cache_specs import CAPACITY, VOCABULARY, decoder, specs, unrounded
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openbook.errors import Fault
from openbook.lm.backends.static import IDLE, WARM, CudaGraphs, StaticSteps
from openbook.lm.backends.torch import COLUMNS, TorchRunner
from openbook.lm.cache.dense import DenseCache
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.decoder import Decoder
from openbook.lm.experts import Experts
from openbook.lm.rules import rule
from openbook.lm.spec import AttentionSpec, ExpertsSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec

CODECS = ["raw", "int8", "int4"]
CPU = torch.device("cpu")
EXACT = 1e-9
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Recorder:
    """What CUDA graphs do, without a GPU: what is recorded runs over the same memory again, its output too."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, body):
        self.recorded += 1
        out = body()

        def replay():
            self.replayed += 1
            return out.copy_(body())

        return replay


class Pair:
    """The same texts in two caches, one run eagerly, one in static steps; their logits are compared."""

    def __init__(self, data: st.DataObject, model: Decoder, codec: str, record: Recorder | None) -> None:
        self.data, self.model = data, model
        self.steps = StaticSteps(model, record=record)
        rows = data.draw(st.integers(1, 3), "rows")
        # Beginnings of different length, restored as branches are: side by side in the same columns.
        lengths = [data.draw(st.integers(0, 9), "length") for _ in range(rows)]
        texts = [torch.randint(0, VOCABULARY, (1, length)) for length in lengths]
        self.caches = [self.begun(texts, CacheSpec("dense", codec)) for _ in range(2)]
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def begun(self, texts: list[torch.Tensor], kind: CacheSpec) -> Cache:
        cache = self.made(kind, len(texts))
        for row, text in enumerate(texts):
            if text.numel():
                alone = self.made(kind, 1)
                self.model(text, cache=alone)
                cache.restore(row, alone.prefix(0))
        return cache

    def made(self, kind: CacheSpec, rows: int) -> Cache:
        return make_cache(self.model.spec, kind, rows, CAPACITY, torch.float64, CPU)

    def step(self) -> None:
        eager, static = self.caches
        tokens = torch.randint(0, VOCABULARY, (eager.batch, 1))
        wanted, found = self.model(tokens, cache=eager), self.steps.step(tokens, static)
        assert found is not None
        torch.testing.assert_close(found, wanted, atol=EXACT, rtol=EXACT)
        assert torch.equal(eager.next_positions_B, static.next_positions_B)
        self.kept.append((found, wanted))

    def chunk(self) -> None:
        """Several tokens at once, of another count for each row: read eagerly into both."""
        count = self.data.draw(st.integers(2, 4), "tokens at once")
        tokens = torch.randint(0, VOCABULARY, (self.caches[0].batch, count))
        positions = self.caches[0].next_positions_B[:, None] + torch.arange(count)
        if self.data.draw(st.booleans(), "padded"):
            positions = torch.cat((torch.full_like(positions[:, :1], -1), positions[:, :-1]), dim=1)
        a, b = (self.model(tokens, positions, cache) for cache in self.caches)
        torch.testing.assert_close(a, b, atol=EXACT, rtol=EXACT)

    def select(self) -> None:
        rows = self.caches[0].batch
        chosen = self.data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=3), "rows")
        for cache in self.caches:
            cache.select(chosen)

    def shuffle(self) -> None:
        """As beams do: as many rows as before, some of them twice."""
        rows = self.caches[0].batch
        chosen = self.data.draw(st.lists(st.integers(0, rows - 1), min_size=rows, max_size=rows), "rows")
        for cache in self.caches:
            cache.select(chosen)

    def another(self) -> None:
        """The text ends; another begins, of as many rows, in the same steps."""
        lengths = [self.data.draw(st.integers(0, 9), "length") for _ in range(self.caches[0].batch)]
        texts, codec = [torch.randint(0, VOCABULARY, (1, n)) for n in lengths], self.caches[0].codec.name
        self.caches = [self.begun(texts, CacheSpec("dense", codec)) for _ in range(2)]

    def run(self, most: int) -> None:
        happenings = [*[self.step] * 4, self.chunk, self.select, self.shuffle, self.another]
        for _ in range(self.data.draw(st.integers(3, most), "steps")):
            happens = self.data.draw(st.sampled_from(happenings))
            event(happens.__name__)
            if self.caches[0].length + 4 < CAPACITY:
                happens()
        self.step()
        for found, wanted in self.kept:  # no step has written over what an earlier one gave
            torch.testing.assert_close(found, wanted, atol=EXACT, rtol=EXACT)
        for row in range(self.caches[0].batch):
            kept = [cache.prefix(row) for cache in self.caches]
            assert kept[0].length == kept[1].length


def same(data: st.DataObject, codec: str, recorded: bool, most: int) -> None:
    model = decoder(data.draw(specs()), data.draw(st.integers(0, 9)))
    record = Recorder() if recorded else None
    with unrounded(), torch.inference_mode():
        Pair(data, model, codec, record).run(most)
    if record is not None:
        event(f"replayed: {record.replayed > 0}")


class NothingCrosses(TorchDispatchMode):
    """Fails where a computation on one device is sent numbers from another, which no graph can record.

    On the meta device, whose tensors hold nothing, asking for a number fails by itself: `.item()`, `.tolist()`, indices
    that are found from values.
    """

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor) and x.dim()]
        assert len({x.device.type for x in tensors}) <= 1, f"{function}: numbers cross between devices"
        return out


class NothingIsMade(TorchFunctionMode):
    """Fails where a tensor on another device is made of numbers of the host, which are copied there unseen."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)
        assert not made or out.device.type == "cpu", "a tensor is made of numbers of the host"
        return out


def check(body):
    with NothingIsMade(), NothingCrosses():
        body()
    return body


@given(specs(), st.sampled_from(CODECS), st.integers(1, 3))
@settings(deadline=None, max_examples=8)
def test_a_step_asks_the_device_nothing_and_is_sent_nothing(spec, codec, rows):
    """So it can be recorded. On a device that holds no numbers, for every spec; this needs no GPU."""
    if spec.positions == "learned":
        spec = replace(spec, positions="sinusoidal")  # their limit is looked up once, before steps are recorded
    spec = replace(spec, embedding_scale=4.0)
    model, meta = decoder(spec, 0, torch.bfloat16).to("meta"), torch.device("meta")
    steps = StaticSteps(model, record=check)
    cache = make_cache(spec, CacheSpec("dense", codec), rows, CAPACITY, torch.bfloat16, meta)
    fed(steps, cache, WARM + 1)
    assert steps.refused is None and cache.length == WARM + 1


def test_what_crosses_is_found():
    x = torch.ones(2, device="meta")
    made = (lambda: torch.tensor([1.0, 2.0], device="meta"), lambda: x.new_tensor(3.0))
    for crossing in (lambda: x + torch.ones(2).to("meta"), *made):
        with pytest.raises(AssertionError):
            check(crossing)
    for asking in (lambda: x.sum().item(), lambda: x[x > 0], lambda: x.tolist()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            check(asking)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("codec", CODECS)
@given(st.data())
@settings(deadline=None, max_examples=8)
def test_a_static_step_is_the_eager_step(codec, recorded, data):
    same(data, codec, recorded, most=10)


@pytest.mark.sweep
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("codec", CODECS)
@given(st.data())
@settings(deadline=None, max_examples=150)
def test_static_steps_swept(codec, recorded, data):
    same(data, codec, recorded, most=24)


def small(layers: int = 2, feed_forward=None, positions=None, longest: int = 4096, **attention) -> ModelSpec:
    attention = {"rope": RopeSpec()} | attention
    layer = LayerSpec(AttentionSpec(4, 2, 8, **attention), feed_forward or FeedForwardSpec(24))
    return ModelSpec(VOCABULARY, 16, (layer,) * layers, longest, positions=positions)


def fed(steps: StaticSteps, cache: Cache, count: int) -> torch.Tensor | None:
    for _ in range(count):
        logits = steps.step(torch.zeros(cache.batch, 1, dtype=torch.long), cache)
    return logits


def test_a_step_is_recorded_when_it_is_warm_and_again_only_for_another_shape():
    model, record = decoder(small(), 0), Recorder()
    steps = StaticSteps(model, record=record)
    cache = make_cache(model.spec, CacheSpec("dense"), 2, CAPACITY, torch.float64, CPU)
    fed(steps, cache, WARM)
    assert (record.recorded, record.replayed) == (0, 0)
    fed(steps, cache, 3)
    assert (record.recorded, record.replayed) == (1, 3)
    cache.select([1, 0])  # as many rows: copied to where the recorded step reads them
    fed(steps, cache, 2)
    assert (record.recorded, record.replayed) == (1, 5)
    cache.select([0, 0, 1])
    fed(steps, cache, WARM + 1)
    assert (record.recorded, record.replayed) == (2, 6)


def test_rows_that_part_before_every_step_are_recorded_once():
    model, record = decoder(small(), 0), Recorder()
    steps = StaticSteps(model, record=record)
    cache = make_cache(model.spec, CacheSpec("dense"), 3, CAPACITY, torch.float64, CPU)
    for _ in range(WARM + 4):
        fed(steps, cache, 1)
        cache.select([2, 0, 0])
    assert (record.recorded, record.replayed) == (1, 4)


def begun(model: Decoder, rows: int, length: int, codec: str = "raw") -> Cache:
    cache = make_cache(model.spec, CacheSpec("dense", codec), rows, CAPACITY, torch.float64, CPU)
    model(torch.randint(0, VOCABULARY, (rows, length)), cache=cache)
    return cache


@torch.inference_mode()
def test_a_later_text_goes_on_in_a_step_recorded_for_one_that_is_gone():
    model, record = decoder(small(), 0), Recorder()
    steps = StaticSteps(model, record=record)
    first = begun(model, 2, 20)
    fed(steps, first, WARM + 3)
    second = begun(model, 2, 3)
    fed(steps, second, WARM + 1)  # while the first is in use, a step of its own
    assert record.recorded == 2
    del first
    third, alone, other = begun(model, 2, 5), begun(model, 2, 5), begun(model, 2, 5, "int8")
    alone.storage = copy.deepcopy(third.storage)
    for _ in range(3):
        tokens = torch.randint(0, VOCABULARY, (2, 1))
        torch.testing.assert_close(steps.step(tokens, third), model(tokens, cache=alone))
    assert record.recorded == 2
    assert third.storage.positions_BC is not second.storage.positions_BC
    fed(steps, other, WARM + 1)
    assert record.recorded == 3


def test_few_steps_of_caches_that_are_gone_are_kept():
    model = decoder(small(), 0)
    steps = StaticSteps(model, record=Recorder())
    for rows in range(1, 6):
        fed(steps, begun(model, rows, 1), WARM + 1)
    assert len(steps._steps) == IDLE + 1
    unrecorded = begun(model, 6, 1)
    fed(steps, unrecorded, 1)
    unrecorded.select([0])
    fed(steps, unrecorded, 1)
    assert len(steps._steps) <= IDLE + 1


def test_where_recording_fails_decoding_goes_on_eagerly_and_says_why(caplog, capfd):
    def fails(body):
        body()
        raise RuntimeError("operation not permitted when stream is capturing")

    model = decoder(small(), 0, torch.float32)
    runner, plain = TorchRunner(model, static=True), TorchRunner(model, static=False)
    runner.steps = StaticSteps(model, record=fails)
    caches = [made.cache([None, None], room=8) for made in (runner, plain)]
    with caplog.at_level(logging.INFO, logger="openbook"):
        for _ in range(5):
            tokens = torch.randint(0, VOCABULARY, (2, 1))
            found, wanted = runner.forward(tokens, caches[0]), plain.forward(tokens, caches[1])
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert caches[0].length == caches[1].length == 5
    assert runner.steps.refused is not None and "stream is capturing" in runner.steps.refused
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert capfd.readouterr() == ("", "")


def test_a_scaling_that_changes_with_the_text_is_refused_by_name():
    scaling = rule("dynamic", factor=2.0, original=8)
    runner = TorchRunner(decoder(small(rope=RopeSpec(scaling=scaling)), 0, torch.float32), static=True)
    assert runner.steps is not None and "rope scaling" in str(runner.steps.refused)
    cache = runner.cache([None], room=3)
    assert runner.forward(torch.zeros(1, 1, dtype=torch.long), cache).shape == (1, 1, VOCABULARY)


@pytest.mark.parametrize("record", [None, Recorder()])
def test_a_full_context_is_a_fault_here_too(record):
    model = decoder(small(), 0)
    cache = make_cache(model.spec, CacheSpec("dense"), 1, 5, torch.float64, CPU)
    steps = StaticSteps(model, record=record)
    fed(steps, cache, 5)
    for _ in range(2):
        with pytest.raises(Fault, match="context is full"):
            fed(steps, cache, 1)
    assert int(cache.next_positions_B[0]) == cache.length == 5


def test_learned_positions_end_with_a_fault_wherever_the_text_was_read():
    model = decoder(small(positions="learned", longest=6, rope=None), 0)
    cache = make_cache(model.spec, CacheSpec("dense"), 2, 20, torch.float64, CPU)
    steps = StaticSteps(model)
    fed(steps, cache, 2)
    model(torch.zeros(2, 2, dtype=torch.long), cache=cache)  # an eager chunk between
    fed(steps, cache, 1)
    cache.select([1])
    fed(steps, cache, 1)
    for _ in range(2):
        with pytest.raises(Fault, match="longer than the 6 positions"):
            fed(steps, cache, 1)


def test_a_runner_on_a_cpu_is_static_only_if_asked_and_gives_the_columns_asked_for():
    model = decoder(small(window=3), 0, torch.float32)
    asked, plain = TorchRunner(model, static=True), TorchRunner(model)
    assert plain.steps is None and asked.steps is not None
    text = torch.randint(0, VOCABULARY, (1, 7))
    prefix = asked.prefill(text[0].tolist())
    cache = asked.cache([prefix, None], room=3)
    assert isinstance(cache, DenseCache) and cache.capacity % COLUMNS == 0
    other, tokens = plain.cache([prefix, None], room=3), torch.randint(0, VOCABULARY, (2, 1))
    assert not isinstance(other, DenseCache)  # the window makes a ring smaller
    for keep in (slice(None), slice(-1, None), [0]):
        found, wanted = asked.forward(tokens, cache, keep=keep), plain.forward(tokens, other, keep=keep)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert asked.forward(tokens, cache, keep=slice(0, 0)).shape == (2, 0, VOCABULARY)


@given(st.integers(2, 40), st.integers(2, 4), st.integers(1, 9), st.booleans(), st.integers(0, 9))
@example(40, 2, 1, True, 0)
@settings(max_examples=20)
def test_experts_in_fixed_shapes_are_the_experts(count, active, tokens, gated, seed):
    spec = ExpertsSpec(count, min(count, active), FeedForwardSpec(12, gated=gated), shared=FeedForwardSpec(8))
    torch.manual_seed(seed)
    experts, x = Experts(spec, 16).double().eval(), torch.randn(2, tokens, 16, dtype=torch.float64)
    with torch.inference_mode():
        event("gathered" if 6 * tokens * spec.active < count else "all")
        torch.testing.assert_close(experts.fixed(x), experts(x), atol=1e-12, rtol=1e-12)


def test_tables_kept_for_inference_can_be_trained_through():
    model = Decoder(small(bias=rule("alibi")))
    tokens = torch.zeros(1, 4, dtype=torch.long)
    with torch.inference_mode():
        model(tokens)
    model(tokens).sum().backward()
    assert model.embedding.weight.grad is not None and math.isfinite(float(model.embedding.weight.grad.sum()))


MIXED = small(1, ExpertsSpec(4, 2, FeedForwardSpec(12)), window=5, bias=rule("alibi"))


def compiled_is_eager(*rooms: int) -> None:
    model = decoder(MIXED, 0, torch.float32)
    runner, plain = TorchRunner(model, compiled=True), TorchRunner(model)
    for room in rooms:
        caches = [made.cache([None, None], room=room) for made in (runner, plain)]
        for _ in range(5):
            tokens = torch.randint(0, VOCABULARY, (2, 1))
            found, wanted = runner.forward(tokens, caches[0]), plain.forward(tokens, caches[1])
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "rooms", [[16], pytest.param([16, 2 * COLUMNS, 3 * COLUMNS, 4 * COLUMNS], marks=pytest.mark.sweep)]
)
def test_a_step_is_one_graph_to_the_compiler_and_not_another_for_each_cache(rooms, monkeypatch):
    """Traced, but not translated, which takes most of the time."""
    traced = []

    def backend(module, inputs):
        traced.append(module)
        return module.forward

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run: compiled(run, backend=backend, fullgraph=True))
    compiled_is_eager(*rooms)
    assert 1 <= len(traced) <= 2  # again where the number of columns is another, then for any number


@pytest.mark.sweep
def test_compiled_steps_are_the_eager_steps():
    compiled_is_eager(16)


@needs_gpu
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "spec",
    [
        small(),
        small(window=5, pinned=1, sinks=True),
        small(bias=rule("alibi"), soft_cap=3.0, rope=None),
        small(positions="learned", rope=None, longest=CAPACITY),
        small(positions="sinusoidal", rope=None),
        small(feed_forward=ExpertsSpec(4, 2, FeedForwardSpec(12))),
        small(feed_forward=ExpertsSpec(16, 2, FeedForwardSpec(12))),
    ],
)
def test_graphs_give_what_eager_steps_give(spec, codec):
    model = decoder(spec, 0, torch.float32).cuda()
    runner, plain = TorchRunner(model, CacheSpec(codec=codec)), TorchRunner(model, CacheSpec(codec=codec), static=False)
    caches = [made.cache([None, None], room=30) for made in (runner, plain)]
    for index in range(4 * WARM):
        tokens = torch.randint(0, VOCABULARY, (caches[0].batch, 1))
        found, wanted = runner.forward(tokens, caches[0]), plain.forward(tokens, caches[1])
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
        if index in (WARM + 1, 2 * WARM + 1):
            for cache in caches:
                cache.select([1, 0] if index == WARM + 1 else [0, 1, 1])
    assert runner.steps is not None and runner.steps.refused is None


@needs_gpu
def test_a_step_that_cannot_be_recorded_leaves_the_stream_as_it_was():
    before = torch.cuda.current_stream()
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError):
        CudaGraphs(x.device)(lambda: x * float(x.sum()))
    assert torch.cuda.current_stream() == before
    assert float((x + x).sum()) == 6.0


@needs_gpu
def test_a_recorded_step_waits_for_nothing():
    model = decoder(small(), 0, torch.bfloat16).cuda()
    runner = TorchRunner(model)
    cache, tokens = runner.cache([None], room=20), torch.zeros(1, 1, dtype=torch.long, device="cuda")
    for _ in range(WARM + 1):
        runner.forward(tokens, cache)
    torch.cuda.set_sync_debug_mode("error")
    try:
        runner.forward(tokens, cache)
    finally:
        torch.cuda.set_sync_debug_mode("default")
