"""What a conversion keeps exactly, what it makes of the rest, and what it refuses."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.errors import Fault
from openbook.lm.convert import convert, is_exact, pooled, producers, respec, warnings
from openbook.lm.decoder import Decoder
from openbook.lm.rules import SpecError, rule
from openbook.lm.spec import (
    AttentionSpec,
    ClassifierSpec,
    ExpertsSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelSpec,
    NormSpec,
    QKNormSpec,
    RopeSpec,
    Seq2SeqSpec,
)
from openbook.lm.weights.own import config_of, spec_of

V, M, H, D = 31, 12, 6, 4
TEXT = torch.arange(22).reshape(2, 11)


@st.composite
def models(draw, kv_heads=None, dense=True) -> ModelSpec:
    """Decoders of every field, so that nothing is lost on the way; layers share a rope and a norm of queries."""
    K = kv_heads or draw(st.sampled_from([1, 2, 3, 6]))
    rope = draw(st.sampled_from([None, RopeSpec(500.5, rule("linear", factor=3.0), 2), RopeSpec()]))
    qk_norm = draw(st.sampled_from([None, QKNormSpec(), QKNormSpec(NormSpec("rms", 1e-6, 1.0), "projection")]))
    bias = draw(st.sampled_from([None, rule("alibi"), rule("relative", buckets=8, max_distance=20, both_ways=False)]))
    experts = ExpertsSpec(3, 2, FeedForwardSpec(5), shared=FeedForwardSpec(3), shared_gate=True, balance_bias=True)
    layers = []
    for index in range(draw(st.integers(1, 4))):
        window = draw(st.sampled_from([None, 3, 50]))
        attention = AttentionSpec(
            H, K, D, rope=rope, qk_norm=qk_norm, bias=bias, window=window,
            pinned=draw(st.integers(0, 2)) if window else 0, sinks=draw(st.booleans()),
            rules=draw(st.sampled_from([(), (rule("chunked", size=4),)])), scale=draw(st.sampled_from([None, 0.25])),
            soft_cap=draw(st.sampled_from([None, 20.0])), qkv_bias=draw(st.booleans()), out_bias=draw(st.booleans()),
        )  # fmt: skip
        producer = layers[0].attention if index and draw(st.booleans()) else None
        if producer:
            attention = replace(attention, kv_from=0)
        feed_forward = FeedForwardSpec(7, draw(st.sampled_from(["silu", "relu"])), draw(st.booleans()))
        place = draw(st.sampled_from(["pre", "post", "sandwich", "parallel"]))
        mixed = not dense and draw(st.booleans())
        layers.append(LayerSpec(attention, experts if mixed else feed_forward, NormSpec("layer", bias=False), place))
    return ModelSpec(
        V, M, tuple(layers), 40, tied=draw(st.booleans()), head_bias=draw(st.booleans()), embedding_scale=3.5,
        positions=draw(st.sampled_from([None, "learned", "sinusoidal"])), logit_cap=draw(st.sampled_from([None, 30.0])),
        final_norm=draw(st.sampled_from([None, NormSpec()])), embedding_norm=draw(st.sampled_from([None, NormSpec()])),
    )  # fmt: skip


def seeded(spec: ModelSpec, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn_like(t) * 0.4 for name, t in Decoder(spec).state_dict().items()}


def logits(spec: ModelSpec, state) -> torch.Tensor:
    model = Decoder(spec).eval()
    model.load_state_dict(dict(state))
    with torch.inference_mode():
        return model(TEXT)


def plain(kv_heads=2, layers=4, **attention) -> ModelSpec:
    layer = LayerSpec(AttentionSpec(H, kv_heads, D, rope=RopeSpec(), **attention), FeedForwardSpec(7))
    return ModelSpec(V, M, (layer,) * layers, 40)


# Specs as JSON


@settings(max_examples=80, deadline=None)
@given(models(dense=False))
def test_a_spec_comes_back_from_json(spec):
    assert spec_of(json.loads(json.dumps(config_of(spec)["openbook"]))) == spec


def test_encoders_classifiers_and_pairs_come_back():
    layer = LayerSpec(AttentionSpec(2, 2, D, causal=False), FeedForwardSpec(7))
    encoder = ModelSpec(V, M, (layer,), 40, head=False, token_types=2)
    crossed = LayerSpec(AttentionSpec(2, 1, D), FeedForwardSpec(7), cross=AttentionSpec(2, 2, D, causal=False))
    pair = Seq2SeqSpec(encoder, ModelSpec(V, M, (crossed,), 40, memory_width=M), start=3)
    for spec in (encoder, replace(encoder, classifier=ClassifierSpec(("a", "b"))), pair):
        config = json.loads(json.dumps(config_of(spec)))
        assert spec_of(config["openbook"]) == spec
    assert config["architectures"] == ["OpenbookForConditionalGeneration"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(widht=3), "openbook.model.widht is a field openbook does not know"),
        (lambda m: m.pop("width"), "openbook.model.width is missing"),
        (lambda m: m.update(width=True), "openbook.model.width is True, not a number"),
        (lambda m: m.update(width=12.5), "openbook.model.width is 12.5, not a whole number"),
        (lambda m: m.update(width=10**30), "openbook.model.width is 1000"),
        (lambda m: m.update(tied=1), "openbook.model.tied is 1, not true or false"),
        (lambda m: m.update(positions="rotary"), "openbook.model.positions is 'rotary'; it must be one of learned"),
        (lambda m: m.update(vocabulary=None), "openbook.model.vocabulary is None, not a number"),
        (lambda m: m.update(logit_scale=float("nan")), "openbook.model.logit_scale is nan"),
        (lambda m: m.update(layers={}), "openbook.model.layers is {}, not a list"),
        (lambda m: m["layers"][1].pop("attention"), "layers[1].attention is missing"),
        (lambda m: m["layers"][1]["attention"].update(kv_heads=4), "layers[1].attention: 6 query heads do not divide"),
        (lambda m: m["layers"][0]["feed_forward"].update(expert={}), "feed_forward.expert is a field"),
        (lambda m: m["layers"][0]["attention"].update(rules=[{"name": "x"}]), "rules[0] must hold name and parameters"),
        (
            lambda m: m["layers"][0]["attention"].update(rules=[{"name": "x", "parameters": {"name": 1}}]),
            "no mask rule is called 'x'",
        ),
    ],
)
def test_a_wrong_field_is_named(change, words):
    config = json.loads(json.dumps(config_of(plain())))["openbook"]
    change(config["model"])
    with pytest.raises(Fault) as raised:
        spec_of(config)
    assert words in str(raised.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nothing_in_a_field_is_more_than_a_fault(data):
    config = json.loads(json.dumps(config_of(plain(layers=1))))["openbook"]
    place, anything = (
        config,
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([]) | st.just({}),
    )
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(anything)
    try:
        spec_of(config)
    except Fault as fault:
        assert str(fault).isprintable()


# Heads


@settings(max_examples=25, deadline=None)
@given(models(), st.integers(0, 9))
def test_the_same_heads_are_no_change(spec, seed):
    after = respec(spec, kv_heads=spec.layers[0].attention.kv_heads)
    assert after == spec
    state = seeded(spec, seed)
    assert all(torch.equal(state[name], tensor) for name, tensor in convert(spec, after, state, "random"))


@settings(max_examples=25, deadline=None)
@given(models(), st.integers(0, 9), st.data())
def test_more_heads_write_the_same_text(spec, seed, data):
    K = spec.layers[0].attention.kv_heads
    after = respec(spec, kv_heads=data.draw(st.sampled_from([n for n in (1, 2, 3, 6) if n % K == 0])))
    state = seeded(spec, seed)
    converted = dict(convert(spec, after, state, "random"))
    torch.testing.assert_close(logits(after, converted), logits(spec, state), atol=1e-5, rtol=1e-5)
    back = dict(convert(after, spec, converted, "mean"))  # and pooling the copies gives each head back, bit for bit
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@settings(max_examples=25, deadline=None)
@given(models(kv_heads=6), st.sampled_from([1, 2, 3]), st.sampled_from(["mean", "first"]), st.integers(0, 9))
def test_pooling_equal_heads_writes_the_same_text(spec, count, pool, seed):
    few = respec(spec, kv_heads=count)
    equal = dict(convert(few, spec, seeded(few, seed)))
    pooled_again = dict(convert(spec, few, equal, pool))
    torch.testing.assert_close(logits(few, pooled_again), logits(spec, equal), atol=1e-5, rtol=1e-5)


def test_pools_are_their_definition():
    weight = torch.arange(6 * D * 2, dtype=torch.float32).reshape(6 * D, 2)
    heads = weight.view(6, D, 2)
    assert torch.equal(pooled(weight, 6, 6, 2).view(2, D, 2)[1], heads[3:].mean(0))
    assert torch.equal(pooled(weight, 6, 6, 2, "first").view(2, D, 2)[1], heads[3])
    assert torch.equal(pooled(weight[:, 0], 6, 6, 1), heads[:, :, 0].mean(0))  # biases
    # From three heads to two, each new head weighs the heads that its queries used: 0, 0, 1 and 1, 2, 2.
    three = heads[:3]
    torch.testing.assert_close(pooled(weight[: 3 * D], 6, 3, 2).view(2, D, 2)[0], (2 * three[0] + three[1]) / 3)
    drawn = [pooled(weight, 6, 6, 1, "random", seed) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_heads_that_do_not_divide_and_norms_that_do_not_commute():
    with pytest.raises(SpecError, match="6 query heads do not divide into 4"):
        respec(plain(), kv_heads=4)
    normed = plain(6, qk_norm=QKNormSpec())
    assert "does not commute" in warnings(normed, respec(normed, kv_heads=2))[0]
    assert not warnings(normed, respec(normed, kv_heads=2), "first")
    assert not warnings(plain(6), respec(plain(6), kv_heads=2))


# Sharing


def test_who_makes_keys_when_layers_do_not_divide():
    assert producers(10, 3) == (0, 1, 4, 7)
    assert producers(10, 2) == (0, 2, 4, 6, 8)
    assert producers(3, 1) == (0, 1, 2)
    assert producers(3, 7) == (0,)


def test_readers_lose_their_keys_and_the_formula_holds():
    smollm2 = ModelSpec(
        49152, 576, (LayerSpec(AttentionSpec(9, 3, 64, rope=RopeSpec()), FeedForwardSpec(1536)),) * 30, 8192
    )
    mqa = respec(smollm2, kv_heads=1)
    both = respec(smollm2, kv_heads=1, share=2)
    assert [spec.kv_bytes_per_token(2) for spec in (smollm2, mqa, both)] == [23_040, 7_680, 3_840]
    spec = plain(layers=5)
    after = respec(spec, share=(0, 3))
    assert [layer.attention.kv_from for layer in after.layers] == [None, 0, 0, None, 3]
    state = seeded(spec)
    converted = dict(convert(spec, after, state))
    lost = state.keys() - converted.keys()
    assert lost == {n for n in state for i in (1, 2, 4) if n.startswith(f"layers.{i}.key_value.")}
    assert converted.keys() == Decoder(after).state_dict().keys()
    assert logits(after, converted).isfinite().all()


def test_layers_share_with_their_kind():
    local, whole = (LayerSpec(AttentionSpec(H, 2, D, rope=RopeSpec(base)), FeedForwardSpec(7)) for base in (1e4, 1e6))
    spec = ModelSpec(V, M, ((local,) * 2 + (whole,)) * 2 + (local,), 40)  # local at 0, 1, 3, 4, 6; global at 2, 5
    sources = [layer.attention.kv_from for layer in respec(spec, share=2).layers]
    assert sources == [None, None, None, 1, None, 2, 4]
    with pytest.raises(SpecError, match="layer 2 is the first of its kind"):
        respec(spec, share=(0, 4))


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0, "0 layers cannot share"),
        ((1, 2), "layer 0 is the first"),
        ((0, 9), "no layer 9"),
        ((), "layer 0 is the first"),
    ],
)
def test_sharing_that_cannot_be(share, words):
    with pytest.raises(SpecError, match=words):
        respec(plain(), share=share)


def test_a_layer_without_keys_cannot_begin_to_make_them():
    shared = respec(plain(), share=2)
    assert respec(shared, share=4).producers == (0,)
    with pytest.raises(SpecError, match="layer 1 makes no keys and values now"):
        respec(shared, share=1)
    with pytest.raises(SpecError, match="layer 1 has no keys and values of its own"):
        convert(shared, plain(), seeded(shared))


# Windows


@settings(max_examples=20, deadline=None)
@given(st.integers(11, 60), st.integers(0, 3), st.sampled_from([None, (2, 1)]))
def test_a_window_as_long_as_the_text_is_none(window, pinned, pattern):
    spec, state = plain(), seeded(plain())
    after = respec(spec, window=window, pattern=pattern, pinned=pinned)
    torch.testing.assert_close(logits(after, convert(spec, after, state)), logits(spec, state))


def test_local_layers_come_first_and_global_ones_see_all():
    after = respec(plain(layers=7), window=8, pattern=(5, 1), pinned=2)
    assert [layer.attention.window for layer in after.layers] == [8] * 5 + [None, 8]
    assert [layer.attention.pinned for layer in after.layers] == [2] * 5 + [0, 2]
    with pytest.raises(SpecError, match="need a window"):
        respec(plain(), pinned=2)
    with pytest.raises(SpecError, match="has no window"):
        respec(plain(), window=4, pattern=(0, 1))


# Experts


@settings(max_examples=20, deadline=None)
@given(models(), st.sampled_from([(1, 1), (2, 2), (4, 2), (5, 3)]), st.booleans(), st.integers(0, 9))
def test_upcycled_equals_dense(spec, experts, shared, seed):
    count, active = experts
    after = respec(spec, experts=count, active=active, shared=shared)
    state = seeded(spec, seed)
    converted = dict(convert(spec, after, state, seed=seed))
    assert converted.keys() == Decoder(after).state_dict().keys()
    torch.testing.assert_close(logits(after, converted), logits(spec, state), atol=1e-5, rtol=1e-5)


def test_routers_differ_and_hang_on_the_seed_alone():
    spec = plain(layers=2)
    after, state = respec(spec, experts=4), seeded(plain(layers=2))
    routers = [[t for n, t in convert(spec, after, state, seed=s) if n.endswith("router.weight")] for s in (0, 0, 1)]
    assert torch.equal(routers[0][0], routers[1][0])
    assert not torch.equal(routers[0][0], routers[0][1]) and not torch.equal(routers[0][0], routers[2][0])


def test_what_cannot_become_experts():
    biased = ModelSpec(V, M, (LayerSpec(AttentionSpec(H, 2, D), FeedForwardSpec(7, bias=True)),), 40)
    with pytest.raises(SpecError, match="layer 0 has biases"):
        respec(biased, experts=4)
    with pytest.raises(SpecError, match="mixture of experts already"):
        respec(respec(plain(), experts=4), experts=4)
    with pytest.raises(SpecError, match="3 of 2 experts"):
        respec(plain(), experts=2, active=3)
    with pytest.raises(SpecError, match="one active expert"):
        convert(plain(), respec(plain(), experts=2, active=1), seeded(plain()))


# Together


@settings(max_examples=15, deadline=None)
@given(models(), st.integers(0, 9))
def test_all_at_once_is_one_after_the_other(spec, seed):
    layers = tuple(replace(layer, attention=replace(layer.attention, kv_from=None)) for layer in spec.layers)
    spec = replace(spec, layers=layers)
    steps = [{"kv_heads": 1}, {"share": 2}, {"window": 5, "pattern": (1, 1), "pinned": 1}, {"experts": 3, "active": 2}]
    at_once = respec(spec, **{key: value for step in steps for key, value in step.items()})
    state = stepped = seeded(spec, seed)
    now = spec
    for step in steps:
        after = respec(now, **step)
        stepped, now = dict(convert(now, after, stepped, seed=seed)), after
    assert now == at_once
    together = dict(convert(spec, at_once, state, seed=seed))
    assert together.keys() == stepped.keys() == Decoder(at_once).state_dict().keys()
    assert all(torch.equal(together[name], stepped[name]) for name in together)


def test_what_is_exact_is_said():
    changes = {"kv_heads": 6}, {"experts": 3, "shared": True}, {}, {"kv_heads": 1}, {"share": 2}, {"window": 9}
    said = [is_exact(plain(), respec(plain(), **change)) for change in changes]
    assert said == [True, True, True, False, False, False]
    # A window that the longest text does not fill hides nothing, of a model that has one too.
    longest = plain().max_positions
    assert is_exact(plain(), respec(plain(), window=longest)) and not is_exact(plain(), respec(plain(), window=5))
    assert is_exact(plain(window=longest), respec(plain(window=longest), window=2 * longest, pinned=1))


def test_a_model_with_windows_is_told_when_it_sees_further():
    local = plain(window=4)
    assert "4 layers see further" in warnings(local, respec(local, window=8))[0]
    assert "1 layers see further" in warnings(local, respec(local, window=4, pattern=(3, 1)))[0]
    assert not warnings(local, respec(local, window=3, pinned=1)) and not warnings(local, respec(local, kv_heads=1))


def test_a_difference_that_is_no_conversion_is_named():
    spec = plain()
    with pytest.raises(SpecError, match="layers alone"):
        convert(spec, replace(spec, vocabulary=9), {})
    with pytest.raises(SpecError, match="layer 0: a conversion changes K/V heads"):
        convert(spec, plain(soft_cap=3.0), {})
