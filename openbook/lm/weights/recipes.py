"""How a parameter of ours is made of a checkpoint's tensors, as data: the values of a `NameTable`.

A name table maps our names to theirs. Most values are plain strings; the others are recipes, which compose:

    table = NameTable(
        modules={                                        # our module → theirs; `.weight` and `.bias` are added to both
            "embedding": "embed_tokens",
            "layers.{i}.attention.out": "layers.{i}.self_attn.o_proj",       # {i} is the layer
            **fused(Rows("layers.{i}.self_attn.qkv_proj", QKV), QKV),        # Phi-3: rows of queries, keys, values
            **fused(Rows("layers.{i}.mlp.gate_up_proj", GATE_UP), GATE_UP),
        },
        tensors={                                        # our parameter → their tensor, whole names on both sides
            "layers.{i}.attention.sinks": "layers.{i}.self_attn.sinks",
            "layers.{i}.feed_forward.up": PerExpert("layers.{i}.mlp.experts.{e}.up_proj.weight"),
        },
    )

* `Rows(name, parts, dim)`: several of ours one after the other in one tensor (`dim=1`: in each expert's rows).
* `Grouped(name, parts)`: queries, keys and values of one key/value head after the other, `[K, G + 2, D]`.
* `PerExpert(name)`: our bank `[E, …]`, stored as one tensor for each expert `{e}`.
* `Transposed(value)`: a matrix stored `[in, out]` (GPT-2), alone or around another recipe.
* `Interleaved(value)`: rows of Q or K for RoPE on neighbouring pairs (llama.cpp), put back in halves.
* `Leading(value)`: stored with one more dimension of size 1 in front (BART's bias of the logits).
* `ByPlace(parallel, other)`: names that differ with the place of the layer's norms (Falcon).
* `Either(a, b, …)`: what checkpoints have either way; the first whose tensors are there, in their shapes, is taken.

Each says which tensors it needs in which shapes (`plans`), before one is read, and how ours is made of them; and the
way back (`store`), for writing. A recipe of your own is any object with the three methods of `Recipe`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from openbook.lm.spec import AttentionSpec, Place
from openbook.lm.weights.parameters import Shape

Read = Callable[[str], Tensor]
QKV = ("attention.query", "key_value.key", "key_value.value")
GATE_UP = ("feed_forward.gate", "feed_forward.up")


@dataclass(frozen=True)
class Wanted:
    """A parameter of ours that a recipe is asked for.

    `name` and `shape` are the parameter's; `at` is what stands before its layer's names (`layers.3.`), `index` that
    layer, `leaf` what is added to names of modules (`.weight`); `shapes` are those of all parameters, `attention` is
    the layer's, `place` that of its norms; `worth` is how many tensors are worth asking for, since a damaged config
    may have 2³¹ experts.
    """

    name: str
    shape: Shape
    shapes: Mapping[str, Shape]
    at: str = ""
    index: int | None = None
    leaf: str = ""
    attention: AttentionSpec | None = None
    place: Place | None = None
    worth: int = 1 << 20

    def theirs(self, template: str) -> str:
        """The checkpoint's tensor of a template."""
        return template.replace("{i}", str(self.index)) + self.leaf

    def beside(self, part: str) -> str:
        """Our parameter `part` of the same layer and the same leaf."""
        return f"{self.at}{part}{self.leaf}"

    @property
    def heads(self) -> AttentionSpec:
        """The layer's attention, for recipes that are about its heads."""
        if self.attention is None:
            raise ValueError(f"{self.name} is not of a layer with attention")
        return self.attention


@dataclass(frozen=True)
class Plan:
    """What a recipe needs of the checkpoint, names to shapes, and how the parameter is `made` when they are read."""

    needs: Mapping[str, Shape]
    made: Callable[[Read], Tensor]


class Recipe(Protocol):
    """How a parameter is made of stored tensors, and stored again."""

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        """The ways to make it, best first. Nothing is read yet."""

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        """Our parameters that are stored together, this one among them."""

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The stored tensors of these parameters, in the order of `parts`, by the checkpoint's names."""


Value = str | Recipe


@dataclass(frozen=True)
class Named:
    """What a plain string means: stored as it is, under this name."""

    name: str

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        name = wanted.theirs(self.name)
        yield Plan({name: wanted.shape}, lambda read: read(name))

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        return (wanted.name,)

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield wanted.theirs(self.name), parts[0]


