"""Texts in which tokenizers differ, drawn."""

from __future__ import annotations

from hypothesis import strategies as st

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who wrote  Emma?\n"}]

# Pieces in which tokenizers differ: scripts, digits, runs of spaces, marks that combine, joined emoji, odd spaces.
PIECES = [
    "the ",
    "Don't",
    "WE'LL",
    "naïve ",
    "中文",
    "日本語。",
    "한국",
    "🎉",
    "👩‍👩‍👧",
    "ё",
    "e\u0301",
    "\u00a0",
    "\u3000",
    "\t",
    "x_y",
]
SPACES = st.text(" \n\t", max_size=6)
TEXT = st.lists(
    st.one_of(st.sampled_from(PIECES), SPACES, st.text("0123456789", max_size=5), st.text(max_size=8)), max_size=8
).map("".join)
ODD = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<s>", "</s>", "[CLS]", "[SEP]", "[MASK]", "<|eot_id|>", "<0x41>"]
