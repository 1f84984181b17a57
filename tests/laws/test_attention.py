"""One attention against the definition, a query at a time in plain loops; and what no spec may say."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.lm import positions  # noqa: F401 - the built-in rules
from openbook.lm.attention import Attention, KeyValue, additive, attend, visible
from openbook.lm.decoder import Decoder
from openbook.lm.positions import RelativeBias, alibi_slopes, frequencies, rotary, rotate, sinusoids
from openbook.lm.rules import Registry, Rule, mask_rule, position_bias, rule
from openbook.lm.spec import (
    AttentionSpec,
    ExpertsSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelSpec,
    NormSpec,
    QKNormSpec,
    RopeSpec,
    Seq2SeqSpec,
    SpecError,
)

D = 4


@st.composite
def attentions(draw) -> AttentionSpec:
    kv_heads, groups = draw(st.sampled_from([(1, 1), (1, 3), (2, 2), (3, 1)]))
    window = draw(st.sampled_from([None, 1, 2, 5]))
    return AttentionSpec(
        heads=kv_heads * groups,
        kv_heads=kv_heads,
        head_dim=D,
        causal=draw(st.booleans()),
        window=window,
        pinned=draw(st.integers(0, 2)) if window else 0,
        rules=draw(st.sampled_from([(), (rule("chunked", size=3),)])),
        sinks=draw(st.booleans()),
        bias=draw(st.sampled_from([None, rule("alibi")])),
        scale=draw(st.sampled_from([None, 0.3])),
        soft_cap=draw(st.sampled_from([None, 1.5])),
    )


def by_definition(q, k, v, spec, q_positions, k_positions, sinks) -> list[list[list[float]]]:
    """Output `[T][H][D]` of one row: sums over keys, one at a time, in Python's floats."""
    out = []
    for t, p in enumerate(q_positions):
        heads = []
        for h in range(spec.heads):
            kv = h // spec.groups
            weights = {}
            for s, at in enumerate(k_positions):
                near = spec.window is None or abs(p - at) < spec.window or at < spec.pinned
                if at < 0 or (spec.causal and at > p) or not near or (spec.rules and p // 3 != at // 3):
                    continue
                logit = sum(a * b for a, b in zip(q[t][h], k[kv][s], strict=True)) * (spec.scale or D**-0.5)
                logit = spec.soft_cap * math.tanh(logit / spec.soft_cap) if spec.soft_cap else logit
                weights[s] = math.exp(logit - (alibi_slopes(spec.heads)[h] * abs(p - at) if spec.bias else 0.0))
            total = sum(weights.values()) + (math.exp(sinks[h]) if spec.sinks else 0.0)
            heads.append([sum(w * v[kv][s][d] for s, w in weights.items()) / total for d in range(D)])
        out.append(heads)
    return out


@settings(max_examples=60, deadline=None)
@given(attentions(), st.integers(0, 2**31), st.data())
def test_attention_is_its_definition(spec, seed, data):
    generator = torch.Generator().manual_seed(seed)
    T, S = data.draw(st.integers(1, 3)), data.draw(st.integers(3, 7))
    k_positions = [*range(S - 2), -1, S - 2]  # padding in the middle: columns are not positions
    q_positions = data.draw(st.lists(st.integers(0, S - 2), min_size=T, max_size=T))
    q, k, v = (
        torch.randn(shape, generator=generator) * 2
        for shape in ((1, T, spec.heads, D), (1, spec.kv_heads, S, D), (1, spec.kv_heads, S, D))
    )
    sinks = torch.randn(spec.heads, generator=generator)
    q_at, k_at = torch.tensor([q_positions]), torch.tensor([k_positions])
    bias = None if spec.bias is None else position_bias.call(spec.bias, spec.heads)(q_at[:, :, None] - k_at[:, None])
    mask = additive(visible(q_at, k_at, spec), bias, spec, torch.float32)
    got = attend(q, k, v, mask, spec, sinks if spec.sinks else None)[0]
    wanted = by_definition(q[0].tolist(), k[0].tolist(), v[0].tolist(), spec, q_positions, k_positions, sinks.tolist())
    torch.testing.assert_close(got, torch.tensor(wanted), atol=2e-5, rtol=2e-5)


def test_a_query_that_sees_nothing_does_not_spread():
    spec = AttentionSpec(2, 1, D, window=2)
    mask = additive(visible(torch.tensor([[0]]), torch.tensor([[-1, 5]]), spec), None, spec, torch.float32)
    out = attend(torch.randn(1, 1, 2, D), torch.randn(1, 1, 2, D), torch.randn(1, 1, 2, D), mask, spec, None)
    assert torch.isfinite(out).all()


def test_a_query_that_rules_leave_nothing_sees_itself_and_no_later_key():
    @mask_rule("strictly_before")
    def strictly_before(q_BT1, k_B1S):
        return k_B1S < q_BT1

    at = torch.arange(3)[None]
    seen = visible(at, at, AttentionSpec(2, 1, D, window=2, rules=(rule("strictly_before"),)))[0]
    assert seen.tolist() == [[True, False, False], [True, False, False], [False, True, False]]


def test_alibi_costs_the_same_to_both_sides():
    added = position_bias.call(rule("alibi"), 2)(torch.tensor([[[-3, 0, 3]]]))[0, :, 0]
    assert added[:, 0].tolist() == added[:, 2].tolist() == [-3 * slope for slope in alibi_slopes(2)]


@pytest.mark.parametrize("place", ["before_rope", "after_rope"])
@pytest.mark.parametrize("over", ["head", "projection"])
def test_queries_and_keys_are_normed_and_turned_in_the_order_said(place, over):
    if (place, over) == ("after_rope", "projection"):
        with pytest.raises(SpecError, match="before RoPE"):
            QKNormSpec(over=over, place=place)
        return
    torch.manual_seed(0)
    spec = AttentionSpec(4, 2, D, rope=RopeSpec(), qk_norm=QKNormSpec(NormSpec("rms", 1e-6), over, place))
    producer, x = KeyValue(spec, 6), torch.randn(1, 3, 6)
    torch.nn.init.normal_(producer.key_norm.weight)
    table = rotary(torch.tensor([[0, 3, 9]]), *frequencies(spec.rope, D, 10), torch.float32)
    k = producer.key(x)
    if over == "projection":
        k = producer.key_norm(k)
    k = k.view(1, 3, 2, D)
    if over == "head":
        k = rotate(producer.key_norm(k), table) if place == "before_rope" else producer.key_norm(rotate(k, table))
    else:
        k = rotate(k, table)
    torch.testing.assert_close(producer(x, table)[0], k.transpose(1, 2))


def test_part_of_a_head_turns_and_the_rest_stays():
    x, rope = torch.randn(1, 2, 1, 8), RopeSpec(dims=4)
    table = rotary(torch.tensor([[0, 7]]), *frequencies(rope, 8, 8), torch.float32)
    turned = rotate(x, table)
    assert torch.equal(turned[..., 4:], x[..., 4:]) and torch.equal(turned[:, 0], x[:, 0])
    alone = rotate(x[..., :4], rotary(torch.tensor([[0, 7]]), *frequencies(RopeSpec(), 4, 8), torch.float32))
    torch.testing.assert_close(turned[..., :4], alone)


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([None, rule("linear", factor=4.0)]))
@settings(max_examples=30, deadline=None)
def test_rope_knows_only_distances(a, shift, scaling):
    rope = RopeSpec(100.0, scaling)
    f, factor = frequencies(rope, 8, 99)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(q_at: int, k_at: int) -> float:
        tables = [rotary(torch.tensor([[at]]), f, factor, torch.float32) for at in (q_at, k_at)]
        return float((rotate(q, tables[0]) * rotate(k, tables[1])).sum())

    assert product(a + shift, shift) == pytest.approx(product(a, 0), abs=1e-3)


