"""A transformers model as a GGUF file, as llama.cpp's converter lays it out, names by the gguf package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor


def write_gguf(model: Any, architecture: str, path: Path, **changes: Any) -> Path:
    """The model in F32; `changes` are further keys (None removes one), `extra` further tensors by name, `tokenizer`
    the metadata of one."""
    config, extra = model.config, changes.pop("extra", {})
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in changes.pop("tokenizer", {}).items():
        add = writer.add_array if isinstance(value, list) else writer.add_string
        (writer.add_uint32 if isinstance(value, int) else add)(key, value)
    for key, value in {**_keys(config, architecture), **changes}.items():
        if isinstance(value, bool):
            writer.add_bool(f"{architecture}.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"{architecture}.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{architecture}.{key}", value)
        elif value is not None:
            writer.add_uint32(f"{architecture}.{key}", value)
    for name, tensor in [*_tensors(model, architecture), *extra.items()]:
        writer.add_tensor(name, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _keys(config: Any, architecture: str) -> dict[str, Any]:
    def first(*names: str) -> Any:
        return next((getattr(config, n) for n in names if getattr(config, n, None) is not None), None)

    heads = first("num_attention_heads", "n_head", "num_heads")
    width = first("hidden_size", "n_embd", "d_model")
    inner = first("intermediate_size", "ffn_hidden_size", "n_inner", "d_ff") or 4 * width
    moe = architecture == "qwen3moe"
    head_dim = first("head_dim", "d_kv") or width // heads
    keys = {
        "block_count": first("num_hidden_layers", "n_layer", "num_layers"),
        "context_length": first("max_position_embeddings", "n_positions") or 512,
        "embedding_length": width,
        "feed_forward_length": inner,
        "attention.head_count": heads,
        "attention.head_count_kv": _kv_heads(config) or heads,
        "attention.layer_norm_rms_epsilon": first("rms_norm_eps"),
        "attention.layer_norm_epsilon": first("layer_norm_epsilon", "layer_norm_eps"),
        "rope.freq_base": _base(config),
        "attention.sliding_window": config.sliding_window if getattr(config, "sliding_window", None) else None,
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
        "expert_count": first("num_local_experts", "num_experts"),
        "expert_used_count": first("num_experts_per_tok"),
        "expert_feed_forward_length": config.moe_intermediate_size if moe else None,
        "vocab_size": config.vocab_size,
    }
    if architecture == "t5":
        keys["attention.layer_norm_rms_epsilon"] = keys.pop("attention.layer_norm_epsilon")
        keys["attention.relative_buckets_count"] = config.relative_attention_num_buckets
        keys["decoder_start_token_id"] = config.decoder_start_token_id
        keys["decoder_block_count"] = config.num_decoder_layers
    if head_dim * heads != width or architecture == "t5":
        keys |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    return keys


def _kv_heads(config: Any) -> int | None:
    if config.model_type == "falcon":
        grouped = config.new_decoder_architecture
        return int(config.num_kv_heads if grouped else 1 if config.multi_query else config.num_attention_heads)
    return getattr(config, "num_key_value_heads", None)


def _base(config: Any) -> float | None:
    rope = getattr(config, "rope_parameters", None)
    if rope and "full_attention" in rope:
        rope = rope["full_attention"]
    return float(rope["rope_theta"]) if rope else None


def _tensors(model: Any, architecture: str) -> Iterator[tuple[str, Tensor]]:
    arch = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)
    config = model.config
    names = gguf.get_tensor_name_map(arch, 16)
    for name, tensor in model.state_dict().items():
        if name in _twice(config) or "rotary_emb" in name or "pooler" in name or name.endswith("position_ids"):
            continue
        for part, piece in _parts(name, tensor, config):
            found = names.get_name(part, try_suffixes=(".weight", ".bias"))
            assert found is not None, part
            yield found, _laid_out(part, piece, architecture, config)


def _twice(config: Any) -> set[str]:
    """Names under which a tied tensor stands a second time."""
    if config.model_type == "t5":
        shared = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
        return shared | ({"lm_head.weight"} if config.scale_decoder_outputs else set())
    return {"lm_head.weight"} if config.tie_word_embeddings else set()


def _parts(name: str, tensor: Tensor, config: Any) -> list[tuple[str, Tensor]]:
    """Fused experts apart: gate and up are stored each for itself."""
    if name.endswith("experts.gate_up_proj"):
        gate, up = tensor.chunk(2, dim=1)
        at = name.removesuffix("gate_up_proj")
        return [(f"{at}gate_proj.weight", gate), (f"{at}up_proj.weight", up)]
    if name.endswith("experts.down_proj"):
        return [(f"{name}.weight", tensor)]
    return [(name, tensor)]


def _laid_out(name: str, tensor: Tensor, architecture: str, config: Any) -> Tensor:
    if architecture == "llama" and name.split(".")[-2] in ("q_proj", "k_proj"):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)
    if architecture.startswith("gemma") and name.endswith("norm.weight"):
        return tensor + 1
    if architecture == "gpt2" and any(f"{conv}.weight" in name for conv in ("c_attn", "c_proj", "c_fc")):
        return tensor.T
    if architecture == "falcon" and "query_key_value" in name:
        kv_heads = _kv_heads(config) or 1
        grouped = tensor.reshape(kv_heads, -1, config.head_dim, *tensor.shape[1:])
        return torch.cat([grouped[:, :-2].flatten(0, 2), grouped[:, -2].flatten(0, 1), grouped[:, -1].flatten(0, 1)])
    return tensor
