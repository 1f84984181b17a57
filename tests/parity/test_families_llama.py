"""Llama, Mistral, Qwen 2 and 3, Phi-3 against transformers, each feature switched on somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from families import assert_family_parity, tiny

from openbook.lm.rules import rule
from openbook.lm.spec import QKNormSpec

ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 500_000.0},
    "linear": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
        "rope_theta": 500.0,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16},
    "yarn, its own ramp": {
        "rope_type": "yarn",
        "factor": 4.0,
        "rope_theta": 100.0,
        "beta_fast": 4,
        "beta_slow": 0.5,
        "truncate": False,
        "mscale": 0.7,
        "mscale_all_dim": 0.3,
        "original_max_position_embeddings": 32,
    },
    "yarn, its own factor of tables": {
        "rope_type": "yarn",
        "factor": 2.0,
        "rope_theta": 1e4,
        "attention_factor": 1.3,
        "original_max_position_embeddings": 32,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.5, 2.0, 1.1],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 8,
        "rope_theta": 1e4,
    },
    "longrope, short": {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.5, 2.0, 1.1],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 32,
        "attention_factor": 1.1,
        "rope_theta": 1e4,
    },
}


@pytest.mark.parametrize("name", ROPES)
def test_every_rope(name: str, tmp_path: Path) -> None:
    """Eight dimensions a head; a dynamic one is stretched from eight positions on, so within the 16 of the test."""
    longest = 8 if name == "dynamic" else 64
    config = hf.LlamaConfig(**tiny(head_dim=8, max_position_embeddings=longest, rope_parameters=ROPES[name]))
    assert_family_parity(hf.LlamaForCausalLM, config, tmp_path)


LLAMAS: dict[str, dict[str, Any]] = {
    "MHA": {"num_key_value_heads": 4},
    "MQA, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "another head": {"head_dim": 6, "hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-2},
}


@pytest.mark.parametrize("name", LLAMAS)
def test_llama(name: str, tmp_path: Path) -> None:
    assert_family_parity(hf.LlamaForCausalLM, hf.LlamaConfig(**tiny(**LLAMAS[name])), tmp_path)


@pytest.mark.parametrize("window", [None, 1, 4, 6, 64])
def test_mistral_has_a_window_that_counts_the_query(window: int | None, tmp_path: Path) -> None:
    config = hf.MistralConfig(**tiny(sliding_window=window, head_dim=8))
    spec = assert_family_parity(hf.MistralForCausalLM, config, tmp_path)
    assert {layer.attention.window for layer in spec.layers} == {window}


def test_qwen2_has_biases_and_windows_from_a_layer_on(tmp_path: Path) -> None:
    config = hf.Qwen2Config(**tiny(use_sliding_window=True, sliding_window=4, max_window_layers=1))
    spec = assert_family_parity(hf.Qwen2ForCausalLM, config, tmp_path / "windows")
    assert [layer.attention.window for layer in spec.layers] == [None, 4, 4]
    attention = spec.layers[0].attention
    assert attention.qkv_bias and not attention.out_bias
    spec = assert_family_parity(
        hf.Qwen2ForCausalLM, hf.Qwen2Config(**tiny(tie_word_embeddings=True)), tmp_path / "none"
    )
    assert [layer.attention.window for layer in spec.layers] == [None] * 3


def test_qwen3_norms_each_head(tmp_path: Path) -> None:
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    changes: list[dict[str, Any]] = [
        {"head_dim": 8, "attention_bias": True},
        {"head_dim": 4, "use_sliding_window": True, "sliding_window": 5, "layer_types": types},
    ]
    for index, change in enumerate(changes):
        config = hf.Qwen3Config(**tiny(**change))
        spec = assert_family_parity(hf.Qwen3ForCausalLM, config, tmp_path / str(index))
        assert spec.layers[0].attention.qk_norm == QKNormSpec(spec.layers[0].norm)
    assert [layer.attention.window for layer in spec.layers] == [5, None, 5]


LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0], "rope_theta": 1e4}
PHIS: dict[str, dict[str, Any]] = {
    "a window": {"sliding_window": 5},
    "MHA, tied": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "longrope": {"original_max_position_embeddings": 8, "rope_parameters": LONG},
    "longrope, short": {"original_max_position_embeddings": 32, "rope_parameters": LONG},
    "a part of a head": {"hidden_size": 32, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.75}},
    "both": {
        "hidden_size": 32,
        "original_max_position_embeddings": 8,
        "rope_parameters": {**LONG, "partial_rotary_factor": 0.5},
    },
}


@pytest.mark.parametrize("name", PHIS)
def test_phi3(name: str, tmp_path: Path) -> None:
    spec = assert_family_parity(hf.Phi3ForCausalLM, hf.Phi3Config(**tiny(**PHIS[name])), tmp_path)
    rope = spec.layers[0].attention.rope
    assert rope is not None and rope.dims == {"a part of a head": 6, "both": 4}.get(name)
    assert rope.scaling is None or rope.scaling == rule(
        "longrope",
        short=(1.0, 1.5),
        long=(2.0, 3.0),
        original=PHIS[name]["original_max_position_embeddings"],
        table_factor=rope.scaling["table_factor"],
    )
