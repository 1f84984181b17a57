"""From a checkpoint's `config.json` to a `ModelSpec`.

A family is a function from the fields of a config to a spec, registered under the architectures it serves. The
names of the fields are those of transformers, old (`rope_theta`, `rope_scaling`) and new (`rope_parameters`, 5.x).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from openbook.errors import Fault
from openbook.lm.rules import Rule, rule
from openbook.lm.spec import (
    Activation,
    AttentionSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelSpec,
    NormSpec,
    RopeSpec,
)
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import BERT, LLAMA, NameTable

Build = Callable[[Fields], ModelSpec]


@dataclass(frozen=True)
class Family:
    """How the configs of a family become a spec, and what its checkpoints call our parameters."""

    build: Build
    names: NameTable


FAMILIES: dict[str, Family] = {}
_BY_TYPE: dict[str, str] = {}

MAX_LAYERS = 4096

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Fields that every config may carry and that say nothing about the arithmetic of inference.
COMMON_HARMLESS = _words(
    """_name_or_path architectures attention_dropout bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_range is_llama_config
    label2id length_penalty max_length min_length model_type name_or_path no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_scores
    pad_token_id prefix problem_type remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
    transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache"""
)
BERT_HARMLESS = COMMON_HARMLESS | _words(
    """attention_probs_dropout_prob classifier_dropout hidden_dropout_prob pooler_fc_size
    pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type tie_word_embeddings
    directionality"""
)


def family(*architectures: str, model_type: str, names: NameTable) -> Callable[[Build], Build]:
    """Register the decorated function for `architectures`, the first also for configs with a `model_type` alone."""

    def register(build: Build) -> Build:
        FAMILIES.update(dict.fromkeys(architectures, Family(build, names)))
        _BY_TYPE[model_type] = architectures[0]
        return build

    return register


def architecture_of(config: Mapping[str, Any]) -> str:
    """The config's architecture, which is one of `FAMILIES`; a `Fault` names one that is not."""
    names = config.get("architectures") or [_BY_TYPE.get(str(config.get("model_type")), config.get("model_type"))]
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(name, str) or name not in FAMILIES:
        raise Fault(f"config.json: architecture {name!r} is not supported; openbook runs {', '.join(sorted(FAMILIES))}")
    return name


def spec_from_config(config: Mapping[str, Any]) -> ModelSpec:
    """The spec of a `config.json`. Raises `Fault` naming an architecture or a field that is not supported."""
    architecture = architecture_of(config)
    fields = Fields(config, f"config.json of {architecture}")
    fields.only("is_encoder_decoder", False)
    fields.only("add_cross_attention", False)
    fields.only("pruned_heads", {})
    return FAMILIES[architecture].build(fields)


@family("LlamaForCausalLM", model_type="llama", names=LLAMA)
def llama(fields: Fields) -> ModelSpec:
    """Llama 1–3, SmolLM2, TinyLlama: pre-norm RMSNorm, RoPE, MHA, GQA or MQA, a gated MLP."""
    fields.only("pretraining_tp", 1)
    fields.only("rope_interleaved", False)
    return _decoder(fields, window=None, rms_epsilon=1e-6, kv_heads=None)


@family("MistralForCausalLM", model_type="mistral", names=LLAMA)
def mistral(fields: Fields) -> ModelSpec:
    """Mistral 7B: Llama whose queries see `sliding_window` keys, itself counted (2310.06825)."""
    # transformers' default is 4096 when the field is absent; an explicit null means none.
    none = fields.has("sliding_window") and fields.take("sliding_window") is None
    window = None if none else fields.whole("sliding_window", 4096)
    return _decoder(fields, window=window, rms_epsilon=1e-6, kv_heads=8)


