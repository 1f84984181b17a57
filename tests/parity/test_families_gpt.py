"""Falcon and GPT-2 against transformers, each feature switched on somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from families import assert_family_parity, built, pair

from openbook.errors import Fault
from openbook.lm.rules import rule

SIZES: dict[str, Any] = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FALCON = {**SIZES, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 64}
GPT2 = {**SIZES, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32}

GROUPED: dict[str, Any] = {"new_decoder_architecture": True, "num_kv_heads": 2}
FALCONS: dict[str, tuple[dict[str, Any], str, int]] = {
    "7B": ({}, "parallel_one_norm", 1),
    "7B with biases": ({"bias": True, "ffn_hidden_size": 24}, "parallel_one_norm", 1),
    "7B with ALiBi": ({"alibi": True}, "parallel_one_norm", 1),
    "7B of plain heads": ({"multi_query": False}, "parallel_one_norm", 4),
    "40B": (GROUPED, "parallel", 2),
    "40B with biases": ({**GROUPED, "bias": True}, "parallel", 2),
    "11B": ({**GROUPED, "num_ln_in_parallel_attn": 1}, "parallel_one_norm", 2),
    "RW": ({"multi_query": False, "parallel_attn": False, "bias": True, "alibi": True}, "pre", 4),
    "scaled": ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e3}}, "parallel_one_norm", 1),
    "not tied": ({"tie_word_embeddings": False, "activation": "gelu_pytorch_tanh"}, "parallel_one_norm", 1),
}


@pytest.mark.parametrize("name", FALCONS)
def test_falcon(name: str, tmp_path: Path) -> None:
    changes, place, kv_heads = FALCONS[name]
    spec = assert_family_parity(hf.FalconForCausalLM, hf.FalconConfig(**FALCON | changes), tmp_path)
    layer = spec.layers[0]
    assert (layer.place, layer.attention.kv_heads) == (place, kv_heads)
    assert layer.attention.bias == (rule("alibi", scale=0.5) if changes.get("alibi") else None)
    assert (layer.attention.rope is None) == bool(changes.get("alibi"))


GPT2S: dict[str, dict[str, Any]] = {
    "as it was": {},
    "scales that fall by layer": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "no scale, not tied": {"scale_attn_weights": False, "tie_word_embeddings": False},
    "another MLP": {"n_inner": 24, "activation_function": "relu", "layer_norm_epsilon": 1e-2},
}


@pytest.mark.parametrize("name", GPT2S)
def test_gpt2(name: str, tmp_path: Path) -> None:
    spec = assert_family_parity(hf.GPT2LMHeadModel, hf.GPT2Config(**GPT2 | GPT2S[name]), tmp_path)
    scales = [layer.attention.scale for layer in spec.layers]
    expected = {"scales that fall by layer": [0.5, 0.25, 0.5 / 3], "no scale, not tied": [1.0] * 3}
    assert scales == expected.get(name, [0.5] * 3)


def test_a_text_past_the_learned_positions_is_refused(tmp_path: Path) -> None:
    _, checkpoint = pair(hf.GPT2LMHeadModel, hf.GPT2Config(**GPT2), tmp_path)
    decoder = built(checkpoint)
    assert decoder(torch.ones(1, 32, dtype=torch.long)).shape == (1, 32, 40)
    with pytest.raises(Fault, match="longer than the 32 positions"):
        decoder(torch.ones(1, 33, dtype=torch.long))
