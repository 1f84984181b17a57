"""No field of a config is passed over: each is understood as transformers understands it, or refused.

Three laws, for every family: what a config leaves out means what transformers takes it to mean; a changed field that
we accept changes our model as it changes theirs; the configs of released models, as they were written, are read as
transformers reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from families import built, near, pair, randomise, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.errors import Fault
from openbook.lm.weights.config import spec_from_config

GATED = tiny(head_dim=4)
EXPERTS = {"num_experts_per_tok": 2}
LOCAL, GLOBAL = "sliding_attention", "full_attention"
PLAIN = {**{k: v for k, v in tiny().items() if k not in ("intermediate_size", "num_key_value_heads")}}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0], "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}

MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "Llama": (hf.LlamaForCausalLM, hf.LlamaConfig, GATED),
    "Llama, yarn": (hf.LlamaForCausalLM, hf.LlamaConfig, {**GATED, "rope_parameters": YARN}),
    "Mistral": (hf.MistralForCausalLM, hf.MistralConfig, {**GATED, "sliding_window": 4}),
    "Qwen2": (
        hf.Qwen2ForCausalLM,
        hf.Qwen2Config,
        tiny(use_sliding_window=True, sliding_window=4, max_window_layers=1),
    ),
    "Qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3Config, GATED),
    "Phi3": (
        hf.Phi3ForCausalLM,
        hf.Phi3Config,
        tiny(sliding_window=5, original_max_position_embeddings=8, rope_parameters=LONG),
    ),
    "Mixtral": (hf.MixtralForCausalLM, hf.MixtralConfig, {**GATED, **EXPERTS, "num_local_experts": 4}),
    "Qwen3Moe": (
        hf.Qwen3MoeForCausalLM,
        hf.Qwen3MoeConfig,
        {**GATED, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 8},
    ),
    "Olmoe": (hf.OlmoeForCausalLM, hf.OlmoeConfig, tiny(**EXPERTS, num_experts=4)),
    "Gemma": (hf.GemmaForCausalLM, hf.GemmaConfig, GATED),
    "Gemma2": (hf.Gemma2ForCausalLM, hf.Gemma2Config, {**GATED, "sliding_window": 4}),
    "Gemma3": (hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, {**GATED, "sliding_window": 4}),
    "Falcon": (hf.FalconForCausalLM, hf.FalconConfig, PLAIN),
    "Falcon, grouped": (
        hf.FalconForCausalLM,
        hf.FalconConfig,
        {**PLAIN, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "GPT2": (
        hf.GPT2LMHeadModel,
        hf.GPT2Config,
        {"vocab_size": 40, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32, "eos_token_id": 2},
    ),
}


def written(kind: Any, config: Any) -> dict[str, Any]:
    """The config.json of a checkpoint."""
    return {**json.loads(config.to_json_string()), "architectures": [kind.__name__]}


@given(name=st.sampled_from(sorted(MODELS)), data=st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_left_out_means_what_transformers_takes_it_to_mean(name: str, data: st.DataObject) -> None:
    kind, make, changes = MODELS[name]
    fields = written(kind, make(**changes))
    dropped = data.draw(st.sets(st.sampled_from(sorted(set(fields) - {"architectures"})), max_size=6))
    given_ = {field: value for field, value in fields.items() if field not in dropped}
    ours = outcome(given_)
    # We do not guess sizes, and refuse two lengths that contradict each other.
    careful = isinstance(ours, str) and ("is missing" in ours or "original_max_position_embeddings" in ours)
    assert careful or ours == outcome(written(kind, make.from_dict(given_)))


def outcome(config: dict[str, Any]) -> Any:
    """The spec of a config, or why there is none."""
    try:
        return spec_from_config(config)
    except Fault as fault:
        return str(fault)


def others(value: Any) -> list[Any]:
    """Other values for a field of this kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value * 2, value + 1, 1]
    if isinstance(value, float):
        return [value * 1.5 + 0.1]
    if isinstance(value, str):
        return ["relu", "gelu"]
    if isinstance(value, list):
        return [value[::-1], value[:1]]
    return [True, 2, 0.5, [1]] if value is None else []


