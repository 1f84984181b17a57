"""What a cache allocates follows its formula to the byte; sharing and windows shrink it; what cannot be is refused."""

import itertools

import pytest
import torch
from cache_specs import specs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from openbook.errors import Fault
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.codecs import codec_named, codec_names
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.cache.plan import plan
from openbook.lm.cache.protocol import Transient
from openbook.lm.decoder import Decoder
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, SpecError

CPU = torch.device("cpu")
LAYOUTS, CODECS = ["auto", "dense", "ring", "paged"], ["raw", "int8", "int4"]


def model(*attentions: AttentionSpec) -> ModelSpec:
    return ModelSpec(61, 32, tuple(LayerSpec(a, FeedForwardSpec(8)) for a in attentions), 64)


def allocated(spec: ModelSpec, kind: CacheSpec, batch: int = 1, capacity: int = 64) -> int:
    return make_cache(spec, kind, batch, capacity, torch.bfloat16, CPU).nbytes


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
@given(specs(), st.integers(1, 3), st.integers(1, 70), st.integers(1, 17))
@settings(deadline=None, max_examples=8)
def test_the_bytes_allocated_are_those_of_the_formula(layout, codec, spec, batch, capacity, block):
    kind = CacheSpec(layout, codec, block)
    for dtype in (torch.float32, torch.bfloat16):
        cache = make_cache(spec, kind, batch, capacity, dtype, CPU)
        assert cache.nbytes == kind.bytes(spec, batch=batch, capacity=capacity, dtype=dtype)


@given(specs())
@settings(deadline=None, max_examples=20)
def test_a_plan_says_who_reads_what_and_how_far(spec):
    made = plan(spec)
    assert [slot.producer for slot in made.slots] == list(spec.producers)
    for index, layer in enumerate(spec.layers):
        slot = made.slots[made.slot_of_layer[index]]
        assert slot.producer == (index if layer.attention.kv_from is None else layer.attention.kv_from)
        assert slot.window is None or (layer.attention.window is not None and slot.window >= layer.attention.window)
        assert slot.window is None or slot.pinned >= layer.attention.pinned
    assert sum(slot.readers for slot in made.slots) == len(spec.layers)
    for itemsize, dtype in ((2, torch.bfloat16), (4, torch.float32)):
        assert made.bytes_per_token(codec_named("raw"), dtype) == spec.kv_bytes_per_token(itemsize)


def test_check_values_of_smollm2():
    spec = model(*[AttentionSpec(9, 3, 64)] * 30)
    made = plan(spec)
    per_token = {codec: made.bytes_per_token(codec_named(codec), torch.bfloat16) for codec in CODECS}
    assert per_token == {"raw": 23_040, "int8": 30 * 2 * 3 * 66, "int4": 30 * 2 * 3 * 36}
    assert allocated(spec, CacheSpec(), 2, 10) == 2 * 10 * 23_040


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sharing_shrinks_the_allocation(layout, codec):
    own, kind = AttentionSpec(4, 2, 8), CacheSpec(layout, codec)
    shared = model(own, AttentionSpec(4, 2, 8, kv_from=0), own, AttentionSpec(4, 2, 8, kv_from=2))
    assert 2 * allocated(shared, kind) == allocated(model(own, own, own, own), kind)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("layout", "columns"), [("auto", 10), ("ring", 10), ("paged", 16)])
def test_a_window_shrinks_the_allocation(layout, columns, codec):
    """A window of 8 and 2 pinned: 10 columns of 64; in blocks of 4, one pinned, two and a begun one of the window."""
    kind = CacheSpec(layout, codec, block=4)
    narrow, wide = AttentionSpec(4, 2, 8, window=8, pinned=2), AttentionSpec(4, 2, 8)
    assert 64 * allocated(model(narrow), kind) == columns * allocated(model(wide), kind)
    # A reader that sees everything makes its producer keep everything.
    reader = AttentionSpec(4, 2, 8, kv_from=0)
    assert allocated(model(narrow, reader), kind) == allocated(model(wide, reader), kind)


