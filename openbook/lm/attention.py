"""One attention. Who sees whom comes from positions; who makes keys and values is apart from who reads them.

Shapes: B batch, T queries, S keys, H query heads, K key/value heads, G = H/K, Q = G·T, D head dimension, M model width.
A key's position is its absolute position in the text; −1 marks a place that holds nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.lm.norms import build_norm
from openbook.lm.positions import Rotary, rotate
from openbook.lm.rules import mask_rule
from openbook.lm.spec import AttentionSpec


def visible(q_positions_BT: Tensor, k_positions_BS: Tensor, spec: AttentionSpec) -> Tensor:
    """Which keys each query may see, boolean `[B, T, S]`.

    A key is seen if it holds something, is not later than the query where `causal`, and where a window W is set
    lies within it: `q − k < W`, so W counts the query itself (Mistral, arXiv 2310.06825); without `causal` the
    window reaches as far to both sides. Pinned first positions are seen past the window, at the positions they have:
    they are not StreamingLLM's, whose sinks move along. Then each further rule narrows; a query that rules leave
    nothing sees itself.
    """
    q_BT1, k_B1S = q_positions_BT[:, :, None], k_positions_BS[:, None, :]
    distance = q_BT1 - k_B1S
    seen = (k_B1S >= 0).expand_as(distance)
    if spec.causal:
        seen = seen & (distance >= 0)
    if spec.window is not None:
        seen = seen & (((distance < spec.window) & (distance > -spec.window)) | (k_B1S < spec.pinned))
    for rule in spec.rules:
        seen = seen & mask_rule.call(rule, q_BT1, k_B1S)
    if spec.rules:  # else it would be shown all (`additive`), later keys and another cache's empty columns too
        seen = seen | ((distance == 0) & ~seen.any(-1, keepdim=True))
    return seen


def additive(seen_BTS: Tensor, bias_BHTS: Tensor | None, spec: AttentionSpec, dtype: torch.dtype) -> Tensor:
    """What is added to the logits, `[B, K or 1, Q, S]`: 0 or a position's bias where seen, −∞ elsewhere.

    A query that sees no key at all (padding) is shown all of them: its output means nothing, but must not be NaN,
    which would spread.
    """
    seen_BTS = seen_BTS | ~seen_BTS.any(-1, keepdim=True)
    if bias_BHTS is None:
        mask = torch.zeros(seen_BTS.shape, dtype=dtype, device=seen_BTS.device).masked_fill_(~seen_BTS, float("-inf"))
        return mask.repeat(1, spec.groups, 1)[:, None]
    mask_BHTS = bias_BHTS.to(dtype).masked_fill(~seen_BTS[:, None], float("-inf"))
    B, _, T, S = mask_BHTS.shape
    return mask_BHTS.reshape(B, spec.kv_heads, spec.groups * T, S)


def attend(
    q_BTHD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_BKQS: Tensor, spec: AttentionSpec, sinks_H: Tensor | None
) -> Tensor:
    """`softmax(cap(q·kᵀ·scale) + mask)·v`, `[B, T, H, D]`; a sink takes part in the softmax and has no value.

    The G queries that share a K/V head are laid out as G·T rows of one head (head-major, as the mask is), so that
    keys and values are read once and never repeated in memory.
    """
    B, T, H, D = q_BTHD.shape
    q_BKQD = q_BTHD.transpose(1, 2).reshape(B, spec.kv_heads, spec.groups * T, D)
    if spec.soft_cap is None and sinks_H is None:
        out_BKQD = F.scaled_dot_product_attention(q_BKQD, k_BKSD, v_BKSD, attn_mask=mask_BKQS, scale=spec.scale)
        return out_BKQD.reshape(B, H, T, D).transpose(1, 2)
    logits_BKQS = (q_BKQD @ k_BKSD.transpose(-1, -2)).float() * (spec.scale or D**-0.5)
    if spec.soft_cap is not None:
        logits_BKQS = torch.tanh(logits_BKQS / spec.soft_cap) * spec.soft_cap
    logits_BKQS = logits_BKQS + mask_BKQS
    if sinks_H is not None:
        sinks_KQ1 = sinks_H.float().reshape(spec.kv_heads, spec.groups, 1, 1).expand(-1, -1, T, 1).flatten(1, 2)
        logits_BKQS = torch.cat((logits_BKQS, sinks_KQ1.expand(B, -1, -1, -1)), dim=-1)
    p_BKQS = logits_BKQS.softmax(-1)[..., : k_BKSD.shape[2]].to(v_BKSD.dtype)
    return (p_BKQS @ v_BKSD).reshape(B, H, T, D).transpose(1, 2)


def build_qk_norm(spec: AttentionSpec, heads: int) -> nn.Module | None:
    """The norm of queries or keys, of one head's dimensions or of all heads' together."""
    if spec.qk_norm is None:
        return None
    return build_norm(spec.qk_norm.norm, spec.head_dim * (1 if spec.qk_norm.over == "head" else heads))


def heads_of(x_BTM: Tensor, heads: int, norm: nn.Module | None, table: Rotary | None, spec: AttentionSpec) -> Tensor:
    """A projection as heads `[B, T, heads, D]`, normalised and turned in the order that the spec says."""
    how = spec.qk_norm
    if norm is not None and how is not None and how.over == "projection":
        x_BTM, norm = norm(x_BTM), None
    x_BTHD = x_BTM.reshape(*x_BTM.shape[:-1], heads, spec.head_dim)
    before = norm is not None and how is not None and how.place == "before_rope"
    if norm is not None and before:
        x_BTHD = norm(x_BTHD)
    if table is not None:
        x_BTHD = rotate(x_BTHD, table)
    if norm is not None and not before:
        x_BTHD = norm(x_BTHD)
    return x_BTHD


class KeyValue(nn.Module):
    """The producer: keys (normalised, turned) and values of some input `width` wide, `[B, K, T, D]` each."""

    def __init__(self, spec: AttentionSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.key = nn.Linear(width, spec.kv_heads * spec.head_dim, bias=spec.qkv_bias)
        self.value = nn.Linear(width, spec.kv_heads * spec.head_dim, bias=spec.qkv_bias)
        self.key_norm = build_qk_norm(spec, spec.kv_heads)

    def forward(self, x_BTM: Tensor, table: Rotary | None = None) -> tuple[Tensor, Tensor]:
        k_BTKD = heads_of(self.key(x_BTM), self.spec.kv_heads, self.key_norm, table, self.spec)
        v_BTKD = self.value(x_BTM).unflatten(-1, (self.spec.kv_heads, self.spec.head_dim))
        return k_BTKD.transpose(1, 2), v_BTKD.transpose(1, 2)


class Attention(nn.Module):
    """The reader: queries of one layer's input over keys and values that somebody produced."""

    def __init__(self, spec: AttentionSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.query = nn.Linear(width, spec.heads * spec.head_dim, bias=spec.qkv_bias)
        self.query_norm = build_qk_norm(spec, spec.heads)
        self.sinks = nn.Parameter(torch.zeros(spec.heads)) if spec.sinks else None
        self.out = nn.Linear(spec.heads * spec.head_dim, width, bias=spec.out_bias)

    def forward(
        self, x_BTM: Tensor, keys_values: tuple[Tensor, Tensor], mask_BKQS: Tensor, table: Rotary | None = None
    ) -> Tensor:
        q_BTHD = heads_of(self.query(x_BTM), self.spec.heads, self.query_norm, table, self.spec)
        mixed: Tensor = self.out(attend(q_BTHD, *keys_values, mask_BKQS, self.spec, self.sinks).flatten(-2))
        return mixed
