"""What each checkpoint format calls our parameters: tables, no code of their own.

A key is our name, `{i}` the layer; a value is the checkpoint's. `parameters(spec)` says which of ours a model has
and in which shape, so that what is missing, left over or misshapen can be named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from openbook.lm.spec import AttentionSpec, FeedForwardSpec, ModelSpec, NormSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class NameTable:
    """Names of one format: modules by our name, optional prefixes, and what a checkpoint may hold besides.

    `ignored` are patterns of tensors that the model does not use; `renamed` are spellings of old checkpoints;
    `interleaved` says that Q and K rows are stored for RoPE on neighbouring pairs and must be put back in halves.
    """

    modules: dict[str, str]
    prefixes: tuple[str, ...] = ("",)
    ignored: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)
    interleaved: bool = False

    def theirs(self, ours: str) -> str:
        """The checkpoint's name, without prefix, of our parameter."""
        module, _, leaf = ours.rpartition(".")
        layer = re.match(r"layers\.(\d+)\.", module)
        if layer is None:
            return f"{self.modules[module]}.{leaf}"
        generic = "layers.{i}." + module[layer.end() :]
        return self.modules[generic].replace("{i}", layer[1]) + f".{leaf}"

    def ignores(self, name: str) -> bool:
        """Whether a tensor of this name is known and not needed."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


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

BERT = NameTable(
    {
        "embedding": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "layers.{i}.attention.query": "encoder.layer.{i}.attention.self.query",
        "layers.{i}.key_value.key": "encoder.layer.{i}.attention.self.key",
        "layers.{i}.key_value.value": "encoder.layer.{i}.attention.self.value",
        "layers.{i}.attention.out": "encoder.layer.{i}.attention.output.dense",
        "layers.{i}.attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
        "layers.{i}.feed_forward_norm": "encoder.layer.{i}.output.LayerNorm",
        "layers.{i}.feed_forward.up": "encoder.layer.{i}.intermediate.dense",
        "layers.{i}.feed_forward.down": "encoder.layer.{i}.output.dense",
    },
    prefixes=("", "bert."),
    ignored=(r"(bert\.)?embeddings\.(position_ids|token_type_ids)", r"(bert\.)?pooler\..*", r"cls\..*"),
    # Checkpoints converted from TensorFlow.
    renamed={"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
)

GGUF_LLAMA = NameTable(
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
    # Read by the spec (gguf_spec.py), so not left over; the other is a llama.cpp of 2023's copy of the RoPE table.
    ignored=(r"rope_freqs\.weight", r"blk\.\d+\.attn_rot_embd\.weight"),
    interleaved=True,
)


def parameters(spec: ModelSpec) -> dict[str, Shape]:
    """Our names of all parameters of a model, with their shapes (weights `[out, in]`), in the order of the model."""
    shapes: dict[str, Shape] = {"embedding.weight": (spec.vocabulary, spec.width)}
    if spec.positions == "learned":
        shapes["positions.weight"] = (spec.max_positions, spec.width)
    if spec.token_types:
        shapes["token_types.weight"] = (spec.token_types, spec.width)
    if spec.embedding_norm:
        shapes |= _norm("embedding_norm", spec.embedding_norm, spec.width)
    for index, layer in enumerate(spec.layers):
        at = f"layers.{index}"
        shapes |= _attention(at, layer.attention, spec.width)
        shapes |= _norm(f"{at}.attention_norm", layer.norm, spec.width)
        shapes |= _feed_forward(f"{at}.feed_forward", layer.feed_forward, spec.width)
        shapes |= _norm(f"{at}.feed_forward_norm", layer.norm, spec.width)
    if spec.final_norm:
        shapes |= _norm("norm", spec.final_norm, spec.width)
    if spec.head and not spec.tied:
        shapes["head.weight"] = (spec.vocabulary, spec.width)
    return shapes


def _linear(name: str, out: int, into: int, bias: bool) -> dict[str, Shape]:
    return {f"{name}.weight": (out, into), **({f"{name}.bias": (out,)} if bias else {})}


def _norm(name: str, norm: NormSpec, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), **({f"{name}.bias": (width,)} if norm.has_bias else {})}


def _attention(at: str, spec: AttentionSpec, width: int) -> dict[str, Shape]:
    shapes = _linear(f"{at}.attention.query", spec.heads * spec.head_dim, width, spec.qkv_bias)
    if spec.kv_from is None:
        shapes |= _linear(f"{at}.key_value.key", spec.kv_heads * spec.head_dim, width, spec.qkv_bias)
        shapes |= _linear(f"{at}.key_value.value", spec.kv_heads * spec.head_dim, width, spec.qkv_bias)
    return shapes | _linear(f"{at}.attention.out", width, spec.heads * spec.head_dim, spec.out_bias)


def _feed_forward(at: str, spec: FeedForwardSpec, width: int) -> dict[str, Shape]:
    shapes = _linear(f"{at}.gate", spec.width, width, spec.bias) if spec.gated else {}
    shapes |= _linear(f"{at}.up", spec.width, width, spec.bias)
    return shapes | _linear(f"{at}.down", width, spec.width, spec.bias)
