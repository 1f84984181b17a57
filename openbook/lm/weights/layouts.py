"""How a spec is written down: as a family that other programs know where one says exactly this, else as our own.

A candidate is a function from a spec to a `config.json`, registered under `candidate`; it may guess, since it counts
only if reading its config gives the spec again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from openbook.errors import Fault
from openbook.lm.rules import Rule
from openbook.lm.spec import AttentionSpec, ExpertsSpec, FeedForwardSpec, ModelSpec, RopeSpec, Seq2SeqSpec
from openbook.lm.weights.config import FAMILIES, architecture_of, spec_from_config
from openbook.lm.weights.names import NameTable, parameters
from openbook.lm.weights.own import ARCHITECTURES, config_of

Spec = ModelSpec | Seq2SeqSpec
Config = dict[str, Any]
CANDIDATES: list[Callable[[ModelSpec], Config]] = []

ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}
ROPE_NAMES = {
    "low": "low_freq_factor",
    "high": "high_freq_factor",
    "original": "original_max_position_embeddings",
    "table_factor": "attention_factor",
    "fast": "beta_fast",
    "slow": "beta_slow",
    "short": "short_factor",
    "long": "long_factor",
}


@dataclass(frozen=True)
class Layout:
    """A config, and the family that reads it: its class, and what it calls our parameters."""

    config: Config
    architecture: str
    names: NameTable

    @property
    def known(self) -> bool:
        """Whether transformers has this family."""
        return self.architecture not in ARCHITECTURES


def candidate(make: Callable[[ModelSpec], Config]) -> Callable[[ModelSpec], Config]:
    """Register the decorated function; the first whose config reads as the spec is written."""
    CANDIDATES.append(make)
    return make


def layout_of(spec: Spec, source: Mapping[str, Any] | None = None, ends: Mapping[str, Any] | None = None) -> Layout:
    """How `spec` is written. `source` is the config of the model it comes from, whose family is kept if it can be;
    `ends` are fields that say nothing of the arithmetic (`eos_token_id`)."""
    configs = _configs(spec, source) if isinstance(spec, ModelSpec) else iter(())
    config = next((config for config in configs if _says(config, spec)), config_of(spec)) | dict(ends or {})
    architecture = architecture_of(config)
    return Layout(config, architecture, FAMILIES[architecture].names)


def _configs(spec: ModelSpec, source: Mapping[str, Any] | None) -> Iterator[Config]:
    if source is not None:
        yield from _amended(source, spec.layers[0].attention)
    for make in CANDIDATES:
        yield make(spec)


def _says(config: Config, spec: Spec) -> bool:
    """Whether a config is of this spec, in a family that has a name for each of its parameters."""
    try:
        names = FAMILIES[architecture_of(config)].names
        return spec_from_config(config) == spec and all(names.find(ours) for ours in parameters(spec))
    except Fault:
        return False


def _amended(source: Mapping[str, Any], attention: AttentionSpec) -> Iterator[Config]:
    """The source's own config with what a conversion may change in its family."""
    kept = {name: value for name, value in source.items() if name not in ("torch_dtype", "transformers_version")}
    heads = {"num_key_value_heads": attention.kv_heads}
    yield kept | heads
    yield kept | heads | {"sliding_window": attention.window}


@candidate
def llama(spec: ModelSpec) -> Config:
    """Full attention with any number of key/value heads."""
    attention, dense = spec.layers[0].attention, spec.layers[0].feed_forward
    biased = isinstance(dense, FeedForwardSpec) and dense.bias
    more = {"attention_bias": attention.qkv_bias, "mlp_bias": biased}
    return _config("LlamaForCausalLM", "llama", spec) | more


@candidate
def mistral(spec: ModelSpec) -> Config:
    """One window in all layers."""
    return _config("MistralForCausalLM", "mistral", spec) | {"sliding_window": spec.layers[0].attention.window}


@candidate
def mixtral(spec: ModelSpec) -> Config:
    """Experts in all layers, their weights renormalised, with a window or without."""
    config, mixture = _config("MixtralForCausalLM", "mixtral", spec), spec.layers[0].feed_forward
    config["sliding_window"] = spec.layers[0].attention.window
    if isinstance(mixture, ExpertsSpec):
        config |= {"num_local_experts": mixture.count, "num_experts_per_tok": mixture.active}
    return config


def _config(architecture: str, model_type: str, spec: ModelSpec) -> Config:
    """What Llama and its kin say alike, of the first layer; whether the others agree is seen on reading."""
    layer = spec.layers[0]
    attention, inner = layer.attention, layer.feed_forward
    expert = inner.expert if isinstance(inner, ExpertsSpec) else inner
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": spec.vocabulary,
        "hidden_size": spec.width,
        "intermediate_size": expert.width,
        "num_hidden_layers": len(spec.layers),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": ACTIVATIONS[expert.activation],
        "max_position_embeddings": spec.max_positions,
        "rms_norm_eps": layer.norm.epsilon,
        "tie_word_embeddings": spec.tied,
        "rope_parameters": _rope(attention.rope),
    }


def _rope(rope: RopeSpec | None) -> Config:
    if rope is None:
        return {}
    return {"rope_theta": rope.base, **({"rope_type": "default"} if rope.scaling is None else _scaling(rope.scaling))}


def _scaling(scaling: Rule) -> Config:
    values = {ROPE_NAMES.get(name, name): value for name, value in scaling.parameters}
    if scaling.name == "dynamic":  # its original length is the config's longest
        values.pop("original_max_position_embeddings", None)
    return {"rope_type": scaling.name, **{n: list(v) if isinstance(v, tuple) else v for n, v in values.items()}}
