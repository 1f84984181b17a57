"""From one model to another that keeps less: fewer key/value heads, keys and values shared by layers, windows, experts.

A conversion is two specs: what the model is and what it shall be. `respec` makes the second of the first, `convert`
moves the weights. What it makes is a start for training, not an equal of its source, but for three
cases that are exact: more key/value heads (each is repeated), a window no shorter than the text, experts before
training.

Shapes: H query heads, K key/value heads before, N after, D head dimension, M model width, L layers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.spec import AttentionSpec, ExpertsSpec, FeedForwardSpec, LayerSpec, ModelSpec, SpecError, require

if TYPE_CHECKING:
    from openbook.lm.weights.checkpoint import Checkpoint
    from openbook.lm.weights.layouts import Layout

Pool = Literal["mean", "first", "random"]
WHOLE = frozenset({"I64", "I32", "I16", "I8", "U8", "BOOL"})  # kinds of tensors that hold no weights


def respec(
    spec: ModelSpec,
    *,
    kv_heads: int | None = None,
    share: int | Sequence[int] | None = None,
    window: int | None = None,
    pattern: tuple[int, int] | None = None,
    pinned: int = 0,
    experts: int | None = None,
    active: int = 2,
    shared: bool = False,
) -> ModelSpec:
    """What a model becomes, changed in the order heads, sharing, windows, experts. `SpecError` if it cannot."""
    require(window is not None or (pattern is None and not pinned), "a pattern and pinned positions need a window")
    require(experts is not None or not shared, "a shared expert stands beside others; say how many experts")
    spec = spec if kv_heads is None else with_kv_heads(spec, kv_heads)
    spec = spec if share is None else with_sharing(spec, share)
    spec = spec if window is None else with_windows(spec, window, pattern, pinned)
    return spec if experts is None else with_experts(spec, experts, active, shared)


def with_kv_heads(spec: ModelSpec, count: int) -> ModelSpec:
    """N = `count` key/value heads in every layer: 1 is MQA, H is MHA, between is GQA (Ainslie 2023, 2305.13245)."""
    return _with_attention(spec, lambda _, attention: replace(attention, kv_heads=count))


def with_sharing(spec: ModelSpec, share: int | Sequence[int]) -> ModelSpec:
    """Cross-layer attention (Brandon 2024, 2405.12981): some layers make keys and values, each other layer reads the
    latest before it of its kind, for kinds that differ in RoPE have keys of their own (Gemma 3). `share` is how many
    layers of a kind use each (`producers`), or the layers that make them."""
    count, kinds = len(spec.layers), dict[object, list[int]]()
    for index, layer in enumerate(spec.layers):
        a = layer.attention
        kinds.setdefault((a.kv_heads, a.head_dim, a.rope, a.qk_norm, a.causal), []).append(index)
    if isinstance(share, int):
        makers = {layers[place] for layers in kinds.values() for place in producers(len(layers), share)}
    else:
        makers = set(share)
    for maker in sorted(makers):
        require(0 <= maker < count, f"there is no layer {maker}; the model has 0 to {count - 1}")
        source = spec.layers[maker].attention.kv_from
        require(source is None, f"layer {maker} makes no keys and values now, it reads layer {source}'s; share others")
    source_of: dict[int, int | None] = {}
    for layers in kinds.values():
        require(layers[0] in makers, f"layer {layers[0]} is the first of its kind: it must make keys and values itself")
        for index in layers:
            latest = max(maker for maker in makers.intersection(layers) if maker <= index)
            source_of[index] = None if latest == index else latest
    return _with_attention(spec, lambda index, attention: replace(attention, kv_from=source_of[index]))


def producers(layers: int, every: int) -> tuple[int, ...]:
    """Which of L layers make keys and values when `every` layers share them; what is over stands first (CLA3 of ten
    layers: 0, 1, 4, 7)."""
    require(every >= 1, f"{every} layers cannot share keys and values; give 2 or more, or 1 for none")
    return (0, *range(layers % every or every, layers, every))


def with_windows(spec: ModelSpec, window: int, pattern: tuple[int, int] | None = None, pinned: int = 0) -> ModelSpec:
    """A window of `window` keys, the query's own counted, in every layer; or with `pattern` (local, global) in the
    first `local` of every local + global layers, the others seeing everything (Gemma 3: 5 to 1). The first `pinned`
    positions stay in sight."""
    local, whole = (1, 0) if pattern is None else pattern
    require(local >= 1 and whole >= 0, f"a pattern of {local} local layers to {whole} global has no window; give 5:1")

    def see(index: int, attention: AttentionSpec) -> AttentionSpec:
        if index % (local + whole) < local:
            return replace(attention, window=window, pinned=pinned)
        return replace(attention, window=None, pinned=0)

    return _with_attention(spec, see)


def with_experts(spec: ModelSpec, count: int, active: int, shared: bool = False) -> ModelSpec:
    """Each feed-forward becomes `count` experts, `active` of them a token, their weights summing to 1; with `shared`
    one more that every token passes."""

    def mix(index: int, layer: LayerSpec) -> LayerSpec:
        dense = layer.feed_forward
        if isinstance(dense, ExpertsSpec):
            raise SpecError(f"layer {index} is a mixture of experts already; give a dense model")
        require(not dense.bias, f"the feed-forward of layer {index} has biases; experts have none, so it is no start")
        return replace(layer, feed_forward=ExpertsSpec(count, active, dense, shared=dense if shared else None))

    return replace(spec, layers=tuple(mix(index, layer) for index, layer in enumerate(spec.layers)))


def _with_attention(spec: ModelSpec, change: Callable[[int, AttentionSpec], AttentionSpec]) -> ModelSpec:
    changed = (replace(layer, attention=change(index, layer.attention)) for index, layer in enumerate(spec.layers))
    return replace(spec, layers=tuple(changed))


def warnings(before: ModelSpec, after: ModelSpec, pool: Pool = "mean") -> list[str]:
    """What a person should know of this conversion besides that it needs training: one line each."""
    said = []
    pairs = [(old.attention, new.attention) for old, new in zip(before.layers, after.layers, strict=True)]
    fewer = [old for old, new in pairs if new.kv_heads < old.kv_heads]
    normed = [old for old in fewer if old.qk_norm is not None]
    if normed and (pool == "mean" or any(old.qk_norm and old.qk_norm.over == "projection" for old in normed)):
        said.append(
            "this model normalises its keys, and pooling heads does not commute with that norm: more of the model is "
            "lost than without one; compare with pool first"
        )
    if pool == "random" and fewer:
        said.append("random key/value heads know nothing of the model; they are here to be compared with")
    wider = [old for old, new in pairs if old.window is not None and (new.window or after.max_positions) > old.window]
    if wider:
        said.append(
            f"{len(wider)} layers see further than they were trained to, past windows of "
            f"{min(old.window or 0 for old in wider)}; to leave a model its windows, give no --window"
        )
    if any(new.window != old.window and (new.window or 0) >= after.max_positions for old, new in pairs):
        said.append(f"a window of {after.max_positions} keys or more hides nothing of the longest text")
    return said


def is_exact(before: ModelSpec, after: ModelSpec) -> bool:
    """Whether the converted model writes what its source writes: heads repeated, feed-forwards copied, and as much of
    the longest text seen."""
    pairs = [(old.attention, new.attention) for old, new in zip(before.layers, after.layers, strict=True)]

    def sees(attention: AttentionSpec) -> object:
        whole = attention.window is None or attention.window >= after.max_positions
        return replace(attention, window=None, pinned=0).sees if whole else attention.sees

    return all(
        new.kv_heads % old.kv_heads == 0 and new.kv_from == old.kv_from and sees(new) == sees(old) for old, new in pairs
    )


def convert(
    before: ModelSpec, after: ModelSpec, state: Mapping[str, Tensor], pool: Pool = "mean", seed: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """The weights of `after` made of those of `before`, one at a time, dtypes kept. `SpecError` names a difference
    that is no conversion, before anything is made.

    Each new key/value head is made of the heads that its queries used: their mean, the first of them, or one drawn
    from N(0, σ²) with the weights' own σ; where they are one head it is copied. A layer that reads another's loses its
    own projections. Feed-forwards are copied into experts, routers drawn from N(0, 0.02²).
    """
    _check(before, after)
    return _moved(before, after, state, pool, seed)


def convert_checkpoint(
    checkpoint: Checkpoint,
    after: ModelSpec,
    folder: Path,
    *,
    pool: Pool = "mean",
    seed: int = 0,
    dtype: torch.dtype | None = None,
    force: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Layout:
    """Write a checkpoint as `after` into a model folder, its tokenizer with it; says how it is written down.

    `dtype` None keeps fp32 where all its tensors are that, else takes bf16. `progress` is told each tensor's name.
    Raises `Fault` for a place that cannot be taken, `SpecError` for what is no conversion.
    """
    from openbook.lm.weights.layouts import layout_of
    from openbook.lm.weights.safetensors import read_json
    from openbook.lm.weights.save import free_place, save, tokenizer_files

    before = decoder_or_encoder(checkpoint)
    place, source = folder.resolve(), checkpoint.path.resolve()
    if place == source or place in source.parents:
        raise Fault(f"{folder} holds the model that is to be converted; give another place")
    free_place(folder, force)
    files = tokenizer_files(checkpoint.path)
    tokenizer = checkpoint.tokenizer() if "tokenizer.json" in files else None
    config = read_json(checkpoint.path / "config.json") if checkpoint.path.is_dir() else None
    ends: dict[str, object] = {}
    if config is None and tokenizer is not None:
        ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": sorted(tokenizer.eos_ids)}
    layout = layout_of(after, config, ends)
    if dtype is None:
        dtype = torch.float32 if set(checkpoint.kinds) - WHOLE <= {"F32", "F64"} else torch.bfloat16
    state = convert(before, after, dict(checkpoint.state(dtype)), pool, seed)
    save(folder, after, state, layout, files, tokenizer=tokenizer, dtype=dtype, force=force, progress=progress)
    return layout


def decoder_or_encoder(checkpoint: Checkpoint) -> ModelSpec:
    """The spec of a checkpoint that is one stack; a `Fault` for a pair of stacks."""
    if not isinstance(checkpoint.spec, ModelSpec):
        raise Fault(f"{checkpoint.path} is an encoder with a decoder; only models of one stack are converted")
    return checkpoint.spec


def _check(before: ModelSpec, after: ModelSpec) -> None:
    require(len(before.layers) == len(after.layers), "a conversion keeps the number of layers")
    require(replace(before, layers=after.layers) == after, "a conversion changes layers alone; other fields differ")
    for index, (old, new) in enumerate(zip(before.layers, after.layers, strict=True)):
        attention = replace(
            old.attention, kv_heads=new.attention.kv_heads, kv_from=new.attention.kv_from,
            window=new.attention.window, pinned=new.attention.pinned, rules=new.attention.rules,
        )  # fmt: skip
        require(attention == new.attention, f"layer {index}: a conversion changes K/V heads, sharing and sight alone")
        makes = new.attention.kv_from is None
        require(not makes or old.attention.kv_from is None, f"layer {index} has no keys and values of its own to keep")
        experts = new.feed_forward
        from_dense = isinstance(experts, ExpertsSpec) and experts.expert == old.feed_forward
        require(
            experts == old.feed_forward or from_dense,
            f"layer {index}: a feed-forward becomes experts as wide as itself, and nothing else",
        )
        require(replace(old, attention=new.attention, feed_forward=experts) == new, f"layer {index}: its norms differ")
    from openbook.lm.stacks import build

    with torch.device("meta"):
        build(after)  # what a module refuses is refused before any work


def _moved(
    before: ModelSpec, after: ModelSpec, state: Mapping[str, Tensor], pool: Pool, seed: int
) -> Iterator[tuple[str, Tensor]]:
    dense: dict[int, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        found = re.match(r"layers\.(\d+)\.(.+)", name)
        if found is None:
            yield name, tensor
            continue
        index, part = int(found[1]), found[2]
        old, new = before.layers[index], after.layers[index]
        if part.startswith("key_value."):
            if new.attention.kv_from is None:
                yield name, _heads(part, tensor, old.attention, new.attention.kv_heads, pool, seed_of(seed, name))
        elif part.startswith("feed_forward.") and old.feed_forward != new.feed_forward:
            dense.setdefault(index, {})[part.removeprefix("feed_forward.")] = tensor
            if len(dense[index]) == 2 + _gated(old.feed_forward):
                yield from _experts(index, dense.pop(index), new.feed_forward, seed)
        else:
            yield name, tensor


def _heads(part: str, tensor: Tensor, old: AttentionSpec, count: int, pool: Pool, seed: int) -> Tensor:
    of_a_head = part.startswith("key_value.key_norm") and old.qk_norm is not None and old.qk_norm.over == "head"
    if count == old.kv_heads or of_a_head:
        return tensor
    return pooled(tensor, old.heads, old.kv_heads, count, pool, seed)


def pooled(tensor: Tensor, heads: int, before: int, after: int, pool: Pool = "mean", seed: int = 0) -> Tensor:
    """A projection of K heads, weights `[K·D, M]` or biases `[K·D]`, as one of N heads.

    New head n serves H/N query heads and is made of the heads that these used. Means are taken in fp64, so that the
    mean of equal heads is that head to the last bit.
    """
    of_head = tensor.reshape(before, -1)
    used_NG = (torch.arange(heads) // (heads // before)).view(after, -1)
    random = torch.Generator().manual_seed(seed)
    made = []
    for used in used_NG.tolist():
        if len(set(used)) == 1 or pool == "first":
            made.append(of_head[used[0]])
        elif pool == "mean":
            made.append((of_head[used].double().sum(0) / len(used)).to(tensor.dtype))
        else:
            spread = tensor.float().std() if tensor.dim() > 1 else 0.0
            made.append((torch.randn(of_head.shape[1], generator=random) * spread).to(of_head))
    return torch.stack(made).reshape(-1, *tensor.shape[1:])


def _gated(spec: FeedForwardSpec | ExpertsSpec) -> bool:
    return isinstance(spec, FeedForwardSpec) and spec.gated


def _experts(
    index: int, dense: Mapping[str, Tensor], spec: FeedForwardSpec | ExpertsSpec, seed: int
) -> Iterator[tuple[str, Tensor]]:
    from openbook.lm.experts import upcycle

    if not isinstance(spec, ExpertsSpec):
        raise RuntimeError("checked before: what changes becomes experts")
    at = f"layers.{index}.feed_forward"
    banks = upcycle(dense, replace(spec, shared=None), seed=seed_of(seed, f"{at}.router"))
    if spec.shared is not None:
        # Routed and shared experts are added: each gives half, which is exact in any float.
        banks["down"] = banks["down"] / 2
        halves = {name: tensor / 2 if name == "down.weight" else tensor for name, tensor in dense.items()}
        banks |= {f"shared.{name}": tensor for name, tensor in halves.items()}
    yield from ((f"{at}.{name}", tensor) for name, tensor in banks.items())


def seed_of(seed: int, name: str) -> int:
    """A seed for one tensor: of the seed and its name, not of what was drawn before."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7], "big")
