"""Every field of every family's config set to absurd values: a spec that can be, or a `Fault` of one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
import transformers as hf

from openbook.errors import Fault
from openbook.lm.spec import ModelSpec
from openbook.lm.weights.config import FAMILIES, architecture_of, spec_from_config
from openbook.lm.weights.parameters import parameters

ABSURD: list[Any] = [
    None, True, False, 0, 1, 3, -1, 2**31 + 1, 2**70, 1.5, -0.0, 1e308, float("nan"), float("inf"), "", "x", "7",
    [], [0], ["full_attention"], {}, {"a": 1}, {"rope_type": "yarn"}, {"rope_type": 3, "factor": []},
]  # fmt: skip
SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "n_embd": 16, "n_layer": 2, "n_head": 4, "dim": 16, "n_layers": 2, "n_heads": 4,
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "num_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "head_dim": 4, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "pad_token_id": 0,
}  # fmt: skip


def config_of(architecture: str) -> dict[str, Any]:
    """What transformers writes for a small model of this class."""
    kind = getattr(hf, architecture).config_class
    known = kind().to_dict()
    config = kind(**{name: value for name, value in SMALL.items() if name in known and known[name] is not None})
    written: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {**written, "architectures": [architecture], "decoder_start_token_id": 0}


def families() -> list[str]:
    """One class of each family."""
    architecture_of({"architectures": ["LlamaForCausalLM"]})  # registers them
    seen: dict[int, str] = {}
    for name, family in FAMILIES.items():
        if not name.startswith("Openbook"):
            seen.setdefault(id(family), name)
    return list(seen.values())


@pytest.mark.parametrize("architecture", families())
def test_any_absurd_field(architecture: str) -> None:
    config = config_of(architecture)
    assert sane(spec_from_config(config))
    outcomes = {"spec": 0, "fault": 0}
    for name in sorted({*config, "head_dim", "rope_scaling", "rope_theta", "layer_types"}):
        for value in ABSURD:
            try:
                assert sane(spec_from_config({**config, name: value})), (name, value)
                outcomes["spec"] += 1
            except Fault as fault:
                assert "\n" not in str(fault) and len(str(fault)) < 2000
                outcomes["fault"] += 1
    assert min(outcomes.values()) > 50


def sane(spec: Any) -> bool:
    """Whether the sizes of a spec are whole numbers of 1 or more that its shapes can be made of."""
    stacks = [spec] if isinstance(spec, ModelSpec) else [spec.encoder, spec.decoder]
    small = all(len(stack.layers) <= 4096 for stack in stacks)
    return small and all(type(size) is int and size >= 1 for shape in parameters(spec).values() for size in shape)
