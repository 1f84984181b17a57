"""What a checkpoint calls our parameters: tables, and how a parameter is looked up in one.

A key is our name, `{i}` the layer; a value is the checkpoint's name, or a recipe that makes ours of several or other
tensors (`recipes.py`, which has an example). The tables themselves stand with their families, but those that several
formats build on. `parameters(spec)` says which of ours a model has and in which shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from openbook.errors import Fault
from openbook.lm.spec import ModelSpec, Seq2SeqSpec
from openbook.lm.weights.parameters import Shape as Shape
from openbook.lm.weights.parameters import parameters as parameters
from openbook.lm.weights.recipes import Interleaved, Named, Recipe, Value, Wanted, recipe

# A prefix names the body of a model; these of our modules stand outside it.
MOST_EXPERTS = 1 << 20
OUTSIDE = ("head.", "decoder.head.", "classifier.")


@dataclass(frozen=True)
class NameTable:
    """Names of one format, and what a checkpoint may hold besides.

    `modules` maps modules of ours to modules of theirs, whose `.weight` and `.bias` keep their names; `tensors` maps
    single parameters, whole names on both sides, and is asked first. Their names may stand after one of `prefixes`,
    the first of which is written. `renamed` are old spellings of parts of names, `ignored` patterns of tensors that
    the model does not use; `again` names under which the embedding may be stored once more.
    """

    modules: dict[str, Value]
    prefixes: tuple[str, ...] = ("",)
    ignored: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, Value] = field(default_factory=dict)
    again: tuple[str, ...] = ()

    def find(self, ours: str) -> tuple[Recipe, str] | None:
        """How our parameter is stored, and the leaf that is added to names; None if the table does not say."""
        generic = _LAYER.sub(r"\1{i}.", ours)
        if generic in self.tensors:
            return recipe(self.tensors[generic]), ""
        module, _, leaf = generic.rpartition(".")
        try:
            return recipe(self.modules[module]), f".{leaf}"
        except KeyError:
            return None

    def theirs(self, ours: str) -> str:
        """The checkpoint's name, without prefix, of our parameter; a `Fault` where it is not one tensor alone."""
        found = self.find(ours)
        if found is None or not isinstance(found[0], Named):
            raise Fault(f"the names of this family have no one tensor for {ours}")
        layer = _LAYER.match(ours)
        return found[0].name.replace("{i}", layer[2] if layer else "") + found[1]

    def spellings(self, name: str) -> Iterator[str]:
        """What a tensor may be called in a file: under each prefix, in each spelling."""
        old = (name.replace(new, former) for new, former in self.renamed.items() if new in name)
        for spelling in (name, *old):
            for prefix in self.prefixes:
                yield prefix + spelling

    def written(self, ours: str, name: str) -> str:
        """The whole name under which a tensor of our parameter `ours` is written."""
        return name if ours.startswith(OUTSIDE) else self.prefixes[0] + name

    def ignores(self, name: str) -> bool:
        """Whether a tensor of this name is known and not needed."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


_LAYER = re.compile(r"^((?:encoder\.|decoder\.)?layers\.)(\d+)\.")


def wanted(spec: ModelSpec | Seq2SeqSpec, shapes: Mapping[str, Shape], ours: str, leaf: str, worth: int) -> Wanted:
    """What a recipe is told of our parameter."""
    layer = _LAYER.match(ours)
    stack = spec if isinstance(spec, ModelSpec) else spec.encoder if ours.startswith("encoder.") else spec.decoder
    if layer is None:
        return Wanted(ours, shapes[ours], shapes, leaf=leaf, worth=worth)
    index = int(layer[2])
    block = stack.layers[index]
    crossed = block.cross is not None and ours[layer.end() :].startswith("cross")
    attention = block.cross if crossed else block.attention
    return Wanted(ours, shapes[ours], shapes, layer[0], index, leaf, attention, block.place, worth)


def original(spec: ModelSpec | Seq2SeqSpec, ours: str) -> str:
    """The parameter under whose name `ours` is stored: itself, but a shared embedding is the encoder's."""
    shared = isinstance(spec, Seq2SeqSpec) and spec.shared_embedding
    return "encoder.embedding.weight" if shared and ours == "decoder.embedding.weight" else ours


