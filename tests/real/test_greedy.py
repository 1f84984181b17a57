"""Real checkpoints: greedy text after long prompts, past Gemma's window, is transformers' own, token for token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from openbook.home import home
from openbook.lm.model import LanguageModel, load_model

transformers = pytest.importorskip("transformers")
DOCS = Path(__file__).parents[2] / "docs"
PROMPT = 640  # tokens: past Gemma's window of 512


def oracle(name: str) -> Any:
    folder = home() / "models" / name
    files = sorted(folder.glob("*.gguf"))
    if not files:
        pytest.skip(f"{name} is not here; run: openbook models pull {name}")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=files[0].name, dtype=torch.float32)
    model.generation_config.eos_token_id = None  # write on: both sides write as many tokens as they are told
    return model.eval()


def prompts(model: LanguageModel, count: int) -> torch.Tensor:
    """`count` pieces of this project's docs, each from another place, of exactly 640 tokens."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))
    tokens = model.tokenizer.encode(text)
    apart = (len(tokens) - PROMPT) // count
    return torch.tensor([tokens[i * apart : i * apart + PROMPT] for i in range(count)])


@torch.inference_mode()
def greedy(model: LanguageModel, text_BT: torch.Tensor, count: int) -> torch.Tensor:
    cache = model.runner.cache([None] * len(text_BT), room=text_BT.shape[1] + count)
    logits = model.runner.forward(text_BT, cache, keep=slice(-1, None))
    written = [logits[:, -1].argmax(-1)]
    while len(written) < count:
        logits = model.runner.forward(written[-1][:, None], cache)
        written.append(logits[:, -1].argmax(-1))
    return torch.stack(written, dim=1)


@torch.inference_mode()
def agrees(name: str, count: int, length: int) -> None:
    theirs = oracle(name)
    model = load_model(name, precision="fp32", device="cpu", fetch=False)
    text = prompts(model, count)
    for rows in text.split(5):
        expected = theirs.generate(
            rows,
            attention_mask=torch.ones_like(rows),
            max_new_tokens=length,
            do_sample=False,
            repetition_penalty=1.0,
        )[:, PROMPT:]
        got = greedy(model, rows, length)
        # Where the two likeliest tokens are as likely, either is right; such a place must be a true tie.
        for row in range(len(rows)):
            if not torch.equal(got[row], expected[row]):
                at = int((got[row] != expected[row]).nonzero()[0])
                so_far = torch.cat((rows[row], expected[row, :at]))[None]
                best = theirs(so_far).logits[0, -1].topk(2).values
                assert float(best[0] - best[1]) < 1e-3, f"prompt differs at token {at}"


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_greedy_text_is_the_oracles(name: str) -> None:
    agrees(name, count=2, length=6)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_greedy_text_of_twenty_prompts_is_the_oracles(name: str) -> None:
    agrees(name, count=20, length=24)
