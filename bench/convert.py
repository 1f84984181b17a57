"""What each conversion costs before training: bits per byte of a held-out text, keys and values a token.

The text is cut into pieces of `--context` tokens, each read from its start; the first token of a piece is not scored.
All conversions are of the same weights in the same precision, made in memory, one after the other in one process.

    .venv/bin/python bench/convert.py --text FILE [--model smollm2] [--tokens 16384] [--context 2048]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from openbook.lm.backends.torch import TorchRunner, default_device
from openbook.lm.convert import convert, decoder_or_encoder, respec
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.checkpoint import open_checkpoint
from openbook.lm.weights.pull import locate
from openbook.measure.machine import processor

# Name of the row, the change, how heads are pooled.
ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("as it is", {}, "mean"),
    ("MHA, heads repeated", {"kv_heads": -1}, "mean"),
    ("MQA, mean", {"kv_heads": 1}, "mean"),
    ("MQA, first", {"kv_heads": 1}, "first"),
    ("MQA, random", {"kv_heads": 1}, "random"),
    ("CLA2", {"share": 2}, "mean"),
    ("MQA, mean + CLA2", {"kv_heads": 1, "share": 2}, "mean"),
    ("window 512", {"window": 512}, "mean"),
    ("window 512, 4 pinned", {"window": 512, "pinned": 4}, "mean"),
    ("window 512, 5 local : 1 global", {"window": 512, "pattern": (5, 1)}, "mean"),
    ("window 512, 5 local : 1 global, 4 pinned", {"window": 512, "pattern": (5, 1), "pinned": 4}, "mean"),
    ("4 experts, 2 active", {"experts": 4, "active": 2}, "mean"),
    ("4 experts, 2 active, 1 shared", {"experts": 4, "active": 2, "shared": True}, "mean"),
]


def bits_per_byte(runner: TorchRunner, tokenizer: Tokenizer, ids: list[int], context: int) -> float:
    """Σ −log₂ p of the tokens but each piece's first, over the bytes they spell."""
    bits, size = 0.0, 0
    for start in range(0, len(ids), context):
        piece = torch.tensor([ids[start : start + context]])
        log_p_TV = runner.forward(piece)[0, :-1].log_softmax(-1)
        following = piece[0, 1:].to(log_p_TV.device)
        bits -= log_p_TV.gather(1, following[:, None]).double().sum().item() / math.log(2)
        size += sum(len(tokenizer.token_bytes(index)) for index in following.tolist())
    return bits / size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--only", nargs="*", metavar="ROW", help="rows whose names hold one of these")
    given = parser.parse_args()
    checkpoint = open_checkpoint(locate(given.model, fetch=True))
    before, tokenizer, device = decoder_or_encoder(checkpoint), checkpoint.tokenizer(), default_device()
    state = dict(checkpoint.state(torch.float32))
    ids = tokenizer.encode(given.text.read_text(encoding="utf-8"))[: given.tokens]
    where = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    print(f"{checkpoint.name}, fp32, {len(ids)} tokens of {given.text.name} in pieces of {given.context}; {where}\n")
    print("| conversion | bits per byte | keys and values a token, bf16 | parameters |\n|---|--:|--:|--:|")
    for name, change, pool in ROWS:
        if given.only and not any(part in name for part in given.only):
            continue
        if change.get("kv_heads") == -1:
            change = {"kv_heads": before.layers[0].attention.heads}
        after = respec(before, **change)
        made = dict(convert(before, after, state, pool))  # type: ignore[arg-type]
        runner = TorchRunner.load(after, made.items(), device)
        score = bits_per_byte(runner, tokenizer, ids, given.context)
        size = sum(tensor.numel() for tensor in made.values())
        print(f"| {name} | {score:.3f} | {after.kv_bytes_per_token(2):,} | {size / 1e6:.1f} M |", flush=True)


if __name__ == "__main__":
    main()
