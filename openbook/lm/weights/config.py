"""From a checkpoint's `config.json` to a spec: the registry of families, and what they share.

A family is a function from the fields of a config to a spec, registered under the architectures it serves; the
families themselves are in `families/`. Fields are called what transformers calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openbook.errors import Fault
from openbook.lm.spec import (
    Activation,
    AttentionSpec,
    ExpertsSpec,
    FeedForwardSpec,
    LayerSpec,
    ModelSpec,
    NormSpec,
    Place,
    Seq2SeqSpec,
)
from openbook.lm.weights.fields import Fields
from openbook.lm.weights.names import NameTable

Spec = ModelSpec | Seq2SeqSpec
Build = Callable[[Fields], Spec]


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


def words(text: str) -> frozenset[str]:
    """The words of a text: how lists of fields are written down."""
    return frozenset(text.split())


# Fields that every config may carry and that say nothing about the arithmetic of inference.
COMMON_HARMLESS = words(
    """_attn_implementation _attn_implementation_autoset _flash_attn_2_enabled _name_or_path _num_labels architectures
    attention_dropout attn_implementation bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id eos_token_ids exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_range is_llama_config
    label2id length_penalty max_length min_length model_type name_or_path no_repeat_ngram_size
    num_beam_groups num_beams num_labels num_return_sequences output_attentions output_hidden_states output_past
    output_scores pad_token_id prefix problem_type remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
    transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache xla_device"""
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
    from openbook.lm.weights import families  # noqa: F401 - registers them

    names = config.get("architectures") or [_BY_TYPE.get(str(config.get("model_type")), config.get("model_type"))]
    name = names[0] if isinstance(names, list) and names else names
    if not isinstance(name, str) or name not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise Fault(f"config.json: architecture {repr(name)[:80]} is not supported; openbook runs {known}")
    return name


def spec_from_config(config: Mapping[str, Any]) -> Spec:
    """The spec of a `config.json`. Raises `Fault` naming an architecture or a field that is not supported."""
    architecture = architecture_of(config)
    fields = Fields(config, f"config.json of {architecture}")
    fields.only("add_cross_attention", False)
    fields.only("pruned_heads", {})
    if (how := fields.take("quantization_config")) is not None:
        method = how.get("quant_method") if isinstance(how, dict) else how
        raise fields.fault(
            "quantization_config",
            f"says that the weights are quantised ({method!r}), which is read from GGUF alone; "
            "take the checkpoint it was made from, or a GGUF file",
        )
    return FAMILIES[architecture].build(fields)


def decoder(
    fields: Fields,
    norm: NormSpec,
    attentions: Sequence[AttentionSpec],
    feed_forwards: Sequence[FeedForwardSpec | ExpertsSpec],
    *,
    place: Place = "pre",
    max_positions: int,
    tied: bool = False,
    harmless: frozenset[str] = frozenset(),
    **more: Any,
) -> ModelSpec:
    """A decoder of these layers, all normed alike; `more` are further fields of its spec.

    `max_positions` and `tied` are what the family assumes where the config does not say. Comes last: a field that
    nobody has read by then, and that is not `harmless`, is a `Fault`.
    """
    fields.only("is_encoder_decoder", False)
    layers = (
        LayerSpec(attention, feed_forward, norm, place)
        for attention, feed_forward in zip(attentions, feed_forwards, strict=True)
    )
    spec = ModelSpec(
        vocabulary=fields.whole("vocab_size"),
        width=fields.whole("hidden_size"),
        layers=tuple(layers),
        max_positions=fields.whole("max_position_embeddings", max_positions),
        tied=fields.flag("tie_word_embeddings", tied),
        final_norm=norm,
        **more,
    )
    fields.finish(COMMON_HARMLESS | harmless)
    return spec


def layer_count(fields: Fields, name: str = "num_hidden_layers") -> int:
    """The number of layers in the field `name`, of a size that a description can hold."""
    count = fields.whole(name)
    if count > MAX_LAYERS:
        raise fields.fault(name, f"is {count}; at most {MAX_LAYERS} layers are built")
    return count


def head_counts(fields: Fields, kv_heads: int | None = None, head_dim: int | None = None) -> tuple[int, int, int]:
    """Query heads, key/value heads and the dimension of one.

    `kv_heads` and `head_dim` stand in for absent fields; without them, or for a null, there is a key/value head for
    each query head, and the width is divided among the heads.
    """
    width, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
    null = fields.has("num_key_value_heads")  # there and null: transformers takes the query heads'
    kv = fields.whole("num_key_value_heads", heads if null or kv_heads is None else kv_heads)
    dim = fields.take("head_dim", head_dim)
    return heads, kv, divided(fields, width, heads) if dim is None else fields.whole("head_dim", head_dim)


def divided(fields: Fields, width: int, heads: int, name: str = "num_attention_heads") -> int:
    """The dimension of each of `heads` heads that share `width`."""
    if width % heads:
        raise fields.fault(name, f"is {heads}, which does not divide the width {width}")
    return width // heads


def activation(fields: Fields, default: str, name: str = "hidden_act") -> Activation:
    """The activation that the field `name` says."""
    value = fields.take(name, default)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise fields.fault(name, f"is {value!r}; supported are {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[value]


def sliding_layers(fields: Fields, default: Sequence[bool]) -> list[bool]:
    """Which layers have a window: by `layer_types`, else as `default` says."""
    types = fields.take("layer_types")
    if types is None:
        return list(default)
    known = {"sliding_attention": True, "full_attention": False}
    if not isinstance(types, list) or len(types) != len(default):
        raise fields.fault("layer_types", f"is not a list of {len(default)} types, one a layer")
    for kind in types:
        if not isinstance(kind, str) or kind not in known:
            raise fields.fault("layer_types", f"has {kind!r}; supported are {', '.join(known)}")
    return [known[kind] for kind in types]
