"""A real model's chats that begin alike: each reply is the one it gives alone, evidence and all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from company import NOTES, facts

from openbook.answer.answer import Answer
from openbook.answer.chat import tokens_of_chat
from openbook.home import home
from openbook.lm.cache.beginnings import BLOCK, Beginnings, reusable
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.model import LanguageModel, load_model
from openbook.mix.settings import Settings
from openbook.serve.engine import Engine

PAGE = "\n".join(NOTES.values()) * 3
QUESTIONS = ["Who led the comet team?", "How long is the bridge over the Larch?", "How do mosses take up water?"]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    if not any((home() / "models" / "smollm2").glob("*.gguf")):
        pytest.skip("smollm2 is not here; run: openbook models pull smollm2")
    return load_model("smollm2", fetch=False)


def said(question: str, *turns: str) -> list[dict[str, str]]:
    roles = ["assistant", "user"]
    whole = [{"role": "system", "content": PAGE}, {"role": "user", "content": question}]
    return [*whole, *({"role": roles[i % 2], "content": text} for i, text in enumerate(turns))]


def written(run: Any) -> Answer:
    while True:
        try:
            next(run)
        except StopIteration as end:
            answer: Answer = end.value
            return answer


@pytest.mark.parametrize(("budget", "temperature"), [(1 << 28, 0.0), (1 << 22, 0.9)])
def test_real_chats_that_begin_alike_are_the_chats_alone(model: LanguageModel, budget: int, temperature: float) -> None:
    """At once, and a turn later; with room for all that they read, and for a part of it."""
    how, kept = Settings(max_tokens=8, sampling=Sampling(temperature, seed=5)), Beginnings(budget)
    chats = [said(question) for question in QUESTIONS]

    async def together(asked: list[Any]) -> list[Answer]:
        engine = Engine(model)
        runs = [engine.start(lambda m, s=each: tokens_of_chat(m, s, how, kept), 1) for each in asked]  # type: ignore[misc]
        return [await run.answer() for run in runs]

    first = asyncio.run(together(chats))
    turned = [said(q, a.text, "Say it again.") for q, a in zip(QUESTIONS, first, strict=True)]
    later = asyncio.run(together(turned))
    for each, answer in zip([*chats, *turned], [*first, *later], strict=True):
        assert facts(answer) == facts(written(tokens_of_chat(model, each, how)))
    if reusable(model.runner):
        found = [[answer.timings["cached_tokens"] for answer in answers] for answers in (first, later)]
        shared = [*sorted(found[0])[1:], *found[1]]  # whichever came first has read it for all
        assert all(count % BLOCK == 0 for count in shared) and min(shared) >= 2 * BLOCK
    else:
        assert kept.found_tokens == kept.nbytes == 0