def test_sinusoids_of_vaswani():
    table = sinusoids(torch.tensor([[0, 5]]), 6)[0]
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    assert table[1, 2].item() == pytest.approx(math.sin(5 / 10_000 ** (2 / 6)))
    assert table[1, 3].item() == pytest.approx(math.cos(5 / 10_000 ** (2 / 6)))


def test_relative_buckets_count_exactly_then_logarithmically():
    one_way = RelativeBias(1, 32, 128, both_ways=False)
    assert one_way.bucket(torch.tensor([-3, 0, 1, 15, 16, 127, 128, 10_000])).tolist() == [0, 0, 1, 15, 16, 31, 31, 31]
    both = RelativeBias(1, 32, 128, both_ways=True)
    assert both.bucket(torch.tensor([-1, 0, 1, 7, 8, 500, -500])).tolist() == [17, 0, 1, 7, 8, 15, 31]


def test_a_mask_rule_and_a_position_rule_by_decorator():
    @mask_rule("even_keys")
    def even_keys(q_BT1, k_B1S, *, every=2):
        return ((k_B1S % every == 0) | (k_B1S == q_BT1)).expand(-1, q_BT1.shape[1], -1)

    class Flat(torch.nn.Module):
        def forward(self, distance_BTS):
            return torch.where(distance_BTS > 2, -1e9, 0.0)[:, None].expand(-1, 2, -1, -1)

    @position_bias("cliff")
    def cliff(heads):
        return Flat()

    attention = AttentionSpec(2, 1, D, rules=(rule("even_keys"),), bias=rule("cliff"))
    spec = ModelSpec(11, 8, (LayerSpec(attention, FeedForwardSpec(8)),), 32)
    torch.manual_seed(0)
    decoder = Decoder(spec).eval()
    tokens = torch.arange(8)[None]
    changed = tokens.clone()
    changed[0, [1, 2, 3]] = 10  # for the query at 7: 1 and 3 are odd, 2 lies beyond the cliff
    with torch.inference_mode():
        torch.testing.assert_close(decoder(tokens)[0, -1], decoder(changed)[0, -1])
        assert not torch.allclose(decoder(tokens)[0, 2], decoder(changed)[0, 2])
    with pytest.raises(SpecError, match=r"no mask rule is called .odd_keys.; known are .*even_keys"):
        AttentionSpec(2, 1, D, rules=(rule("odd_keys"),))
    with pytest.raises(SpecError, match="unknown: size"):
        AttentionSpec(2, 1, D, rules=(rule("even_keys", size=3),))