def write(
    spec: ModelSpec | Seq2SeqSpec, table: NameTable, state: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """A model's parameters as its checkpoint stores them, by the names of `table`: what loading reads back as `state`.

    Tensors are passed on as they come; only those that are stored together wait for each other. Raises `Fault` for a
    parameter that the table has no name for.
    """
    shapes, waiting = parameters(spec), dict[str, Tensor]()
    for ours, tensor in state:
        if original(spec, ours) != ours:
            continue
        found = table.find(ours)
        if found is None or ours not in shapes:
            raise Fault(f"the names of this family have no tensor for {ours}; the model cannot be written as one of it")
        want = wanted(spec, shapes, ours, found[1], MOST_EXPERTS)
        waiting[ours] = tensor
        parts = found[0].parts(want)
        if all(part in waiting for part in parts):
            for name, stored in found[0].store(want, [waiting.pop(part) for part in parts]):
                yield table.written(ours, name), stored
    if waiting:
        raise Fault(f"parameters that are stored together are not all there: {', '.join(sorted(waiting))} stand alone")


LLAMA = NameTable(
    {
        "embedding": "embed_tokens",
        "layers.{i}.attention.query": "layers.{i}.self_attn.q_proj",
        "layers.{i}.key_value.key": "layers.{i}.self_attn.k_proj",
        "layers.{i}.key_value.value": "layers.{i}.self_attn.v_proj",
        "layers.{i}.attention.out": "layers.{i}.self_attn.o_proj",
        "layers.{i}.attention_norm": "layers.{i}.input_layernorm",
        "layers.{i}.feed_forward_norm": "layers.{i}.post_attention_layernorm",
        "layers.{i}.feed_forward.gate": "layers.{i}.mlp.gate_proj",
        "layers.{i}.feed_forward.up": "layers.{i}.mlp.up_proj",
        "layers.{i}.feed_forward.down": "layers.{i}.mlp.down_proj",
        "norm": "norm",
        "head": "lm_head",
    },
    prefixes=("model.", ""),
    ignored=(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"(model\.)?rotary_emb\.inv_freq"),
)

GGUF = NameTable(
    {
        "embedding": "token_embd",
        "layers.{i}.attention.query": "blk.{i}.attn_q",
        "layers.{i}.key_value.key": "blk.{i}.attn_k",
        "layers.{i}.key_value.value": "blk.{i}.attn_v",
        "layers.{i}.attention.out": "blk.{i}.attn_output",
        "layers.{i}.attention_norm": "blk.{i}.attn_norm",
        "layers.{i}.feed_forward_norm": "blk.{i}.ffn_norm",
        "layers.{i}.feed_forward.gate": "blk.{i}.ffn_gate",
        "layers.{i}.feed_forward.up": "blk.{i}.ffn_up",
        "layers.{i}.feed_forward.down": "blk.{i}.ffn_down",
        "norm": "output_norm",
        "head": "output",
    },
    # Read by the spec (gguf_spec.py), so not left over; the last is a llama.cpp of 2023's copy of the RoPE table.
    ignored=(r"rope_freqs\.weight", r"rope_factors_(long|short)\.weight", r"blk\.\d+\.attn_rot_embd\.weight"),
)

GGUF_LLAMA = NameTable(
    GGUF.modules
    | {
        "layers.{i}.attention.query": Interleaved("blk.{i}.attn_q"),
        "layers.{i}.key_value.key": Interleaved("blk.{i}.attn_k"),
    },
    ignored=GGUF.ignored,
)
