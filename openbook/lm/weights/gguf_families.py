"""The architectures that GGUF files hold, each as a function from its metadata to a spec.

What a GGUF does not say is fixed by the architecture, as llama.cpp's graphs fix it: where Gemma's windows stand, which
layers norm, whether experts' weights are renormalised. Gemma's norms are stored with their 1 already added.
"""

from __future__ import annotations

import math
from dataclasses import replace

from openbook.lm.rules import rule
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
)
from openbook.lm.weights import gguf_names as names
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.gguf_spec import Load, Tensors, gguf_family, head_dim, layer_count, rope, vocabulary


@gguf_family("llama", names=names.LLAMA)
def llama(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """Llama, Mistral, SmolLM2, TinyLlama; with experts Mixtral."""
    attention = _attention(fields, tensors, load)
    fields.only("rope.dimension_count", attention.head_dim)  # rows of a part of a head would be stored otherwise
    if "blk.0.ffn_gate_inp.weight" not in tensors:
        fields.only("expert_count", 0)
        fields.only("expert_used_count", 0)
        return _decoder(fields, tensors, attention, _gated(fields, tensors))
    return _decoder(fields, tensors, attention, _experts(fields, fields.whole("feed_forward_length"), True))


@gguf_family("qwen2", names=names.QWEN)
def qwen2(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """Qwen 2 and 2.5: Llama with biases on queries, keys and values."""
    return _decoder(fields, tensors, _attention(fields, tensors, load), _gated(fields, tensors))


@gguf_family("qwen3", names=names.QWEN)
def qwen3(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """Qwen 3: queries and keys normed a head."""
    attention = _attention(fields, tensors, load, qk_norm="head")
    return _decoder(fields, tensors, attention, _gated(fields, tensors))


@gguf_family("qwen3moe", names=names.MOE)
def qwen3moe(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """Qwen 3 with experts in every layer, their weights renormalised."""
    attention = _attention(fields, tensors, load, qk_norm="head")
    fields.take("feed_forward_length")  # of dense layers, of which there are none
    experts = _experts(fields, fields.whole("expert_feed_forward_length"), renormalise=True)
    return _decoder(fields, tensors, attention, experts)


@gguf_family("olmoe", names=names.MOE)
def olmoe(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """OLMoE: norms over the whole of queries and keys; experts whose weights do not sum to 1."""
    fields.only("attention.clamp_kqv", 0.0)
    attention = _attention(fields, tensors, load, qk_norm="projection")
    return _decoder(fields, tensors, attention, _experts(fields, fields.whole("feed_forward_length"), False))


@gguf_family("gemma2", names=names.GEMMA)
def gemma2(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """Gemma 2: every other layer local, from the first on; logits softly capped, in attention and at the end."""
    attention = replace(
        _gemma_attention(fields, tensors, load, layers=46),
        soft_cap=fields.real("attention.attn_logit_softcapping", fields.real("attn_logit_softcapping", 50.0)),
    )
    local = replace(attention, window=fields.whole("attention.sliding_window", 4096))
    return _gemma(fields, tensors, [local, attention], logit_cap=fields.real("final_logit_softcapping", 30.0))


@gguf_family("gemma3", names=names.GEMMA)
def gemma3(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """Gemma 3: five local layers to a global one, each kind with its RoPE; queries and keys normed a head."""
    attention = _gemma_attention(fields, tensors, load, layers=62, qk_norm="head")
    base = fields.real("rope.freq_base_swa", 10_000.0)
    local = replace(attention, window=fields.whole("attention.sliding_window"), rope=RopeSpec(base))
    fields.only("attention.sliding_window_pattern", 6)
    for name in ("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"):
        fields.only(name, attention.head_dim)
    cap = fields.real("final_logit_softcapping", 0.0)
    return _gemma(fields, tensors, [*[local] * 5, attention], logit_cap=cap or None)


@gguf_family("phi3", names=names.PHI3)
def phi3(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """Phi-3: Llama with fused projections, and LongRoPE where it is long."""
    return _decoder(fields, tensors, _attention(fields, tensors, load), _gated(fields, tensors))


@gguf_family("falcon", names=names.FALCON)
def falcon(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """Falcon 7B (one norm a layer, MQA) and 40B (two, GQA): attention and feed-forward side by side, no biases."""
    attention = _attention(fields, tensors, load)
    feed_forward = FeedForwardSpec(fields.whole("feed_forward_length"), "gelu", gated=False)
    two = "blk.0.attn_norm_2.weight" in tensors
    return _decoder(fields, tensors, attention, feed_forward, place="parallel" if two else "parallel_one_norm")


@gguf_family("gpt2", names=names.GPT2)
def gpt2(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """GPT-2: learned positions, LayerNorm before each block, biases everywhere."""
    attention = replace(_attention(fields, tensors, load), rope=None, qkv_bias=True, out_bias=True)
    feed_forward = FeedForwardSpec(fields.whole("feed_forward_length"), "gelu_tanh", gated=False, bias=True)
    return replace(_decoder(fields, tensors, attention, feed_forward), positions="learned")


@gguf_family("bert", names=names.BERT)
def bert(fields: Fields, tensors: Tensors, load: Load | None) -> ModelSpec:
    """BERT and RoBERTa encoders; RoBERTa's positions are stored without their offset."""
    fields.only("attention.causal", False)
    fields.take("pooling_type")  # what is made of the output: `openbook.lm.pooling`
    width, heads = fields.whole("embedding_length"), fields.whole("attention.head_count")
    norm = NormSpec("layer", fields.real("attention.layer_norm_epsilon"))
    kv_heads = fields.whole("attention.head_count_kv", heads)
    dim = head_dim(fields, max(1, width // heads))
    attention = AttentionSpec(heads, kv_heads, dim, causal=False, qkv_bias=True, out_bias=True)
    feed_forward = FeedForwardSpec(fields.whole("feed_forward_length"), "gelu", gated=False, bias=True)
    segments = tensors.get("token_types.weight")
    spec = ModelSpec(
        vocabulary=vocabulary(tensors),
        width=width,
        layers=(LayerSpec(attention, feed_forward, norm, "post"),) * layer_count(fields, "block_count"),
        max_positions=fields.whole("context_length"),
        head=False,
        positions="learned",
        token_types=segments.shape[0] if segments else 0,
        embedding_norm=norm,
        final_norm=None,
    )
    fields.only("vocab_size", spec.vocabulary)
    fields.finish({"tensor_data_layout"})
    return spec


@gguf_family("t5", names=names.T5)
def t5(fields: Fields, tensors: Tensors, load: Load | None) -> Seq2SeqSpec:
    """T5: relative distances shared by all layers of a stack, no scale, no biases; v1.1 is gated and untied."""
    heads, dim = fields.whole("attention.head_count"), fields.whole("attention.key_length")
    fields.only("attention.head_count_kv", heads)
    fields.only("attention.value_length", dim)
    width, norm = fields.whole("embedding_length"), NormSpec("rms", fields.real("attention.layer_norm_rms_epsilon"))
    fields.take("attention.layer_norm_epsilon")  # of an architecture without LayerNorm
    buckets, tied = fields.whole("attention.relative_buckets_count"), "output.weight" not in tensors
    gated = "enc.blk.0.ffn_gate.weight" in tensors
    feed_forward = FeedForwardSpec(fields.whole("feed_forward_length"), "gelu_tanh" if gated else "relu", gated=gated)
    tokens, longest = vocabulary(tensors), fields.whole("context_length")

    def attention(both_ways: bool) -> AttentionSpec:
        distance = rule("relative", buckets=buckets, max_distance=128, both_ways=both_ways)
        return AttentionSpec(heads, heads, dim, causal=not both_ways, bias=distance, scale=1.0)

    cross = AttentionSpec(heads, heads, dim, causal=False, scale=1.0)
    layers = layer_count(fields, "block_count")
    deep = layer_count(fields, "decoder_block_count") if fields.has("decoder_block_count") else layers
    spec = Seq2SeqSpec(
        encoder=ModelSpec(
            vocabulary=tokens,
            width=width,
            layers=(LayerSpec(attention(True), feed_forward, norm),) * layers,
            max_positions=longest,
            head=False,
            final_norm=norm,
        ),
        decoder=ModelSpec(
            vocabulary=tokens,
            width=width,
            layers=(LayerSpec(attention(False), feed_forward, norm, cross=cross),) * deep,
            max_positions=longest,
            tied=tied,
            final_norm=norm,
            logit_scale=width**-0.5 if tied else 1.0,
            memory_width=width,
        ),
        start=fields.token("decoder_start_token_id", 0),
    )
    fields.only("vocab_size", spec.decoder.vocabulary)
    fields.finish({"tensor_data_layout"})
    return spec


def _norm(fields: Fields) -> NormSpec:
    """RMSNorm or LayerNorm, as whichever epsilon is given says."""
    if fields.has("attention.layer_norm_rms_epsilon"):
        fields.only("attention.layer_norm_epsilon")
        return NormSpec("rms", fields.real("attention.layer_norm_rms_epsilon"))
    return NormSpec("layer", fields.real("attention.layer_norm_epsilon"))


def _attention(fields: Fields, tensors: Tensors, load: Load | None, qk_norm: str | None = None) -> AttentionSpec:
    fields.only("attention.causal", True)
    width, heads = fields.whole("embedding_length"), fields.whole("attention.head_count")
    dim = head_dim(fields, max(1, width // heads))
    window = fields.take("attention.sliding_window")
    over = {None: None, "head": "head", "projection": "projection"}[qk_norm]
    return AttentionSpec(
        heads=heads,
        kv_heads=fields.whole("attention.head_count_kv", heads),
        head_dim=dim,
        window=None if window in (None, 0) else fields.whole("attention.sliding_window"),
        rope=rope(fields, dim, tensors, load),
        qk_norm=None if over is None else QKNormSpec(_norm(fields), over),  # type: ignore[arg-type]
        qkv_bias=any(f"blk.0.{name}.bias" in tensors for name in ("attn_q", "attn_qkv")),
        out_bias="blk.0.attn_output.bias" in tensors,
    )


def _gated(fields: Fields, tensors: Tensors) -> FeedForwardSpec:
    return FeedForwardSpec(fields.whole("feed_forward_length"), "silu", bias="blk.0.ffn_up.bias" in tensors)


def _experts(fields: Fields, width: int, renormalise: bool) -> ExpertsSpec:
    count, active = fields.whole("expert_count"), fields.whole("expert_used_count")
    fields.only("expert_feed_forward_length", width)
    fields.only("expert_gating_func", 1)  # softmax
    fields.only("expert_shared_count", 0)
    fields.only("expert_weights_norm", renormalise)
    fields.only("expert_weights_scale", 1.0)
    return ExpertsSpec(count, active, FeedForwardSpec(width), renormalise=renormalise)


def _decoder(
    fields: Fields,
    tensors: Tensors,
    attention: AttentionSpec,
    feed_forward: FeedForwardSpec | ExpertsSpec,
    place: str = "pre",
) -> ModelSpec:
    norm = _norm(fields)
    fields.only("use_parallel_residual", place != "pre")
    spec = ModelSpec(
        vocabulary=vocabulary(tensors),
        width=fields.whole("embedding_length"),
        layers=(LayerSpec(attention, feed_forward, norm, place),) * layer_count(fields, "block_count"),  # type: ignore[arg-type]
        max_positions=fields.whole("context_length"),
        tied="output.weight" not in tensors,
        final_norm=norm,
    )
    fields.only("vocab_size", spec.vocabulary)
    fields.finish({"tensor_data_layout"})
    return spec


def _gemma_attention(
    fields: Fields, tensors: Tensors, load: Load | None, layers: int, qk_norm: str | None = None
) -> AttentionSpec:
    """Gemma's global attention. Only the 27B (told by its `layers`) scales queries by (M/H)^−½ and not by D^−½."""
    attention = replace(_attention(fields, tensors, load, qk_norm), window=None)
    largest = fields.whole("block_count") == layers
    return replace(attention, scale=math.sqrt(attention.heads / fields.whole("embedding_length")) if largest else None)


def _gemma(fields: Fields, tensors: Tensors, pattern: list[AttentionSpec], logit_cap: float | None) -> ModelSpec:
    """Sandwich norms, GeGLU, embeddings times √M; attention by a repeating pattern."""
    norm = _norm(fields)
    feed_forward = FeedForwardSpec(fields.whole("feed_forward_length"), "gelu_tanh")
    count, width = layer_count(fields, "block_count"), fields.whole("embedding_length")
    spec = ModelSpec(
        vocabulary=vocabulary(tensors),
        width=width,
        layers=tuple(LayerSpec(pattern[i % len(pattern)], feed_forward, norm, "sandwich") for i in range(count)),
        max_positions=fields.whole("context_length"),
        tied="output.weight" not in tensors,
        embedding_scale=math.sqrt(width),
        final_norm=norm,
        logit_cap=logit_cap,
    )
    fields.only("vocab_size", spec.vocabulary)
    fields.finish({"tensor_data_layout"})
    return spec
