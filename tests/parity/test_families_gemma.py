"""Gemma 1, 2 and 3 against transformers, each feature switched on somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers as hf
from families import assert_family_parity, tiny

from openbook.lm.rules import rule
from openbook.lm.spec import RopeSpec

LOCAL, GLOBAL = "sliding_attention", "full_attention"


@pytest.mark.parametrize("change", [{}, {"attention_bias": True, "num_key_value_heads": 1, "hidden_act": "gelu"}])
def test_gemma1(change: dict[str, Any], tmp_path: Path) -> None:
    spec = assert_family_parity(hf.GemmaForCausalLM, hf.GemmaConfig(**tiny(head_dim=8, **change)), tmp_path)
    assert spec.tied and spec.embedding_scale == 4 and spec.layers[0].norm.offset == 1


GEMMA2: dict[str, dict[str, Any]] = {
    "caps that bite": {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 3},
    "no caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
    "a pattern of its own": {"layer_types": [GLOBAL, GLOBAL, LOCAL], "tie_word_embeddings": False},
}


@pytest.mark.parametrize("name", GEMMA2)
def test_gemma2(name: str, tmp_path: Path) -> None:
    config = hf.Gemma2Config(**tiny(head_dim=8, sliding_window=5, **GEMMA2[name]))
    spec = assert_family_parity(hf.Gemma2ForCausalLM, config, tmp_path)
    expected = [None, None, 5] if "layer_types" in GEMMA2[name] else [5, None, 5]
    assert [layer.attention.window for layer in spec.layers] == expected


def test_gemma3_five_local_layers_to_a_global_one(tmp_path: Path) -> None:
    config = hf.Gemma3TextConfig(
        **tiny(head_dim=8, num_hidden_layers=7, num_key_value_heads=1, sliding_window=4, final_logit_softcapping=3.0)
    )
    spec = assert_family_parity(hf.Gemma3ForCausalLM, config, tmp_path)
    assert [layer.attention.window for layer in spec.layers] == [4, 4, 4, 4, 4, None, 4]
    ropes = [layer.attention.rope for layer in spec.layers]
    assert ropes[5] == RopeSpec(1e6) and ropes[0] == ropes[6] == RopeSpec(10_000.0)


def test_gemma3_scales_the_global_rope_alone(tmp_path: Path) -> None:
    config = hf.Gemma3TextConfig(
        **tiny(
            head_dim=8,
            sliding_window=6,
            layer_types=[LOCAL, GLOBAL, LOCAL],
            query_pre_attn_scalar=5,
            attention_bias=True,
            tie_word_embeddings=False,
            rope_parameters={
                GLOBAL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                LOCAL: {"rope_type": "default", "rope_theta": 100.0},
            },
        )
    )
    spec = assert_family_parity(hf.Gemma3ForCausalLM, config, tmp_path)
    ropes = [layer.attention.rope for layer in spec.layers]
    assert ropes == [RopeSpec(100.0), RopeSpec(1000.0, rule("linear", factor=8.0)), RopeSpec(100.0)]
