"""BART and mBART: the classic Transformer with learned positions and a norm of the embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormSpec, Seq2SeqSpec
from openbook.lm.weights.config import COMMON_HARMLESS, activation, divided, family, layer_count, words
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import NameTable
from openbook.lm.weights.recipes import Either, Leading, Plan, Value, Wanted

HARMLESS = COMMON_HARMLESS | words(
    """activation_dropout classif_dropout classifier_dropout decoder_layerdrop dropout encoder_layerdrop
    force_bos_token_to_be_generated init_std replacing_rate save_step student_decoder_layers
    student_encoder_layers"""
)
OFFSET = 2  # rows of the table of positions before the first: fairseq counted from one past the padding id


def _side(side: str) -> dict[str, Value]:
    """The names of an encoder's or a decoder's parameters."""
    layer = f"{side}.layers.{{i}}"
    names: dict[str, Value] = {
        f"{side}.positions": f"{side}.embed_positions",
        f"{side}.embedding_norm": f"{side}.layernorm_embedding",
        f"{layer}.attention.query": f"{layer}.self_attn.q_proj",
        f"{layer}.key_value.key": f"{layer}.self_attn.k_proj",
        f"{layer}.key_value.value": f"{layer}.self_attn.v_proj",
        f"{layer}.attention.out": f"{layer}.self_attn.out_proj",
        f"{layer}.attention_norm": f"{layer}.self_attn_layer_norm",
        f"{layer}.feed_forward.up": f"{layer}.fc1",
        f"{layer}.feed_forward.down": f"{layer}.fc2",
        f"{layer}.feed_forward_norm": f"{layer}.final_layer_norm",
        f"{side}.norm": f"{side}.layer_norm",
    }
    if side == "decoder":
        names |= {
            f"{layer}.cross.query": f"{layer}.encoder_attn.q_proj",
            f"{layer}.cross_key_value.key": f"{layer}.encoder_attn.k_proj",
            f"{layer}.cross_key_value.value": f"{layer}.encoder_attn.v_proj",
            f"{layer}.cross.out": f"{layer}.encoder_attn.out_proj",
            f"{layer}.cross_norm": f"{layer}.encoder_attn_layer_norm",
        }
    return names


@dataclass(frozen=True)
class Nought:
    """Zeros, of the dtype of the tensor `like`: what fairseq did not store because it was never anything else."""

    like: str

    def plans(self, wanted: Wanted) -> Iterator[Plan]:
        needs = {self.like: wanted.shapes["encoder.embedding.weight"]}
        yield Plan(needs, lambda read: read(self.like).new_zeros(wanted.shape))

    def parts(self, wanted: Wanted) -> tuple[str, ...]:
        return (wanted.name,)

    def store(self, wanted: Wanted, parts: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield from ()


BART = NameTable(
    {"encoder.embedding": "shared", "decoder.head": "lm_head", **_side("encoder"), **_side("decoder")},
    tensors={"decoder.head.bias": Either(Leading("final_logits_bias"), Nought("shared.weight"))},
    prefixes=("model.", ""),
    ignored=(r"(model\.)?(encoder|decoder)\.version",),
    again=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
    renamed={"shared.weight": "encoder.embed_tokens.weight"},
)


@family("BartForConditionalGeneration", "BartModel", model_type="bart", names=BART)
def bart(fields: Fields) -> Seq2SeqSpec:
    """BART (Lewis 2019, arXiv 1910.13461): post-norm. Its base and large were released as `BartModel`: the head is the
    embedding, and its bias not stored."""
    fields.only("normalize_before", False)
    fields.only("add_final_layer_norm", False)
    return _seq2seq(fields, "post", start=2)


@family("MBartForConditionalGeneration", model_type="mbart", names=BART)
def mbart(fields: Fields) -> Seq2SeqSpec:
    """mBART (Liu 2020, arXiv 2001.08210): pre-norm. Which language to write is said by the first tokens."""
    fields.only("normalize_before", True)
    fields.only("add_final_layer_norm", True)
    return _seq2seq(fields, "pre", start=None)


def _seq2seq(fields: Fields, place: Literal["pre", "post"], start: int | None) -> Seq2SeqSpec:
    fields.only("is_encoder_decoder", True)
    fields.only("is_decoder", False)
    fields.only("tie_word_embeddings", True)
    fields.only("normalize_embedding", True)
    fields.only("static_position_embeddings", False)
    fields.only("extra_pos_embeddings", OFFSET)
    fields.only("add_bias_logits", False)
    fields.only("do_blenderbot_90_layernorm", False)
    for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"):  # other names for these three
        same = {"num_hidden_layers": "encoder_layers", "num_attention_heads": "encoder_attention_heads"}
        fields.only(name, fields.take(same.get(name, "d_model")))
    scale = fields.flag("scale_embedding", False)
    spec = Seq2SeqSpec(
        encoder=_stack(fields, "encoder", place, scale),
        decoder=_stack(fields, "decoder", place, scale),
        start=fields.token("decoder_start_token_id", start),
    )
    fields.finish(HARMLESS)
    return spec


def _stack(
    fields: Fields, side: Literal["encoder", "decoder"], place: Literal["pre", "post"], scale: bool
) -> ModelSpec:
    decodes = side == "decoder"
    width, heads = fields.whole("d_model", 1024), fields.whole(f"{side}_attention_heads", 16)
    dim = divided(fields, width, heads, f"{side}_attention_heads")
    norm = NormSpec("layer", 1e-5)
    attention, cross = (
        AttentionSpec(heads, heads, dim, causal=causal, qkv_bias=True, out_bias=True) for causal in (decodes, False)
    )
    act = activation(fields, "gelu", "activation_function")
    feed_forward = FeedForwardSpec(fields.whole(f"{side}_ffn_dim", 4096), act, gated=False, bias=True)
    layer = LayerSpec(attention, feed_forward, norm, place, cross if decodes else None)
    return ModelSpec(
        vocabulary=fields.whole("vocab_size", 50265),
        width=width,
        layers=(layer,) * layer_count(fields, f"{side}_layers"),
        max_positions=fields.whole("max_position_embeddings", 1024),
        head=decodes,
        head_bias=decodes,
        embedding_scale=math.sqrt(width) if scale else 1.0,
        positions="learned",
        position_offset=OFFSET,
        embedding_norm=norm,
        final_norm=norm if place == "pre" else None,
        memory_width=width if decodes else None,
    )