def recipe(value: Value) -> Recipe:
    """A value of a table as a recipe."""
    return Named(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Rows:
    """Parameters one after the other along `dim` of one tensor. `together` names them, relative to the layer."""

    name: str
    together: tuple[str, ...]
    dim: int = 0

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        name, parts = wanted.theirs(self.name), self.parts(wanted)
        if not all(part in wanted.shapes for part in parts):
            return
        sizes = [wanted.shapes[part][self.dim] for part in parts]
        place = parts.index(wanted.name)
        shape = (*wanted.shape[: self.dim], sum(sizes), *wanted.shape[self.dim + 1 :])
        start, size = sum(sizes[:place]), sizes[place]
        yield Plan({name: shape}, lambda read: read(name).narrow(self.dim, start, size))

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        return tuple(map(wanted.beside, self.together))

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield wanted.theirs(self.name), torch.cat(list(parts), self.dim)


@dataclass(frozen=True)
class Grouped:
    """Queries, keys and values in one tensor by key/value head: its G query heads, its key, its value.

    It is Falcon's one layout: of 40B as it is, of 7B with K = 1, of RW with G = 1.
    """

    name: str
    together: tuple[str, ...] = QKV

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        name, spec = wanted.theirs(self.name), wanted.heads
        rows, (first, last) = spec.kv_heads * (spec.groups + 2), self._heads(wanted)

        def made(read: Read) -> Tensor:
            stored = read(name)
            heads = stored.reshape(spec.kv_heads, spec.groups + 2, spec.head_dim, *stored.shape[1:])
            return heads[:, first:last].reshape(wanted.shape)

        yield Plan({name: (rows * spec.head_dim, *wanted.shape[1:])}, made)

    def _heads(self, wanted: Wanted) -> tuple[int, int]:
        """Which of the G + 2 heads of a group are this part's."""
        G, place = wanted.heads.groups, self.parts(wanted).index(wanted.name)
        return ((0, G), (G, G + 1), (G + 1, G + 2))[place]

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        return tuple(map(wanted.beside, self.together))

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        spec = wanted.heads
        heads = [part.reshape(spec.kv_heads, -1, spec.head_dim, *part.shape[1:]) for part in parts]
        yield wanted.theirs(self.name), torch.cat(heads, 1).flatten(0, 2)


@dataclass(frozen=True)
class PerExpert:
    """A bank `[E, …]`, stored as one tensor an expert: `{e}` in the name."""

    name: str

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        count, shape = wanted.shape[0], wanted.shape[1:]
        if count > wanted.worth:
            yield Plan({wanted.theirs(self.name.replace("{e}", f"{{0-{count - 1}}}")): shape}, lambda read: read(""))
            return
        names = self._names(wanted)

        def made(read: Read) -> Tensor:
            first = read(names[0])
            bank = first.new_empty(wanted.shape)
            bank[0] = first
            for expert, name in enumerate(names[1:], 1):
                bank[expert] = read(name)
            return bank

        yield Plan(dict.fromkeys(names, shape), made)

    def _names(self, wanted: Wanted) -> list[str]:
        template = wanted.theirs(self.name)
        return [template.replace("{e}", str(expert)) for expert in range(wanted.shape[0])]

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        return (wanted.name,)

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from zip(self._names(wanted), parts[0].unbind(), strict=True)


@dataclass(frozen=True)
class Transposed:
    """Matrices stored `[in, out]`; vectors are left as they are."""

    value: Value

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        for plan in recipe(self.value).plans(wanted):
            yield _seen(plan, lambda shape: shape[::-1], _flipped)

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        return recipe(self.value).parts(wanted)

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in recipe(self.value).store(wanted, parts):
            yield name, _flipped(tensor)


@dataclass(frozen=True)
class Leading:
    """Stored with a dimension of size 1 in front."""

    value: Value

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        for plan in recipe(self.value).plans(wanted):
            yield _seen(plan, lambda shape: (1, *shape), lambda tensor: tensor[0])

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        return recipe(self.value).parts(wanted)

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in recipe(self.value).store(wanted, parts):
            yield name, tensor[None]


@dataclass(frozen=True)
class Interleaved:
    """Rows of queries or keys ordered for RoPE on neighbouring pairs: pair j of a head in rows 2j and 2j + 1.

    Ours are in two halves, j and j + D/2. llama.cpp's converter stores the llama architecture so.
    """

    value: Value

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        for plan in recipe(self.value).plans(wanted):
            yield Plan(plan.needs, lambda read, made=plan.made: self._turned(wanted, made(read), 2))  # type: ignore[misc]

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        return recipe(self.value).parts(wanted)

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        half = wanted.heads.head_dim // 2
        yield from recipe(self.value).store(wanted, [self._turned(wanted, part, half) for part in parts])

    def _turned(self, wanted: Wanted, tensor: Tensor, last: int) -> Tensor:
        """Each head's D rows as a matrix `last` wide, transposed: 2 takes pairs to halves, D/2 halves to pairs."""
        dim = wanted.heads.head_dim
        return tensor.reshape(-1, dim // last, last, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


@dataclass(frozen=True, init=False)
class Either:
    """What is stored in one of several ways; written in the first."""

    choices: tuple[Value, ...]

    def __init__(self, *choices: Value) -> None:
        object.__setattr__(self, "choices", choices)

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        for choice in self.choices:
            yield from recipe(choice).plans(wanted)

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        return recipe(self.choices[0]).parts(wanted)

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from recipe(self.choices[0]).store(wanted, parts)


@dataclass(frozen=True)
class ByPlace:
    """`parallel` where attention and feed-forward stand side by side with a norm each, else `other`."""

    parallel: Value
    other: Value

    def _one(self, wanted: Wanted) -> Recipe:
        return recipe(self.parallel if wanted.place == "parallel" else self.other)

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        yield from self._one(wanted).plans(wanted)

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        return self._one(wanted).parts(wanted)

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from self._one(wanted).store(wanted, parts)


def fused(made: Recipe, parts: tuple[str, ...], at: str = "layers.{i}.") -> dict[str, Value]:
    """The entries of a table for parameters that share a tensor: each part's, all with the same recipe."""
    return {f"{at}{part}": made for part in parts}


def _seen(plan: Plan, shape: Callable[[Shape], Shape], view: Callable[[Tensor], Tensor]) -> Plan:
    """The plan where what is stored has another `shape`, and is looked at through `view`."""
    needs = {name: shape(inner) for name, inner in plan.needs.items()}
    return Plan(needs, lambda read: plan.made(lambda name: view(read(name))))


def _flipped(tensor: Tensor) -> Tensor:
    return tensor.T if tensor.dim() == 2 else tensor
