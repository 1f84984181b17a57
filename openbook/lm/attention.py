"""One attention. Who sees whom comes from positions; who makes keys and values is apart from who reads them.

Shapes: B batch, T queries, S keys, H query heads, K key/value heads, G = H/K, D head dimension, M model width.
A key's position is its absolute position in the text; −1 marks a slot that holds nothing.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from openbook.lm.positions import Rotary, rotate
from openbook.lm.spec import AttentionSpec


def visible(q_positions_BT: Tensor, k_positions_BS: Tensor, *, causal: bool, window: int | None) -> Tensor:
    """Which keys each query may see, boolean `[B, T, S]`.

    A key is seen if it holds something, is not later than the query where `causal`, and where a window W is set
    lies within it: `q − k < W`, so W counts the query itself (Mistral, arXiv 2310.06825); without `causal` the
    window reaches as far to both sides.
    """
    distance = q_positions_BT[:, :, None] - k_positions_BS[:, None, :]
    seen = (k_positions_BS >= 0)[:, None, :].expand_as(distance)
    if causal:
        seen = seen & (distance >= 0)
    if window is not None:
        seen = seen & (distance < window) & (distance > -window)
    return seen


def additive(seen_BTS: Tensor, groups: int, like: Tensor) -> Tensor:
    """The mask as `[B, 1, G·T, S]` of 0 and −∞ in the dtype of `like`, repeated for the G queries of a K/V head."""
    mask = like.new_zeros(seen_BTS.shape).masked_fill_(~seen_BTS, float("-inf"))
    return mask.repeat(1, groups, 1)[:, None]


def attend(q_BTHD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_B1QS: Tensor) -> Tensor:
    """`softmax(q·kᵀ/√D + mask)·v`, `[B, T, H, D]`.

    The G queries that share a K/V head are laid out as G·T rows of one head (head-major, as the mask is), so that
    keys and values are read once and never repeated in memory.
    """
    B, T, H, D = q_BTHD.shape
    K = k_BKSD.shape[1]
    q_BKQD = q_BTHD.transpose(1, 2).reshape(B, K, (H // K) * T, D)
    out_BKQD = F.scaled_dot_product_attention(q_BKQD, k_BKSD, v_BKSD, attn_mask=mask_B1QS)
    return out_BKQD.reshape(B, H, T, D).transpose(1, 2)


class KeyValue(nn.Module):
    """The producer: keys (rotated) and values of one layer's input, `[B, K, T, D]` each."""

    def __init__(self, spec: AttentionSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.key = nn.Linear(width, spec.kv_heads * spec.head_dim, bias=spec.qkv_bias)
        self.value = nn.Linear(width, spec.kv_heads * spec.head_dim, bias=spec.qkv_bias)

    def forward(self, x_BTM: Tensor, table: Rotary | None) -> tuple[Tensor, Tensor]:
        shape = (self.spec.kv_heads, self.spec.head_dim)
        k_BTKD = self.key(x_BTM).unflatten(-1, shape)
        v_BTKD = self.value(x_BTM).unflatten(-1, shape)
        if table is not None:
            k_BTKD = rotate(k_BTKD, table)
        return k_BTKD.transpose(1, 2), v_BTKD.transpose(1, 2)


class Attention(nn.Module):
    """The reader: queries of one layer's input over keys and values that somebody produced."""

    def __init__(self, spec: AttentionSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.query = nn.Linear(width, spec.heads * spec.head_dim, bias=spec.qkv_bias)
        self.out = nn.Linear(spec.heads * spec.head_dim, width, bias=spec.out_bias)

    def forward(
        self, x_BTM: Tensor, keys_values: tuple[Tensor, Tensor], mask_B1QS: Tensor, table: Rotary | None
    ) -> Tensor:
        q_BTHD = self.query(x_BTM).unflatten(-1, (self.spec.heads, self.spec.head_dim))
        if table is not None:
            q_BTHD = rotate(q_BTHD, table)
        mixed: Tensor = self.out(attend(q_BTHD, *keys_values, mask_B1QS).flatten(-2))
        return mixed
