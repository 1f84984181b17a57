"""What GGUF files call our parameters, an architecture a table (names: gguf's constants, `TENSOR_NAMES`)."""

from __future__ import annotations

from openbook.lm.weights.names import GGUF_LLAMA, NameTable

LLAMA = GGUF_LLAMA
QWEN = NameTable(
    GGUF_LLAMA.modules
    | {
        "layers.{i}.attention.query_norm": "blk.{i}.attn_q_norm",
        "layers.{i}.key_value.key_norm": "blk.{i}.attn_k_norm",
    },
    ignored=GGUF_LLAMA.ignored,
)
MOE = PHI3 = FALCON = GPT2 = BERT = T5 = QWEN
GEMMA = NameTable(
    QWEN.modules
    | {
        "layers.{i}.attention_post_norm": "blk.{i}.post_attention_norm",
        "layers.{i}.feed_forward_post_norm": "blk.{i}.post_ffw_norm",
    },
    ignored=GGUF_LLAMA.ignored,
)
