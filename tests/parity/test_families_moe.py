"""Mixtral, Qwen3-MoE and OLMoE against transformers, from both layouts of experts in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from families import assert_decoder_parity, assert_family_parity, built, pair, tiny
from safetensors.torch import save_file

from openbook.lm.spec import ExpertsSpec
from openbook.lm.weights.checkpoint import open_checkpoint

CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "Mixtral": (hf.MixtralForCausalLM, hf.MixtralConfig, {"num_local_experts": 4}),
    "Mixtral with a window": (
        hf.MixtralForCausalLM,
        hf.MixtralConfig,
        {"num_local_experts": 5, "head_dim": 8, "sliding_window": 5, "tie_word_embeddings": True},
    ),
    "Qwen3-MoE": (
        hf.Qwen3MoeForCausalLM,
        hf.Qwen3MoeConfig,
        {"num_experts": 4, "moe_intermediate_size": 8, "norm_topk_prob": True, "attention_bias": True, "head_dim": 8},
    ),
    "Qwen3-MoE, every other layer, windows": (
        hf.Qwen3MoeForCausalLM,
        hf.Qwen3MoeConfig,
        {
            "num_experts": 4,
            "moe_intermediate_size": 8,
            "decoder_sparse_step": 2,
            "use_sliding_window": True,
            "sliding_window": 4,
        },
    ),
    "Qwen3-MoE, some layers dense": (
        hf.Qwen3MoeForCausalLM,
        hf.Qwen3MoeConfig,
        {"num_experts": 4, "moe_intermediate_size": 8, "mlp_only_layers": [0, 2]},
    ),
    "OLMoE": (hf.OlmoeForCausalLM, hf.OlmoeConfig, {"num_experts": 4}),
    "OLMoE, renormalised, biased": (
        hf.OlmoeForCausalLM,
        hf.OlmoeConfig,
        {"num_experts": 6, "num_experts_per_tok": 3, "norm_topk_prob": True, "attention_bias": True},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_mixture(name: str, tmp_path: Path) -> None:
    kind, make, changes = CASES[name]
    config = make(**tiny(**{"num_experts_per_tok": 2, **changes}))
    spec = assert_family_parity(kind, config, tmp_path)
    sparse = [isinstance(layer.feed_forward, ExpertsSpec) for layer in spec.layers]
    expected = {"every other": [False, True, False], "some layers": [False, True, False]}
    assert sparse == next((layers for words, layers in expected.items() if words in name), [True] * 3)


@pytest.mark.parametrize("name", CASES)
def test_experts_stored_together(name: str, tmp_path: Path) -> None:
    """The layout that transformers has in memory: one tensor of all experts, gate above up."""
    kind, make, changes = CASES[name]
    oracle, _ = pair(kind, make(**tiny(**{"num_experts_per_tok": 2, **changes})), tmp_path)
    fused = {key: value.contiguous() for key, value in oracle.state_dict().items()}
    if oracle.config.tie_word_embeddings:
        del fused["lm_head.weight"]
    assert any(key.endswith("experts.gate_up_proj") for key in fused)
    save_file(fused, tmp_path / "model.safetensors")
    decoder = built(open_checkpoint(tmp_path))
    with torch.inference_mode():
        assert_decoder_parity(decoder, oracle, chunks=[(7, 9)])
