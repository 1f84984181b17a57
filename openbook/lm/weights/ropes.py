"""RoPE as configs write it: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` before.

What is not said is what transformers assumes (modeling_rope_utils.py of 5.x); the scalings themselves are in
`openbook.lm.positions`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from openbook.lm.rules import Rule, rule
from openbook.lm.spec import RopeSpec
from openbook.lm.weights.fields import Fields

KINDS = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
ORIGINAL = "original_max_position_embeddings"


def rope_from(
    fields: Fields,
    head_dim: int,
    max_positions: int,
    *,
    base: float = 10_000.0,
    original: int | None = None,
    partial: bool = False,
    renamed: Mapping[str, str] | None = None,
) -> RopeSpec:
    """The RoPE of a config that has one for all layers.

    `max_positions`, `base` and `original` (how long texts were before the scaling) are what the family assumes where
    the config does not say; `partial` says whether it may turn a part of each head; `renamed` are kinds of scaling
    that it calls by another name.
    """
    new, old = part(fields, "rope_parameters"), part(fields, "rope_scaling")
    if new and old and new != old:
        raise fields.fault("rope_scaling", "differs from rope_parameters; keep the one that is right")
    inner = Fields(new or old or {}, "config.json: " + ("rope_parameters" if new else "rope_scaling"))
    base = inner.real("rope_theta", fields.real("rope_theta", base))
    share = inner.real("partial_rotary_factor", fields.real("partial_rotary_factor", 1.0))
    if share != 1.0 and not (partial and 0 < share < 1):
        where = inner if inner.has("partial_rotary_factor") else fields
        raise where.fault("partial_rotary_factor", f"is {share}; only {'a part or ' if partial else ''}1 is supported")
    dims = head_dim if share == 1.0 else int(head_dim * share)
    scaling = scaling_from(inner, fields, dims, max_positions, original, renamed)
    return RopeSpec(base, scaling, None if share == 1.0 else dims)


def part(fields: Fields, name: str) -> dict[str, Any]:
    """The object in the field `name`, empty where there is none."""
    value = fields.take(name, {})
    if not isinstance(value, dict):
        raise fields.fault(name, f"is {value!r}, not an object")
    return value


def scaling_from(
    inner: Fields,
    outer: Fields,
    dims: int,
    max_positions: int,
    original: int | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Rule | None:
    """How the fields `inner` scale the frequencies of `dims` dimensions; every one of them must be understood.

    `outer` are those of the whole config: the longest text, and how long texts were before the scaling.
    """
    kind = inner.take("rope_type") or inner.take("type") or "default"
    inner.take("type")
    kind = (renamed or {}).get(kind, kind) if isinstance(kind, str) else kind
    if kind not in KINDS:
        raise inner.fault("rope_type", f"is {kind!r}, which is not supported; {', '.join(KINDS)} are")
    longest = outer.whole("max_position_embeddings", max_positions)
    if kind == "default":
        inner.only("factor", 1, 1.0)
        scaling = None
    elif kind == "linear":
        scaling = rule("linear", factor=inner.real("factor"))
    elif kind == "dynamic":
        inner.only(ORIGINAL, longest)
        scaling = rule("dynamic", factor=inner.real("factor"), original=longest)
    elif kind == "llama3":
        scaling = rule(
            "llama3",
            factor=inner.real("factor"),
            low=inner.real("low_freq_factor"),
            high=inner.real("high_freq_factor"),
            original=_original(inner, outer, original, longest),
        )
    elif kind == "yarn":
        scaling = _yarn(inner, longest, _original(inner, outer, original, longest))
    else:
        scaling = _longrope(inner, dims, longest, _original(inner, outer, original, longest))
    inner.finish(())
    return scaling


def _original(inner: Fields, outer: Fields, default: int | None, longest: int) -> int:
    """How long texts were before the scaling: what the whole config says, or else the scaling, or else as long as
    now."""
    if outer.take(ORIGINAL, default) is None:
        return inner.whole(ORIGINAL, longest)
    original = outer.whole(ORIGINAL, default)
    inner.only(ORIGINAL, original)
    return original


def _yarn(inner: Fields, longest: int, original: int) -> Rule:
    factor = inner.real("factor", longest / original)
    by_factor = inner.real("mscale", 0.0), inner.real("mscale_all_dim", 0.0)
    if all(by_factor):
        above, below = (_grown(factor, m) for m in by_factor)
        table_factor = above / below
    else:
        table_factor = _grown(factor, 1.0)
    return rule(
        "yarn",
        factor=factor,
        original=original,
        table_factor=inner.real("attention_factor", table_factor),
        fast=inner.real("beta_fast", 32.0) or 32.0,
        slow=inner.real("beta_slow", 1.0) or 1.0,
        truncate=inner.flag("truncate", True),
    )


def _grown(factor: float, m: float) -> float:
    """What tables are multiplied by where texts grew by `factor` (YaRN, arXiv 2309.00071, section 3.4)."""
    return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0


def _longrope(inner: Fields, dims: int, longest: int, original: int) -> Rule:
    factor = inner.real("factor", longest / original)
    if original < 2:
        raise inner.fault(ORIGINAL, f"is {original}; longrope needs 2 or more")
    # LongRoPE (arXiv 2402.13753) as Phi-3 uses it.
    table_factor = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return rule(
        "longrope",
        short=_divisors(inner, "short_factor", dims // 2),
        long=_divisors(inner, "long_factor", dims // 2),
        original=original,
        table_factor=inner.real("attention_factor", table_factor),
    )


def _divisors(inner: Fields, name: str, count: int) -> tuple[float, ...]:
    values = inner.take(name)
    numbers = isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and v > 0 for v in values
    )
    if not numbers or len(values) != count:
        raise inner.fault(name, f"must be a list of {count} numbers above 0, one for each pair of dimensions")
    return tuple(float(v) for v in values)
