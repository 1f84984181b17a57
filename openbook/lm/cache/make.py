"""Which cache: a layout and a codec by name, each of which goes with each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from openbook.errors import Fault
from openbook.lm.cache.codecs import codec_named
from openbook.lm.cache.dense import DenseCache
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.paged import PagedCache
from openbook.lm.cache.plan import Plan, plan
from openbook.lm.cache.prefixes import Prefix
from openbook.lm.cache.ring import RingCache
from openbook.lm.spec import ModelSpec, require

LAYOUTS = ("auto", "dense", "ring", "paged")


@dataclass(frozen=True)
class CacheSpec:
    """How keys and values are kept: `layout` (where), `codec` (in how many bits), positions a `block` (paged only).

    `auto` is ring where that allocates less than dense, because some slot has a window narrower than the text.
    """

    layout: str = "auto"
    codec: str = "raw"
    block: int = 16

    def __post_init__(self) -> None:
        require(self.layout in LAYOUTS, f"no cache layout is called {self.layout!r}; known are {', '.join(LAYOUTS)}")
        require(self.block >= 1, f"a block of {self.block} positions; it holds 1 or more")
        codec_named(self.codec)

    def layout_for(self, plan: Plan, capacity: int) -> str:
        """The layout that `auto` stands for, for a text of that length."""
        if self.layout != "auto":
            return self.layout
        return "ring" if any(slot.columns(capacity) < capacity for slot in plan.slots) else "dense"

    def bytes(self, spec: ModelSpec, *, batch: int, capacity: int, dtype: torch.dtype) -> int:
        """Bytes that `make_cache` will allocate for keys and values, by formula."""
        made, codec = plan(spec), codec_named(self.codec)
        layout = self.layout_for(made, capacity)
        return made.bytes(layout, codec, batch=batch, capacity=capacity, dtype=dtype, block=self.block)


AUTO = CacheSpec()
"""Raw numbers, in whatever layout is smaller."""


def make_cache(
    spec: ModelSpec, kind: CacheSpec, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
) -> Cache:
    """An empty cache for `batch` texts of up to `capacity` tokens.

    Raises `SpecError` for a model whose keys cannot be kept or a head_dim that the codec cannot write.
    """
    if batch < 1 or capacity < 1:
        raise Fault(f"a cache for {batch} texts of {capacity} tokens; both must be 1 or more")
    made, codec = plan(spec), codec_named(kind.codec)
    layouts: dict[str, Callable[..., Cache]] = {
        "dense": DenseCache,
        "ring": RingCache,
        "paged": partial(PagedCache, block=kind.block),
    }
    return layouts[kind.layout_for(made, capacity)](made, codec, batch, capacity, dtype, device)


def restore_cache(
    spec: ModelSpec,
    kind: CacheSpec,
    prefixes: Sequence[Prefix | None],
    room: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Cache:
    """A cache whose row b begins with `prefixes[b]` (None: with nothing), with room for that many tokens more."""
    longest = max((prefix.length for prefix in prefixes if prefix is not None), default=0)
    cache = make_cache(spec, kind, len(prefixes), longest + room, dtype, device)
    for row, prefix in enumerate(prefixes):
        if prefix is not None:
            cache.restore(row, prefix)
    return cache