def _decoder(fields: Fields, *, window: int | None, rms_epsilon: float, kv_heads: int | None) -> ModelSpec:
    width = fields.whole("hidden_size")
    heads = fields.whole("num_attention_heads")
    norm = NormSpec("rms", fields.real("rms_norm_eps", rms_epsilon))
    bias = fields.flag("attention_bias", False)
    attention = AttentionSpec(
        heads=heads,
        kv_heads=fields.whole("num_key_value_heads", kv_heads or heads),
        head_dim=fields.whole("head_dim", max(1, width // heads)),
        window=window,
        rope=rope_from(fields),
        qkv_bias=bias,
        out_bias=bias,
    )
    feed_forward = FeedForwardSpec(
        width=fields.whole("intermediate_size"),
        activation=_activation(fields, "silu"),
        bias=fields.flag("mlp_bias", False),
    )
    spec = ModelSpec(
        vocabulary=fields.whole("vocab_size"),
        width=width,
        layers=(LayerSpec(attention, feed_forward, norm),) * layer_count(fields, "num_hidden_layers"),
        max_positions=fields.whole("max_position_embeddings", 2048),
        tied=fields.flag("tie_word_embeddings", False),
        final_norm=norm,
    )
    fields.finish(COMMON_HARMLESS)
    return spec


@family(
    "BertModel",
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertForNextSentencePrediction",
    model_type="bert",
    names=BERT,
)
def bert(fields: Fields) -> ModelSpec:
    """BERT's encoder alone: post-norm LayerNorm, learned positions, segments; pooler and heads are left out."""
    fields.only("position_embedding_type", "absolute")
    fields.only("is_decoder", False)
    fields.only("embedding_size", fields.take("hidden_size"))
    width, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    if width % heads:
        raise fields.fault("num_attention_heads", f"is {heads}, which does not divide hidden_size {width}")
    norm = NormSpec("layer", fields.real("layer_norm_eps", 1e-12))
    attention = AttentionSpec(
        heads=heads, kv_heads=heads, head_dim=width // heads, causal=False, qkv_bias=True, out_bias=True
    )
    feed_forward = FeedForwardSpec(
        width=fields.whole("intermediate_size"), activation=_activation(fields, "gelu"), gated=False, bias=True
    )
    spec = ModelSpec(
        vocabulary=fields.whole("vocab_size"),
        width=width,
        layers=(LayerSpec(attention, feed_forward, norm, "post"),) * layer_count(fields, "num_hidden_layers"),
        max_positions=fields.whole("max_position_embeddings", 512),
        head=False,
        positions="learned",
        token_types=fields.whole("type_vocab_size", 2),
        embedding_norm=norm,
        final_norm=None,
    )
    fields.finish(BERT_HARMLESS)
    return spec


def layer_count(fields: Fields, name: str) -> int:
    """The number of layers in the field `name`, of a size that a description can hold."""
    count = fields.whole(name)
    if count > MAX_LAYERS:
        raise fields.fault(name, f"is {count}; at most {MAX_LAYERS} layers are built")
    return count


def _activation(fields: Fields, default: str) -> Activation:
    name = fields.take("hidden_act", default)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise fields.fault("hidden_act", f"is {name!r}; supported are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]


def rope_from(fields: Fields) -> RopeSpec:
    """RoPE from `rope_parameters` (transformers 5), or from `rope_theta` and `rope_scaling`."""
    fields.only("partial_rotary_factor", 1, 1.0)
    new, old = fields.take("rope_parameters"), fields.take("rope_scaling")
    for name, value in (("rope_parameters", new), ("rope_scaling", old)):
        if value is not None and not isinstance(value, dict):
            raise fields.fault(name, f"is {value!r}, not an object")
    if new and old and new != old:
        raise fields.fault("rope_scaling", "differs from rope_parameters; keep the one that is right")
    base = fields.real("rope_theta", 10_000.0)
    inner = Fields(new or old or {}, "config.json: " + ("rope_parameters" if new else "rope_scaling"))
    base = inner.real("rope_theta", base)
    inner.only("partial_rotary_factor", 1, 1.0)
    longest = fields.take("original_max_position_embeddings")
    scaling = _scaling(inner, longest)
    inner.finish(())
    return RopeSpec(base, scaling)


def _scaling(inner: Fields, longest: Any) -> Rule | None:
    kind, old_kind = inner.take("rope_type"), inner.take("type")
    kind = kind or old_kind or "default"
    if kind == "default":
        inner.only("factor", 1, 1.0)
        return None
    if kind == "linear":
        return rule("linear", factor=inner.real("factor"))
    if kind == "llama3":
        return rule(
            "llama3",
            factor=inner.real("factor"),
            low=inner.real("low_freq_factor"),
            high=inner.real("high_freq_factor"),
            original=inner.whole("original_max_position_embeddings", longest),
        )
    raise inner.fault("rope_type", f"is {kind!r}, which is not supported; default, linear and llama3 are")
