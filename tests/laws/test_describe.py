"""What `models show` says of a model: true of the spec, and of what the caches allocate."""

import json

import pytest
import torch

from openbook.lm.cache import codecs
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.convert import respec
from openbook.lm.describe import attention_words, describe, feed_forward_words, kept
from openbook.lm.rules import rule
from openbook.lm.seq2seq import classic
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, QKNormSpec, RopeSpec

LAYER = LayerSpec(AttentionSpec(9, 3, 64, rope=RopeSpec(100_000.0)), FeedForwardSpec(1536))
SMOLLM2 = ModelSpec(49_152, 576, (LAYER,) * 30, 8192)


@pytest.mark.parametrize(
    ("change", "per_token", "at_longest"),
    [
        ({}, 23_040, 23_040 * 8192),
        ({"kv_heads": 1}, 7_680, 7_680 * 8192),
        ({"kv_heads": 1, "share": 2}, 3_840, 3_840 * 8192),
        ({"kv_heads": 1, "share": 2, "window": 512}, 3_840, 3_840 * 512),
    ],
)
def test_bytes_by_formula_are_those_allocated(change, per_token, at_longest):
    spec = respec(SMOLLM2, **change)
    rows = {row["codec"]: row for row in kept(spec, torch.bfloat16)}
    assert set(rows) == {"raw", "int8", "int4"}
    assert (rows["raw"]["bytes_per_token"], rows["raw"]["bytes_at_longest"]) == (per_token, at_longest)
    for row in rows.values():
        assert row["bytes_per_token"] == row["allocated_per_token"]
        assert row["bytes_at_longest"] == row["allocated_at_longest"]
    real = make_cache(spec, CacheSpec(), 1, 1024, torch.bfloat16, torch.device("cpu"))
    assert real.nbytes == per_token * min(1024, change.get("window", 1024))


def test_a_codec_that_cannot_write_a_head_is_left_out():
    spec = ModelSpec(8, 8, (LayerSpec(AttentionSpec(2, 1, 3), FeedForwardSpec(8)),), 8)
    assert [row["codec"] for row in kept(spec, torch.float32)] == ["raw", "int8"]


def test_a_codec_of_ones_own_is_listed_by_what_it_costs(monkeypatch):
    monkeypatch.setattr(codecs, "_codecs", dict(codecs._codecs))
    codecs.codec("fp64")(type("Fine", (codecs.Raw,), {"widths": lambda self, D, dtype: ((D, torch.float64),)}))
    assert [row["codec"] for row in kept(SMOLLM2, torch.bfloat16)] == ["fp64", "raw", "int8", "int4"]


def test_an_encoder_keeps_nothing():
    encoder = ModelSpec(8, 8, (LayerSpec(AttentionSpec(2, 1, 4, causal=False), FeedForwardSpec(8)),), 8, head=False)
    assert kept(encoder, torch.float32) == []


def test_every_variant_is_named():
    attention = AttentionSpec(
        4, 1, 8, window=5, pinned=2, rules=(rule("chunked", size=3),), sinks=True, soft_cap=50.0, qk_norm=QKNormSpec(),
        rope=RopeSpec(scaling=rule("linear", factor=4.0), dims=4), bias=rule("alibi"),
    )  # fmt: skip
    spec = respec(ModelSpec(8, 8, (LayerSpec(attention, FeedForwardSpec(8)),) * 2, 64), share=2, experts=4)
    facts = json.loads(json.dumps(describe(spec)))
    own, reader = (attention_words(a, 2) for a in facts["attention"])
    for said in ("MQA", "window 5", "first 2", "base 10,000, 4 dimensions, linear factor 4", "alibi", "chunked size 3",
                 "±50", "learned sinks", "head, before rope", "1 of 2 layers"):  # fmt: skip
        assert said in own
    assert "reads an earlier layer's keys" in reader and "earlier" not in own
    assert feed_forward_words(facts["feed_forward"][0]) == "4 experts, 2 a token (softmax), 8 wide, silu, gated"


def test_an_encoder_decoder_is_two_stacks():
    facts = describe(classic(16, width=8, heads=2, inner=8, layers=(3, 2)))
    assert (facts["layers"], facts["encoder"]["layers"], facts["positions"]) == (2, 3, "sinusoidal")