def test_equal_rules_are_equal_and_registries_name_what_they_know():
    assert rule("x", a=1, b=2) == rule("x", b=2, a=1) == Rule("x", (("a", 1), ("b", 2)))
    assert rule("x", a=1)["a"] == 1
    registry = Registry("thing")
    registry("one")(lambda: 1)
    assert registry.names == ("one",)


def scaled(name: str, **parameters):
    return AttentionSpec(2, 1, D, rope=RopeSpec(1e4, rule(name, **parameters)))


LAYER = LayerSpec(AttentionSpec(2, 1, D), FeedForwardSpec(8))
YARN = {"factor": 2.0, "original": 8, "table_factor": 1.0}
ENCODER = ModelSpec(9, 8, (LayerSpec(AttentionSpec(2, 2, D, causal=False), FeedForwardSpec(8)),), 8, head=False)
CROSSED = LayerSpec(AttentionSpec(2, 2, D), FeedForwardSpec(8), cross=AttentionSpec(2, 2, D, causal=False))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: AttentionSpec(0, 1, D), "must be 1 or more"),
        (lambda: AttentionSpec(3, 2, D), "kv_heads must divide heads"),
        (lambda: AttentionSpec(2, 1, D, window=0), "counts the query"),
        (lambda: AttentionSpec(2, 1, D, pinned=2), "set a window"),
        (lambda: AttentionSpec(2, 1, D, pinned=-1, window=3), "0 or more"),
        (lambda: AttentionSpec(2, 1, 5, rope=RopeSpec()), "even head_dim"),
        (lambda: AttentionSpec(2, 1, 4, rope=RopeSpec(dims=6)), "at least 6"),
        (lambda: AttentionSpec(2, 1, D, soft_cap=0.0), "above 0"),
        (lambda: AttentionSpec(2, 1, D, scale=-1.0), "above 0"),
        (lambda: AttentionSpec(2, 1, D, bias=rule("albi")), "known are alibi"),
        (lambda: AttentionSpec(2, 1, D, bias=rule("relative")), "missing: both_ways"),
        (lambda: AttentionSpec(2, 1, D, bias=rule("relative", both_ways=True, buckets=7)), "multiple of 4"),
        (lambda: AttentionSpec(2, 1, D, rules=(rule("chunked", size=0),)), "1 position or more"),
        (lambda: RopeSpec(scaling=rule("linear", factor=0.0)), "above 0"),
        (lambda: RopeSpec(scaling=rule("llama3", factor=8.0, low=4.0, high=1.0, original=8)), "above low"),
        (lambda: scaled("linear", factor=(1.0, 2.0)), r"factor .* is \(1.0, 2.0\); give a finite number"),
        (lambda: scaled("linear", factor=None), "factor .* is None; give a finite number"),
        (lambda: scaled("dynamic", factor=2.0, original=0), "original 0; it must be above 0"),
        (lambda: scaled("dynamic", factor=1e300, original=1), "a finite frequency"),
        (lambda: scaled("yarn", **YARN | {"original": 0}), "original 0"),
        (lambda: scaled("yarn", **YARN, slow=0.0), "slow 0.0"),
        (lambda: scaled("yarn", **YARN | {"table_factor": math.nan}), "give a finite number"),
        (lambda: scaled("llama3", factor=8.0, low=1.0, high=4.0, original=0), "original 0"),
        (lambda: scaled("longrope", short=(), long=(), original=8, table_factor=1.0), r"\(\); it must be above 0"),
        (lambda: scaled("longrope", short=(1.0,), long=(1.0,), original=8, table_factor=1.0), "1 factors for 2 pairs"),
        (lambda: AttentionSpec(2, 1, D, bias=rule("alibi", scale=None)), "give a finite number"),
        (lambda: AttentionSpec(2, 1, D, bias=rule("relative", both_ways=1)), "give true or false"),
        (lambda: AttentionSpec(2, 1, D, rules=(rule("chunked", size=2.5),)), "give a whole number"),
        (lambda: AttentionSpec(2, 1, D, scale=math.inf), "finite"),
        (lambda: AttentionSpec(2, 1, D, soft_cap=1e39), "finite"),
        (lambda: NormSpec("layer", offset=1.0), "only RMSNorm"),
        (lambda: NormSpec("batch"), "one of rms, layer"),
        (lambda: FeedForwardSpec(8, "swish"), "one of silu"),
        (lambda: LayerSpec(LAYER.attention, FeedForwardSpec(8), place="middle"), "one of pre, post"),
        (lambda: ModelSpec(9, 8, (LAYER,), 8, token_types=-1), "0 or more"),
        (lambda: ModelSpec(9, 8, (LAYER,), 8, positions="learned", position_offset=-2), "0 or more"),
        (lambda: ModelSpec(9, 8, (LAYER,), 8, embedding_scale=math.nan), "finite"),
        (lambda: RopeSpec(base=0.5), "above 1"),
        (lambda: RopeSpec(dims=3), "pairs"),
        (lambda: FeedForwardSpec(0), "1 or more"),
        (lambda: ExpertsSpec(4, 5, FeedForwardSpec(8)), "from 1 to 4"),
        (lambda: ExpertsSpec(4, 2, FeedForwardSpec(8), shared_gate=True), "give one"),
        (lambda: ExpertsSpec(4, 2, FeedForwardSpec(8), routing="noisy", balance_bias=True), "balance_bias=False"),
        (lambda: ModelSpec(9, 8, (), 8), "at least one layer"),
        (lambda: ModelSpec(9, 8, (LAYER,), 8, position_offset=2), "learned positions"),
        (lambda: ModelSpec(9, 7, (LAYER,), 8, positions="sinusoidal"), "even width"),
        (lambda: ModelSpec(9, 8, (LAYER,), 8, memory_width=8), "layers with cross"),
        (lambda: ModelSpec(9, 8, (CROSSED,), 8), "give memory_width"),
        (lambda: ModelSpec(9, 8, ENCODER.layers, 8), "head=False"),
        (lambda: LayerSpec(LAYER.attention, FeedForwardSpec(8), cross=AttentionSpec(2, 1, D)), "whole memory"),
        (lambda: LayerSpec(LAYER.attention, FeedForwardSpec(8), place="sandwich", cross=CROSSED.cross), "not sandwich"),
        (lambda: Seq2SeqSpec(ENCODER, ModelSpec(9, 8, (LAYER,), 8), 0), "memory None wide"),
        (lambda: Seq2SeqSpec(ENCODER, ModelSpec(9, 8, (CROSSED,), 8, memory_width=8), 9), "not in the vocabulary"),
    ],
)
def test_a_spec_that_cannot_be_says_why(make, says):
    with pytest.raises(SpecError, match=says):
        make()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kv_from": 1}, "only read an earlier layer"),
        ({"kv_from": 0, "kv_heads": 2}, "differs in kv_heads"),
        ({"kv_from": 0, "rope": RopeSpec()}, "differs in rope"),
        ({"kv_from": 0, "qk_norm": QKNormSpec()}, "differs in qk_norm"),
    ],
)
def test_keys_are_shared_backward_and_in_one_shape(change, says):
    given = {"heads": 2, "kv_heads": 1, "head_dim": D} | change
    with pytest.raises(SpecError, match=says):
        ModelSpec(9, 8, (LAYER, LayerSpec(AttentionSpec(**given), FeedForwardSpec(8))), 8)


def test_an_attention_of_meta_tensors_allocates_nothing():
    with torch.device("meta"):
        assert Attention(AttentionSpec(4, 2, 1 << 16, sinks=True), 1 << 16).query.weight.is_meta