@pytest.mark.parametrize("name", MODELS)
def test_a_field_that_we_accept_means_what_it_means_to_transformers(name: str, tmp_path: Path) -> None:
    kind, make, changes = MODELS[name]
    fields = written(kind, make(**changes))
    base, accepted = spec_from_config(fields), 0
    before = logits(kind, make.from_dict(fields))
    cases = [(field, {**fields, field: other}) for field in fields for other in others(fields[field])]
    for key, value in (fields.get("rope_parameters") or {}).items():
        cases += [(key, {**fields, "rope_parameters": {**fields["rope_parameters"], key: o}}) for o in others(value)]
    for index, (field, changed) in enumerate(cases):
        try:
            spec = spec_from_config(changed)
        except Fault:
            continue
        try:
            config = make.from_dict(json.loads(json.dumps(changed)))
            after = logits(kind, config)
        except Exception:  # noqa: S112 - a value that transformers itself does not take
            continue
        accepted += 1
        if spec == base:
            near(after, before, 0.0, f"{field} = {changed.get(field)!r} is taken as harmless")
        elif spec.vocabulary == base.vocabulary and len(spec.layers) == len(base.layers):
            _, checkpoint = pair(kind, config, tmp_path / str(index))
            assert checkpoint.spec == spec, f"{field} is not written as it was read"
            with torch.inference_mode():
                near(built(checkpoint)(tokens()), after, 1e-4, f"{field} = {changed.get(field)!r}")
    assert accepted > 10


# As they were written, in the words of the transformers of their day; sizes are the real ones.
GEMMA3_1B = {
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attn_logit_softcapping": None, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
    "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
    "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 32768,
    "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
    "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0", "use_cache": True, "vocab_size": 262144,
}  # fmt: skip
RELEASED: dict[str, tuple[Any, dict[str, Any]]] = {
    "Llama 3.2 1B": (hf.LlamaConfig, {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256,
    }),
    "Mistral 7B": (hf.MistralConfig, {
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0", "use_cache": True, "vocab_size": 32000,
    }),
    "Mixtral 8x7B": (hf.MixtralConfig, {
        "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32,
        "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "output_router_logits": False, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32000,
    }),
    "Qwen2.5 0.5B": (hf.Qwen2Config, {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2",
        "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "use_cache": True, "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
    }),
    "Qwen3 30B-A3B": (hf.Qwen3MoeConfig, {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960,
        "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
        "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": None,
        "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 151936,
    }),
    "OLMoE 1B-7B": (hf.OlmoeConfig, {
        "architectures": ["OlmoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None,
        "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
        "intermediate_size": 1024, "max_position_embeddings": 4096, "model_type": "olmoe", "norm_topk_prob": False,
        "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 16,
        "num_key_value_heads": 16, "output_router_logits": False, "pad_token_id": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "tie_word_embeddings": False,
        "vocab_size": 50304,
    }),
    "Gemma 2 2B": (hf.Gemma2Config, {
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": 1,
        "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02,
        "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2",
        "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0,
        "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096,
        "torch_dtype": "float32", "use_cache": True, "vocab_size": 256000,
    }),
    "Gemma 3 1B": (hf.Gemma3TextConfig, GEMMA3_1B),
    "Gemma 3, scaled": (hf.Gemma3TextConfig, {**GEMMA3_1B, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}),
    "Phi-3.5 mini": (hf.Phi3Config, {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "bos_token_id": 1, "embd_pdrop": 0.0,
        "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02,
        "intermediate_size": 8192, "max_position_embeddings": 131072, "model_type": "phi3",
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096, "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": [1.08 + i for i in range(48)], "type": "longrope",
                         "short_factor": [1.0 + i / 50 for i in range(48)]},
        "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False, "vocab_size": 32064,
    }),
    "Falcon 7B": (hf.FalconConfig, {
        "alibi": False, "apply_residual_connection_post_layernorm": False, "architectures": ["FalconForCausalLM"],
        "attention_dropout": 0.0, "auto_map": {"AutoConfig": "configuration_falcon.FalconConfig"}, "bias": False,
        "bos_token_id": 11, "eos_token_id": 11, "hidden_dropout": 0.0, "hidden_size": 4544,
        "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "falcon", "multi_query": True,
        "new_decoder_architecture": False, "num_attention_heads": 71, "num_hidden_layers": 32, "parallel_attn": True,
        "torch_dtype": "bfloat16", "transformers_version": "4.27.4", "use_cache": True, "vocab_size": 65024,
    }),
    "GPT-2": (hf.GPT2Config, {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
        "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_configs_are_read_as_transformers_reads_them(name: str) -> None:
    make, config = RELEASED[name]
    kind = getattr(hf, config["architectures"][0])
    assert spec_from_config(config) == spec_from_config(written(kind, make.from_dict(config)))


def tokens() -> torch.Tensor:
    return torch.randint(0, 20, (1, 16), generator=torch.Generator().manual_seed(0))


def logits(kind: Any, config: Any) -> torch.Tensor:
    """What transformers says of some tokens, with weights that depend on their shapes alone."""
    oracle = kind(config).eval()
    oracle.set_attn_implementation("eager")
    randomise(oracle)
    with torch.inference_mode():
        result: torch.Tensor = oracle(tokens(), use_cache=False).logits
    return result