def test_auto_is_the_smaller_layout():
    narrow = plan(model(AttentionSpec(4, 2, 8, window=8)))
    assert CacheSpec().layout_for(narrow, 64) == "ring"
    assert CacheSpec().layout_for(narrow, 8) == "dense"
    assert CacheSpec().layout_for(plan(model(AttentionSpec(4, 2, 8))), 64) == "dense"


@pytest.mark.parametrize("layout", ["ring", "paged"])
def test_what_a_windowed_prefill_reads_is_freed_after_its_last_reader(layout):
    own, reader = AttentionSpec(4, 2, 8, window=4), AttentionSpec(4, 2, 8, window=2, kv_from=0)
    runner = TorchRunner(Decoder(model(own, reader, reader)), CacheSpec(layout))
    cache = runner.cache([None], room=40)
    runner.forward(torch.zeros(1, 9, dtype=torch.long), cache)
    runner.forward(torch.zeros(1, 9, dtype=torch.long), cache)
    assert not cache._joined


def tensors(of: object, seen: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Every tensor that an object of ours holds, by its storage."""
    if isinstance(of, torch.Tensor):
        seen[of.untyped_storage().data_ptr()] = of
    elif isinstance(of, dict | list | tuple):
        for each in of.values() if isinstance(of, dict) else of:
            tensors(each, seen)
    elif type(of).__module__.startswith("openbook.lm.cache"):
        tensors(vars(of) if hasattr(of, "__dict__") else {}, seen)
    return seen


@pytest.mark.parametrize("window", [None, 4, 9])
@pytest.mark.parametrize("layout", ["dense", "ring", "paged"])
def test_after_a_forward_keys_and_their_positions_are_all_that_is_kept(layout, window):
    own, reader = AttentionSpec(4, 2, 8, window=window), AttentionSpec(4, 2, 8, window=window and 2, kv_from=0)
    runner = TorchRunner(Decoder(model(own, reader, own)), CacheSpec(layout, "int4", 4))
    cache = runner.cache([None, None], room=40)
    for tokens in (19, 1, 17):
        runner.forward(torch.zeros(2, tokens, dtype=torch.long), cache)
        held = sum(tensor.untyped_storage().nbytes() for tensor in tensors(cache, {}).values())
        columns = max(cache.plan.columns(layout, 40, 4))
        starts = 8 * 2 * (layout == "dense")  # from where on each row is whole, which a retraction asks
        assert held == cache.nbytes + 8 * 2 * (columns + 1) + starts  # a position a column, the next of each row


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("layout", ["dense", "paged"])
def test_reading_a_slot_needs_little_more_than_what_is_read(layout, codec):
    spec = model(AttentionSpec(4, 2, 64))
    cache = make_cache(spec, CacheSpec(layout, codec), 2, 512, torch.float32, CPU)
    cache.extend(torch.arange(512).expand(2, -1))
    cache.write(0, torch.ones(2, 2, 512, 64), torch.ones(2, 2, 512, 64))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        k, v = cache.read(0)
    changes = [event.nbytes() for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert max(itertools.accumulate(changes), default=0) < 1.5 * (k.nbytes + v.nbytes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_that_holds_a_text_takes_no_prefix(layout):
    cache = TorchRunner(Decoder(model(AttentionSpec(4, 2, 8))), CacheSpec(layout)).cache([None], room=9)
    cache.extend(torch.arange(3)[None])
    cache.write(0, torch.ones(1, 2, 3, 8), torch.ones(1, 2, 3, 8))
    with pytest.raises(RuntimeError, match="row 0 holds a text"):
        cache.restore(0, cache.prefix(0))


def test_a_plan_of_many_layers_is_made_in_one_pass():
    """4096 layers that share in twos: a pass over all of them for each would take minutes."""
    own = AttentionSpec(2, 1, 2, window=3)
    layers = [own if i % 2 == 0 else AttentionSpec(2, 1, 2, window=5, kv_from=i - 1) for i in range(4096)]
    made = plan(model(*layers))
    assert len(made.slots) == 2048 and {(slot.window, slot.readers) for slot in made.slots} == {(5, 2)}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: CacheSpec("heap"), "no cache layout is called 'heap'.*dense"),
        (lambda: CacheSpec(codec="int2"), "no codec.*'int2'.*int8"),
        (lambda: CacheSpec(block=0), "a block of 0"),
        (lambda: allocated(model(AttentionSpec(2, 2, 5)), CacheSpec(codec="int4")), "even head_dim, not 5.*int8"),
        (lambda: TorchRunner(Decoder(model(AttentionSpec(2, 2, 5))), CacheSpec(codec="int4")), "even head_dim"),
        (lambda: allocated(model(AttentionSpec(2, 2, 4)), CacheSpec(), capacity=0), "1 or more"),
        (
            lambda: plan(
                ModelSpec(
                    9, 8, (LayerSpec(AttentionSpec(2, 2, 4, causal=False), FeedForwardSpec(8)),), 8, head=False
                )
            ),
            "layer 0 also looks ahead",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_name(make, says):
    with pytest.raises(Fault, match=says):
        make()


def test_every_refusal_of_a_spec_is_a_spec_error():
    with pytest.raises(SpecError):
        allocated(model(AttentionSpec(2, 2, 5)), CacheSpec(codec="int4"))


def test_a_transient_cache_serves_one_forward():
    spec = model(AttentionSpec(2, 2, 4))
    cache = Transient(spec)
    with pytest.raises(RuntimeError, match="extend comes first"):
        cache.positions(0)
    cache.extend(torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(RuntimeError, match="before its producer"):
        cache.read(0)
    with pytest.raises(RuntimeError, match="one forward"):
        cache.extend(torch.zeros(1, 1, dtype=torch.long))


# Codecs.


def test_three_codecs_are_known():
    assert set(CODECS) <= set(codec_names())


@pytest.mark.parametrize("name", CODECS)
@given(
    st.integers(0, 2**31),
    st.sampled_from([2, 4, 64]),
    st.sampled_from([1e-40, 1e-30, 1e-3, 1.0, 1e4, 1e30, 1e37]),
    st.sampled_from([0.0, 1.0, -30.0]),
)
@settings(deadline=None, max_examples=40)
def test_a_number_comes_back_within_the_bound(name, seed, head_dim, size, offset):
    codec, generator = codec_named(name), torch.Generator().manual_seed(seed)
    x = (torch.randn(3, 2, head_dim, generator=generator) + offset) * size
    x[0, 0] = 0
    x[1, 0] = x[1, 0, 0]
    parts = codec.encode(x)
    assert [(tuple(part.shape), part.dtype) for part in parts] == [
        ((3, 2, width), kind) for width, kind in codec.widths(head_dim, x.dtype)
    ]
    assert sum(part[0, 0].nbytes for part in parts) == codec.bytes(head_dim, x.dtype)
    assert ((codec.decode(parts, torch.float32) - x).abs() <= codec.bound(x)).all()


@pytest.mark.parametrize(("name", "share"), [("raw", 0.0), ("int8", 0.0041), ("int4", 0.035)])
def test_the_bound_is_a_small_share_of_the_range(name, share):
    x = torch.randn(1000, 64)
    span = x.amax(-1) - x.amin(-1) if name == "int4" else x.abs().amax(-1)
    assert (codec_named(name).bound(x)[:, 0] / span).max() <= share


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_does_not_become_one(name, bad):
    """Else damaged weights would answer as if nothing were wrong."""
    x = torch.ones(2, 4)
    x[0, 1] = bad
    codec = codec_named(name)
    back = codec.decode(codec.encode(x), torch.float32)
    assert not torch.isfinite(back[0]).all() and torch.isfinite(back[1]).all()
