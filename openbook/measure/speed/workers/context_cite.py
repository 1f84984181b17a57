"""The package context-cite, unchanged: what it says each passage did for an answer of one prompt that holds them all.

Passages are its sources (a partitioner of its own kind), the model is transformers in bf16. Its random ablations often
come again: five passages have 32 choices. A prompt that was read before is remembered by the model, not by the package,
which asks for every one of its ablations and gets what it would get.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import nltk
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

nltk.download = lambda *names, **how: True  # it fetches a splitter of sentences when it is imported: none is split here

import context_cite.utils  # noqa: E402
from context_cite.context_citer import ContextCiter  # noqa: E402
from context_cite.context_partitioner import BaseContextPartitioner  # noqa: E402
from context_cite.solver import LassoRegression  # noqa: E402

context_cite.utils.tqdm = lambda batches: batches  # no bars within the bench's own


def open(
    model: str,
    prompt: str,
    cases: Sequence[Mapping[str, Any]],
    counts: Sequence[int],
    longest: int,
    deepest: int,
    threads: int,
) -> Explained:
    """The model in bf16; a case is {"question", "passages"}. Each run explains the next one."""
    torch.set_num_threads(threads)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    return Explained(loaded.eval(), AutoTokenizer.from_pretrained(model), prompt, cases, counts, longest, deepest)


def by_itself(count: int, passages: int, log_odds: Sequence[Sequence[float]], tokens: int) -> dict[str, Any]:
    """The package's parts alone: its choices, the answer's logit from its tokens', the coefficients of its solver."""
    masks = [context_cite.utils._create_mask(passages, 0.5, seed) for seed in range(count)]
    logits = context_cite.utils.aggregate_logit_probs(np.array(log_odds))
    weights, _ = LassoRegression().fit(np.array(masks), logits, tokens)
    return {"masks": np.array(masks).tolist(), "logits": logits.tolist(), "scores": weights.tolist()}


class Passages(BaseContextPartitioner):  # type: ignore[misc]
    """Sources that are passages, an empty line between two."""

    def __init__(self, passages: Sequence[str]) -> None:
        super().__init__("\n\n".join(passages))
        self.passages = list(passages)

    @property
    def num_sources(self) -> int:
        """P."""
        return len(self.passages)

    def split_context(self) -> None:
        """They are split."""

    def get_source(self, index: int) -> str:
        """One passage."""
        return self.passages[index]

    def get_context(self, mask: Any = None) -> str:
        """Those that stay."""
        stay = np.ones(len(self.passages), dtype=bool) if mask is None else mask
        return "\n\n".join(text for text, stays in zip(self.passages, stay, strict=True) if stays)


class Remembering:
    """The model as the package calls it. `last` logits are made, and kept for a prompt that comes again."""

    def __init__(self, model: Any) -> None:
        self.model, self.device, self.last = model, model.device, 1
        self.known: dict[tuple[int, ...], torch.Tensor] = {}
        self.passes = self.tokens = self.asked = 0

    def generate(self, tokens: torch.Tensor, **how: Any) -> Any:
        """Its answer."""
        return self.model.generate(tokens, attention_mask=torch.ones_like(tokens), **how)

    def __call__(self, input_ids: torch.Tensor, **given: Any) -> Any:
        """Logits after the last tokens, which are all that the package looks at."""
        key, self.asked = tuple(input_ids[0].tolist()), self.asked + 1
        if key not in self.known:
            self.passes, self.tokens = self.passes + 1, self.tokens + len(key)
            with torch.inference_mode():
                self.known[key] = self.model(input_ids, logits_to_keep=self.last).logits.float()
        return SimpleNamespace(logits=self.known[key])


class Explained:
    """One case after another."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: str,
        cases: Sequence[Mapping[str, Any]],
        counts: Sequence[int],
        longest: int,
        deepest: int,
    ) -> None:
        self.model, self.tokenizer, self.prompt = model, tokenizer, prompt
        self.cases, self.counts, self.longest, self.deepest = iter(cases), counts, longest, deepest
        versions = f"context-cite 0.0.4, transformers {transformers.__version__}, torch {torch.__version__}"
        self.facts = {"engine": versions, "dtype": "bf16"}

    def run(self) -> dict[str, Any]:
        """Scores by the number of ablations, what leaving passages out costs the answer, and what all of it took."""
        case, began = next(self.cases), time.perf_counter()
        model = Remembering(self.model)
        how = {"max_new_tokens": self.longest, "do_sample": False, "pad_token_id": self.tokenizer.eos_token_id}
        made: dict[str, Any] = {"scores": {}, "passes": {}, "tokens": {}}
        passages = Passages(case["passages"])
        output = None
        for count in self.counts:
            citer = ContextCiter(
                model, self.tokenizer, passages.context, case["question"], generate_kwargs=how, num_ablations=count,
                partitioner=passages, prompt_template=self.prompt,
            )  # fmt: skip
            if output is not None:
                citer._cache["output"] = output  # the answer is written once
            output = citer._output
            model.last = len(citer._response_ids) + 1
            name, before = str(count), model.asked
            made["scores"][name] = np.asarray(citer.get_attributions(verbose=False), dtype=float).tolist()
            made["passes"][name], made["tokens"][name] = model.passes, model.tokens
            made["asked"] = model.asked - before
        made |= {"response": citer.response, "length": len(citer._response_ids)}
        made["masks"] = citer._masks.astype(int).tolist()
        made["logits"] = context_cite.utils.aggregate_logit_probs(citer._logit_probs).astype(float).tolist()
        made |= self._left_out(citer, model, made["scores"])
        return {"value": time.perf_counter() - began, **made}

    def _left_out(self, citer: Any, model: Remembering, scores: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """What log p of the answer loses without each passage, and without the k highest scored, ties by chance."""
        count = citer.num_sources
        depths = range(1, min(self.deepest, count) + 1)
        whole, chance = self._log_p(citer, model, []), np.random.default_rng(count)
        first = {name: np.lexsort((chance.permutation(count), -np.array(values))) for name, values in scores.items()}
        return {
            "lost": [whole - self._log_p(citer, model, [p]) for p in range(count)],
            "drops": {
                name: [whole - self._log_p(citer, model, order[:k].tolist()) for k in depths]
                for name, order in first.items()
            },
        }

    def _log_p(self, citer: Any, model: Remembering, without: Sequence[int]) -> float:
        """The answer's, as the package reads it: one row of prompt and answer."""
        stay, answer = np.ones(citer.num_sources, dtype=bool), citer._response_ids
        stay[list(without)] = False
        tokens = citer._get_prompt_ids(mask=stay) + answer
        log_p_TV = model(torch.tensor([tokens])).logits[0, :-1].double().log_softmax(-1)
        return float(log_p_TV.gather(1, torch.tensor(answer)[:, None]).sum())
