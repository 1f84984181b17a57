"""A spec as plain values, for people and programs: which attention, which feed-forward, what a token's keys cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from openbook.lm.rules import Rule, SpecError
from openbook.lm.spec import AttentionSpec, ExpertsSpec, FeedForwardSpec, ModelSpec, RopeSpec, Seq2SeqSpec

Facts = dict[str, Any]


def describe(spec: ModelSpec | Seq2SeqSpec) -> Facts:
    """What a model is. Kinds of attention and of feed-forward are listed with how many layers have each."""
    if isinstance(spec, Seq2SeqSpec):
        return {"what": "reads a text, writes another", "encoder": describe(spec.encoder), **_stack(spec.decoder)}
    does = "writes text" if spec.head else "classifies text" if spec.classifier else "embeds text"
    labels = {"labels": list(spec.classifier.labels)} if spec.classifier else {}
    return {"what": does, **_stack(spec), **labels}


def _stack(spec: ModelSpec) -> Facts:
    first = spec.layers[0]
    return {
        "vocabulary": spec.vocabulary,
        "width": spec.width,
        "layers": len(spec.layers),
        "max_positions": spec.max_positions,
        "positions": spec.positions,
        "norms": {"kind": first.norm.kind, "place": first.place},
        "attention": _kinds(attention(layer.attention) for layer in spec.layers),
        "feed_forward": _kinds(feed_forward(layer.feed_forward) for layer in spec.layers),
        "logit_cap": spec.logit_cap,
    }


def _kinds(found: Iterable[Facts]) -> list[Facts]:
    """Each distinct description once, in order of appearance, with the number of layers that have it."""
    kinds = Counter(tuple(facts.items()) for facts in found)
    return [{**dict(kind), "layers": count} for kind, count in kinds.items()]


def attention(spec: AttentionSpec) -> Facts:
    """One layer's attention; values are hashable, what is off is None or False."""
    kind = "MHA" if spec.kv_heads == spec.heads else "MQA" if spec.kv_heads == 1 else "GQA"
    return {
        "kind": kind,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "window": spec.window,
        "pinned": spec.pinned,
        "causal": spec.causal,
        "shares_kv": spec.kv_from is not None,
        "rope": None if spec.rope is None else rope(spec.rope),
        "bias": None if spec.bias is None else words(spec.bias),
        "rules": ", ".join(words(rule) for rule in spec.rules) or None,
        "qk_norm": None if spec.qk_norm is None else f"{spec.qk_norm.over}, {spec.qk_norm.place.replace('_', ' ')}",
        "soft_cap": spec.soft_cap,
        "sinks": spec.sinks,
    }


def feed_forward(spec: FeedForwardSpec | ExpertsSpec) -> Facts:
    """One layer's feed-forward, or its mixture of experts."""
    if isinstance(spec, ExpertsSpec):
        mixture = {"experts": spec.count, "active": spec.active, "routing": spec.routing}
        return {**feed_forward(spec.expert), **mixture, "shared": spec.shared.width if spec.shared else None}
    return {"width": spec.width, "activation": spec.activation, "gated": spec.gated}


def rope(spec: RopeSpec) -> str:
    """RoPE in a word or two: base, the part of a head that turns, scaling."""
    part = f", {spec.dims} dimensions" if spec.dims else ""
    return f"base {spec.base:,.0f}{part}" + (f", {words(spec.scaling)}" if spec.scaling else "")


def words(rule: Rule) -> str:
    """A rule as it would be said: its name and its short values."""
    short = [f"{name} {value:g}" for name, value in rule.parameters if isinstance(value, int | float)]
    return " ".join([rule.name, *short])


def kept(spec: ModelSpec, dtype: torch.dtype) -> list[Facts]:
    """What keys and values cost, a row a codec, the dearest first; no row for an encoder, which keeps none.

    Bytes a token and for the longest text, by formula and as allocated: that is asked of the cache itself, made on a
    device that has no memory to fill. A text shorter than every window pays the bytes of a token for each of its
    tokens; the longest shows what windows save.
    """
    from openbook.lm.cache.codecs import codec_named, codec_names
    from openbook.lm.cache.make import CacheSpec, make_cache
    from openbook.lm.cache.plan import plan

    rows: list[Facts] = []
    try:
        made = plan(spec)
    except SpecError:  # an encoder keeps nothing
        return rows
    for codec in codec_names():
        kind = CacheSpec("auto", codec)
        try:
            token = made.bytes_per_token(codec_named(codec), dtype)
        except SpecError:  # a head that the codec cannot write
            continue
        caches = [make_cache(spec, kind, 1, n, dtype, torch.device("meta")) for n in (1, spec.max_positions)]
        rows.append(
            {
                "codec": codec,
                "layout": kind.layout_for(made, spec.max_positions),
                "bytes_per_token": token,
                "allocated_per_token": caches[0].nbytes,
                "bytes_at_longest": kind.bytes(spec, batch=1, capacity=spec.max_positions, dtype=dtype),
                "allocated_at_longest": caches[1].nbytes,
            }
        )
    return sorted(rows, key=lambda row: -row["bytes_per_token"])


def attention_words(facts: Mapping[str, Any], layers: int) -> str:
    """One kind of attention as a line for people."""
    heads = f"{facts['heads']} heads of {facts['head_dim']}, {facts['kv_heads']} for keys and values"
    reach = f"window {facts['window']}" if facts["window"] else "sees all before it" if facts["causal"] else "sees all"
    more = [
        f"and the first {facts['pinned']}" if facts["pinned"] else None,
        f"RoPE {facts['rope']}" if facts["rope"] else None,
        f"bias {facts['bias']}" if facts["bias"] else None,
        facts["rules"],
        f"norm of queries and keys ({facts['qk_norm']})" if facts["qk_norm"] else None,
        f"logits within ±{facts['soft_cap']:g}" if facts["soft_cap"] else None,
        "learned sinks" if facts["sinks"] else None,
        "reads an earlier layer's keys" if facts["shares_kv"] else None,
    ]
    said = ", ".join([f"{facts['kind']}: {heads}", reach, *filter(None, more)])
    return f"{said} ({facts['layers']} of {layers} layers)"


def feed_forward_words(facts: Mapping[str, Any]) -> str:
    """One kind of feed-forward as a line for people."""
    plain = f"{facts['width']} wide, {facts['activation']}{', gated' if facts['gated'] else ''}"
    if "experts" not in facts:
        return plain
    shared = f", one of {facts['shared']} for every token" if facts["shared"] else ""
    return f"{facts['experts']} experts, {facts['active']} a token ({facts['routing']}), {plain}{shared}"
