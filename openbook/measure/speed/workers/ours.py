"""openbook itself, through its public functions: what a program that imports it gets."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from openbook.lm.encoder import load_encoder
from openbook.lm.model import Backend, LanguageModel, Precision, load_model


class Race(Protocol):
    """What `open` gives back: who runs, and one timed run after the other."""

    facts: dict[str, Any]

    def run(self) -> dict[str, Any]:
        """One run's `value`, in the unit of the race."""


def open(race: str, threads: int, **task: Any) -> Race:
    """Ready for a race; every other argument is the race's own."""
    torch.set_num_threads(threads)
    made: Race = RACES[race](**task)
    return made


def language_model(
    name: str, backend: Backend = "auto", precision: Precision = "auto"
) -> tuple[LanguageModel, dict[str, Any]]:
    """The model on that backend, and what says so in a report."""
    model = load_model(name, backend=backend, precision=precision)
    facts = {"engine": f"openbook, {model.served}", "dtype": str(model.runner.dtype).removeprefix("torch.")}
    return model, facts


class Decode:
    """Tokens a second, all branches together, one greedy token a branch and step."""

    def __init__(self, model: str, prompts: Sequence[Sequence[int]], new: int, backend: Backend = "auto") -> None:
        loaded, self.facts = language_model(model, backend)
        self.runner: Any = loaded.runner
        self.new = new
        self.prefixes = [self.runner.prefill(prompt[:-1]) for prompt in prompts]
        self.last_B1 = torch.tensor([[prompt[-1]] for prompt in prompts])
        self.forward(self.runner.cache(self.prefixes, room=1), self.last_B1)

    def forward(self, cache: Any, tokens_B1: torch.Tensor) -> torch.Tensor:
        """The likeliest next token of each branch, `[B, 1]`."""
        logits_BV: torch.Tensor = self.runner.forward(tokens_B1, cache)[:, -1]
        return logits_BV.argmax(-1, keepdim=True)

    def run(self) -> dict[str, Any]:
        """From the read prompts on: the first step is untimed, as it gives the first token."""
        with self.runner.alone():
            return self._run()

    def _run(self) -> dict[str, Any]:
        cache = self.runner.cache(self.prefixes, room=self.new + 1)
        tokens_B1 = self.forward(cache, self.last_B1)
        written = [tokens_B1]
        began = time.perf_counter()
        for _ in range(self.new):
            tokens_B1 = self.forward(cache, tokens_B1)
            written.append(tokens_B1)
        seconds = time.perf_counter() - began
        return {"value": self.new * len(tokens_B1) / seconds, "tokens": torch.cat(written, 1)[0].tolist()}


class Bound(Decode):
    """How near a step comes to only reading the same weights, in the same process, by turns: from process to process
    memory differs by half, as its pages lie nearer or farther."""

    def run(self) -> dict[str, Any]:
        """Median over `new` tokens of one text."""
        with self.runner.alone():
            cache = self.runner.cache(self.prefixes, room=self.new + 1)
            tokens_B1, ratios = self.forward(cache, self.last_B1), []
            for _ in range(self.new):
                _, reading = self.runner.read_weights()
                began = time.perf_counter()
                tokens_B1 = self.forward(cache, tokens_B1)
                ratios.append(reading / (time.perf_counter() - began))
        return {"value": statistics.median(ratios)}


class Prefill:
    """Tokens of one prompt read a second; the logits of the last alone are wanted."""

    def __init__(self, model: str, prompts: Sequence[Sequence[int]], backend: Backend = "auto") -> None:
        loaded, self.facts = language_model(model, backend)
        self.runner = loaded.runner
        self.tokens_1T = torch.tensor([list(prompts[0])])

    def run(self) -> dict[str, Any]:
        """Read the prompt into an empty cache."""
        with self.runner.alone():
            cache = self.runner.cache([None], room=self.tokens_1T.shape[1])
            began = time.perf_counter()
            token = int(self.runner.read(self.tokens_1T, cache).argmax())
            seconds = time.perf_counter() - began
        return {"value": self.tokens_1T.shape[1] / seconds, "tokens": [token]}


class Index:
    """Texts embedded a second."""

    def __init__(self, model: str, texts: Sequence[str], backend: str = "auto") -> None:
        self.encoder, self.texts = load_encoder(model, backend=backend), texts
        native = hasattr(self.encoder.encode, "__self__")  # a method of the native runner, or a function around torch
        said = "native, int8 weights" if native else "torch, fp32"
        self.facts = {"engine": f"openbook, {said}", "vectors": self.encoder.embed(texts[:8]).tolist()}

    def run(self) -> dict[str, Any]:
        """All texts, as `openbook add` hands them over."""
        began = time.perf_counter()
        self.encoder.embed(self.texts)
        return {"value": len(self.texts) / (time.perf_counter() - began)}


class Perplexity:
    """exp(−mean log p) of a text's tokens but each window's first; nothing is carried from one window to the next."""

    def __init__(self, model: str, tokens: Sequence[int], window: int, **chosen: Any) -> None:
        loaded, self.facts = language_model(model, **chosen)
        self.runner, self.tokens, self.window = loaded.runner, tokens, window

    def run(self) -> dict[str, Any]:
        """Perplexity over all whole windows."""
        lost, count = 0.0, 0
        for start in range(0, len(self.tokens) - self.window + 1, self.window):
            text_T = torch.tensor(self.tokens[start : start + self.window])
            cache = self.runner.cache([None], room=self.window)
            log_p_TV = self.runner.forward(text_T[None], cache)[0, :-1].float().log_softmax(-1)
            lost -= log_p_TV.gather(1, text_T[1:, None].to(log_p_TV.device)).double().sum().item()
            count += self.window - 1
        return {"value": math.exp(lost / count), "predicted": count}


RACES: dict[str, Any] = {
    "decode": Decode,
    "bound": Bound,
    "prefill": Prefill,
    "index": Index,
    "perplexity": Perplexity,
}
