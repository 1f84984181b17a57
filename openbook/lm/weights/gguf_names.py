"""What GGUF files call our parameters, an architecture a table (names: `TENSOR_NAMES` of the gguf package)."""

from __future__ import annotations

from openbook.lm.weights.names import GGUF, GGUF_LLAMA, NameTable
from openbook.lm.weights.recipes import GATE_UP, QKV, Either, PerExpert, Rows, Value, fused


def _extended(more: dict[str, Value], table: NameTable = GGUF, tensors: dict[str, Value] | None = None) -> NameTable:
    return NameTable({**table.modules, **more}, ignored=table.ignored, tensors=tensors or {})


def _bank(name: str) -> Value:
    """One tensor for all experts; files of early 2024 have one for each."""
    return Either(f"blk.{{i}}.ffn_{name}_exps.weight", PerExpert(f"blk.{{i}}.ffn_{name}.{{e}}.weight"))


BANKS: dict[str, Value] = {f"layers.{{i}}.feed_forward.{name}": _bank(name) for name in ("gate", "up", "down")}
ROUTER: dict[str, Value] = {"layers.{i}.feed_forward.router": "blk.{i}.ffn_gate_inp"}
QK_NORMS: dict[str, Value] = {
    "layers.{i}.attention.query_norm": "blk.{i}.attn_q_norm",
    "layers.{i}.key_value.key_norm": "blk.{i}.attn_k_norm",
}
FUSED = fused(Rows("blk.{i}.attn_qkv", QKV), QKV)

LLAMA = _extended(ROUTER, GGUF_LLAMA, BANKS)
QWEN = _extended(QK_NORMS)
MOE = _extended(QK_NORMS | ROUTER, tensors=BANKS)
GEMMA = _extended(
    QK_NORMS
    | {
        "layers.{i}.attention_post_norm": "blk.{i}.post_attention_norm",
        "layers.{i}.feed_forward_post_norm": "blk.{i}.post_ffw_norm",
    }
)
PHI3 = _extended(FUSED | fused(Rows("blk.{i}.ffn_up", GATE_UP), GATE_UP))
FALCON = _extended(
    FUSED
    | {
        # Where there are two norms, the second is attention's.
        "layers.{i}.attention_norm": Either("blk.{i}.attn_norm_2", "blk.{i}.attn_norm"),
        "layers.{i}.feed_forward_norm": "blk.{i}.attn_norm",
    }
)
GPT2 = _extended(FUSED | {"positions": "position_embd"})
BERT = _extended(
    {
        "positions": "position_embd",
        "token_types": "token_types",
        "embedding_norm": "token_embd_norm",
        "layers.{i}.attention_norm": "blk.{i}.attn_output_norm",
        "layers.{i}.feed_forward_norm": "blk.{i}.layer_output_norm",
    }
)


def _t5(ours: str, theirs: str) -> dict[str, Value]:
    """The names of T5's encoder or decoder."""
    layer, block = f"{ours}.layers.{{i}}", f"{theirs}.blk.{{i}}"
    return {
        f"{ours}.embedding": "token_embd",
        f"{ours}.biases.0": f"{theirs}.blk.0.attn_rel_b",
        f"{ours}.norm": f"{theirs}.output_norm",
        f"{layer}.attention_norm": f"{block}.attn_norm",
        f"{layer}.attention.query": f"{block}.attn_q",
        f"{layer}.key_value.key": f"{block}.attn_k",
        f"{layer}.key_value.value": f"{block}.attn_v",
        f"{layer}.attention.out": f"{block}.attn_o",
        f"{layer}.cross_norm": f"{block}.cross_attn_norm",
        f"{layer}.cross.query": f"{block}.cross_attn_q",
        f"{layer}.cross_key_value.key": f"{block}.cross_attn_k",
        f"{layer}.cross_key_value.value": f"{block}.cross_attn_v",
        f"{layer}.cross.out": f"{block}.cross_attn_o",
        f"{layer}.feed_forward_norm": f"{block}.ffn_norm",
        f"{layer}.feed_forward.gate": f"{block}.ffn_gate",
        f"{layer}.feed_forward.up": f"{block}.ffn_up",
        f"{layer}.feed_forward.down": f"{block}.ffn_down",
    }


T5 = NameTable(
    _t5("encoder", "enc") | _t5("decoder", "dec") | {"decoder.head": "output"},
    # Old checkpoints have a table of distances for cross-attention, which has none.
    ignored=(r"dec\.blk\.\d+\.cross_attn_rel_b\.weight",),
)
