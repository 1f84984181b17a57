"""The configs of released models carry fields of their day: each is read as transformers reads it, or refused by name.

Written from the models' own files; each is a first of its family with what others say otherwise.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import transformers as hf

from openbook.errors import Fault
from openbook.lm.spec import ModelSpec
from openbook.lm.weights.config import spec_from_config

Config = dict[str, Any]
DAY: Config = {"torch_dtype": "bfloat16", "transformers_version": "4.38", "use_cache": True, "initializer_range": 0.02}
LLAMA: Config = DAY | {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 4096,
    "intermediate_size": 11008, "num_attention_heads": 32, "num_hidden_layers": 32, "pad_token_id": -1,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "vocab_size": 32000,
}  # fmt: skip
LLAMA31: Config = LLAMA | {
    "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": [128001, 128008, 128009],
    "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": False, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rope_theta": 500000.0, "vocab_size": 128256,
    "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3",
                     "original_max_position_embeddings": 8192},
}  # fmt: skip
QWEN3: Config = DAY | {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0,
    "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
    "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1e6, "sliding_window": None,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
GEMMA2: Config = DAY | {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": False, "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 3584,
    "intermediate_size": 14336, "max_position_embeddings": 8192, "num_attention_heads": 16, "num_hidden_layers": 42,
    "num_key_value_heads": 8, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "sliding_window": 4096, "sliding_window_size": 4096, "vocab_size": 256000,
}  # fmt: skip
PHI3: Config = DAY | {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "embd_pdrop": 0.0, "hidden_act": "silu",
    "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 24,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "original_max_position_embeddings": 4096, "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": 262144, "vocab_size": 200064, "pad_token_id": 199999,
}  # fmt: skip
PHI4_MINI: Config = PHI3 | {
    "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False,
    "partial_rotary_factor": 0.75, "tie_word_embeddings": True,
    "rope_scaling": {"type": "longrope", "long_factor": [1.0 + i for i in range(48)], "short_factor": [1.0] * 48},
}  # fmt: skip
FALCON: Config = DAY | {
    "architectures": ["FalconForCausalLM"], "model_type": "falcon", "alibi": False, "bias": False,
    "apply_residual_connection_post_layernorm": False, "attention_dropout": 0.0, "hidden_dropout": 0.0,
    "hidden_size": 8192, "layer_norm_epsilon": 1e-5, "multi_query": True, "new_decoder_architecture": True,
    "num_attention_heads": 128, "num_hidden_layers": 60, "num_kv_heads": 8, "parallel_attn": True, "vocab_size": 65024,
}  # fmt: skip
GPT2: Config = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new", "attn_pdrop": 0.1,
    "embd_pdrop": 0.1, "initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "n_ctx": 1024, "n_embd": 1024,
    "n_head": 16, "n_layer": 24, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
    "summary_use_proj": True, "vocab_size": 50257,
}  # fmt: skip
BERT: Config = {
    "architectures": ["BertForMaskedLM"], "model_type": "bert", "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02,
    "intermediate_size": 3072, "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "num_attention_heads": 12,
    "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2,
    "vocab_size": 30522,
}  # fmt: skip
ROBERTA: Config = BERT | {
    "architectures": ["RobertaForMaskedLM"], "model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1,
    "layer_norm_eps": 1e-5, "type_vocab_size": 1, "vocab_size": 50265,
}  # fmt: skip
DISTILBERT: Config = {
    "architectures": ["DistilBertForMaskedLM"], "model_type": "distilbert", "activation": "gelu",
    "attention_dropout": 0.1, "dim": 768, "dropout": 0.1, "hidden_dim": 3072, "initializer_range": 0.02,
    "max_position_embeddings": 512, "n_heads": 12, "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 30522,
}  # fmt: skip
BART: Config = {
    "architectures": ["BartModel"], "model_type": "bart", "activation_dropout": 0.1, "activation_function": "gelu",
    "add_bias_logits": False, "add_final_layer_norm": False, "classif_dropout": 0.1, "d_model": 768,
    "decoder_attention_heads": 12, "decoder_ffn_dim": 3072, "decoder_layers": 6, "decoder_start_token_id": 2,
    "encoder_attention_heads": 12, "encoder_ffn_dim": 3072, "encoder_layers": 6, "forced_eos_token_id": 2,
    "init_std": 0.02, "is_encoder_decoder": True, "max_position_embeddings": 1024, "no_repeat_ngram_size": 3,
    "normalize_before": False, "normalize_embedding": True, "num_beams": 4, "num_hidden_layers": 6,
    "scale_embedding": False, "vocab_size": 50265, "eos_token_id": 2, "pad_token_id": 1, "bos_token_id": 0,
}  # fmt: skip
T5: Config = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_ff": 2048, "d_kv": 64, "d_model": 512,
    "decoder_start_token_id": 0, "dropout_rate": 0.1, "initializer_factor": 1.0, "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-6, "num_heads": 8, "num_layers": 6, "output_past": True,
    "relative_attention_num_buckets": 32, "vocab_size": 32128, "n_positions": 512,
}  # fmt: skip
GATED: Config = {"d_ff": 1024, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 6, "tie_word_embeddings": False}

RELEASED: dict[str, tuple[Any, Config]] = {
    "Llama 1 7B": (hf.LlamaConfig, LLAMA | {"max_sequence_length": 2048}),
    "Llama 3.1 8B": (hf.LlamaConfig, LLAMA31),
    "SmolLM2, saved again": (
        hf.LlamaConfig,
        LLAMA31 | {"_attn_implementation_autoset": True, "is_llama_config": True, "rope_interleaved": False,
                   "rope_scaling": None, "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}},
    ),
    "Falcon 3 1B": (hf.LlamaConfig, LLAMA31 | {"activation": "swiglu", "rope_scaling": None, "rope_theta": 1000042}),
    "Qwen3 0.6B": (hf.Qwen3Config, QWEN3),
    "Qwen3, lengthened": (
        hf.Qwen3Config,
        QWEN3 | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
    ),
    "Gemma 2 9B": (hf.Gemma2Config, GEMMA2),
    "Gemma 2 27B": (
        hf.Gemma2Config,
        GEMMA2 | {"_attn_implementation": "eager", "head_dim": 128, "hidden_size": 4608, "num_attention_heads": 32,
                  "num_hidden_layers": 46, "num_key_value_heads": 16, "query_pre_attn_scalar": 144},
    ),
    "Phi-3 mini 4k": (
        hf.Phi3Config,
        PHI3 | {"max_position_embeddings": 4096, "rope_scaling": None, "sliding_window": 2047,
                "tie_word_embeddings": False},
    ),
    "Phi-4 mini": (hf.Phi3Config, PHI4_MINI),
    "Falcon 40B": (hf.FalconConfig, FALCON),
    "Falcon 2 11B": (
        hf.FalconConfig,
        FALCON | {"activation": "gelu", "ff_factor": 4, "max_position_embeddings": 8192, "rope_theta": 500042,
                  "num_ln_in_parallel_attn": 1},
    ),
    "Falcon RW 1B": (
        hf.FalconConfig,
        {k: v for k, v in FALCON.items() if k != "num_kv_heads"}
        | {"alibi": True, "bias": True, "hidden_size": 2048, "multi_query": False, "new_decoder_architecture": False,
           "num_attention_heads": 32, "num_hidden_layers": 24, "parallel_attn": False, "vocab_size": 50304},
    ),
    "GPT-2 medium": (hf.GPT2Config, GPT2 | {"n_special": 0, "predict_special_tokens": True}),
    "GPT-2 XL": (hf.GPT2Config, GPT2 | {"n_embd": 1600, "n_head": 25, "n_layer": 48, "output_past": True}),
    "DistilGPT2": (hf.GPT2Config, GPT2 | {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "n_layer": 6}),
    "bert-base-uncased": (hf.BertConfig, BERT),
    "bge-small-en": (hf.BertConfig, BERT | {"architectures": ["BertModel"], "classifier_dropout": None}),
    "xlm-roberta-base": (
        hf.XLMRobertaConfig,
        ROBERTA | {"architectures": ["XLMRobertaForMaskedLM"], "model_type": "xlm-roberta", "output_past": True},
    ),
    "a model trained on TPUs": (hf.RobertaConfig, ROBERTA | {"xla_device": True, "eos_token_ids": 2}),
    "distilbert-base-uncased": (hf.DistilBertConfig, DISTILBERT),
    "distilbert-sst2": (
        hf.DistilBertConfig,
        DISTILBERT | {"architectures": ["DistilBertForSequenceClassification"], "finetuning_task": "sst-2",
                      "id2label": {"0": "NEGATIVE", "1": "POSITIVE"}, "output_past": True},
    ),
    "bart-base": (hf.BartConfig, BART),
    "distilbart": (
        hf.BartConfig,
        BART | {"architectures": ["BartForConditionalGeneration"], "_num_labels": 3, "extra_pos_embeddings": 2,
                "force_bos_token_to_be_generated": True, "output_past": True, "prefix": " ", "replacing_rate": 0,
                "save_step": 49, "static_position_embeddings": False, "student_decoder_layers": None},
    ),
    "t5-small": (hf.T5Config, T5),
    "flan-t5": (hf.T5Config, T5 | GATED | {"dense_act_fn": "gelu_new", "is_gated_act": True}),
    "mt5-small": (hf.MT5Config, T5 | GATED | {"architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5"}),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_config_is_read_as_transformers_reads_it(name: str) -> None:
    make, config = RELEASED[name]
    theirs = json.loads(make.from_dict(config).to_json_string())
    assert spec_from_config(config) == spec_from_config(theirs | {"architectures": config["architectures"]})


def test_a_part_of_a_head_turns_in_phi_4_mini() -> None:
    spec = spec_from_config(PHI4_MINI)
    assert isinstance(spec, ModelSpec) and spec.layers[0].attention.rope is not None
    assert (spec.layers[0].attention.head_dim, spec.layers[0].attention.rope.dims) == (128, 96)


REFUSED: dict[str, tuple[Config, str]] = {
    "GPTQ": (LLAMA31 | {"quantization_config": {"quant_method": "gptq"}}, r"quantised \('gptq'\).*take the checkpoint"),
    "a million tokens": (
        QWEN3 | {"dual_chunk_attention_config": {"chunk_size": 262144}},
        "dual_chunk_attention_config",
    ),
    "another window": (GEMMA2 | {"sliding_window_size": 2048}, "sliding_window_size is 2048"),
    "another length": (LLAMA | {"max_sequence_length": 4096}, "max_sequence_length is 4096"),
    "another width": (FALCON | {"ff_factor": 2}, "ff_factor is 2"),
    "interpolated": (PHI4_MINI | {"interpolate_factor": 2}, "interpolate_factor is 2"),
    "more tokens": (GPT2 | {"n_special": 3}, "n_special is 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_change_the_arithmetic_is_refused_by_name(name: str) -> None:
    config, said = REFUSED[name]
    with pytest.raises(Fault, match=said):
        spec_from_config(config)
