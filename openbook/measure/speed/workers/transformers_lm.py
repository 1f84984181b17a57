"""transformers: the model in bf16, its own attention and caches, in a plain loop: quicker than `generate`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache


def open(
    race: str,
    model: str,
    prompts: Sequence[Sequence[int]],
    threads: int,
    new: int = 0,
    cache: str = "dynamic",
    attention: str = "sdpa",
) -> Race:
    """The model in bf16, ready for a race over these prompts, which are of one length."""
    torch.set_num_threads(threads)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, attn_implementation=attention)
    return {"decode": Decode, "prefill": Prefill}[race](
        loaded.eval(), torch.tensor([list(prompt) for prompt in prompts]), new, cache
    )


class Race:
    """A race of one model over its prompts."""

    def __init__(self, model: Any, prompts_BT: torch.Tensor, new: int, cache: str) -> None:
        self.model, self.prompts_BT, self.new, self.kind = model, prompts_BT, new, cache
        self.facts = {"engine": f"transformers {transformers.__version__}, torch {torch.__version__}", "dtype": "bf16"}

    def cache(self) -> Any:
        """An empty cache; a static one has room for all that a run writes."""
        if self.kind == "dynamic":
            return DynamicCache(config=self.model.config)
        return StaticCache(config=self.model.config, max_cache_len=self.prompts_BT.shape[1] + self.new + 1)

    def forward(self, tokens_BT: torch.Tensor, cache: Any) -> torch.Tensor:
        """The likeliest next token of each row, `[B, 1]`."""
        out = self.model(tokens_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
        likeliest: torch.Tensor = out.logits[:, -1].argmax(-1, keepdim=True)
        return likeliest

    def run(self) -> dict[str, Any]:
        """One timed run."""
        raise NotImplementedError


class Decode(Race):
    """Tokens a second, all rows together, in a loop of forwards."""

    @torch.inference_mode()
    def run(self) -> dict[str, Any]:
        """The prompts are read untimed."""
        cache = self.cache()
        tokens_B1 = self.forward(self.prompts_BT, cache)
        written = [tokens_B1]
        began = time.perf_counter()
        for _ in range(self.new):
            tokens_B1 = self.forward(tokens_B1, cache)
            written.append(tokens_B1)
        seconds = time.perf_counter() - began
        return {"value": self.new * len(tokens_B1) / seconds, "tokens": torch.cat(written, 1)[0].tolist()}


class Prefill(Race):
    """Tokens of one prompt read a second."""

    @torch.inference_mode()
    def run(self) -> dict[str, Any]:
        """Read the prompt into an empty cache."""
        cache = self.cache()
        began = time.perf_counter()
        token = int(self.forward(self.prompts_BT, cache)[0, 0])
        seconds = time.perf_counter() - began
        return {"value": self.prompts_BT.shape[1] / seconds, "tokens": [token]}
