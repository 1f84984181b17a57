"""A real model with several requests at once: each answer is the one it gives alone, evidence and all."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest
from company import book_of_notes, facts

from openbook.answer.ask import tokens_of, write
from openbook.book.embedder import HashedWords
from openbook.book.store import Book
from openbook.home import home
from openbook.lm.decoding.generate import generate
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.model import LanguageModel, load_model
from openbook.mix.reading import Reader, passage_cache
from openbook.mix.settings import Settings
from openbook.serve.engine import Engine

HOW = [
    Settings(max_tokens=16, margin=None),
    Settings(max_tokens=16, margin=None, sampling=Sampling(0.8, seed=11), persistence=1.0),
]
QUESTIONS = ["Who led the comet team?", "How long is the bridge over the Larch?", "How do mosses take up water?"]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    if not any((home() / "models" / "smollm2").glob("*.gguf")):
        pytest.skip("smollm2 is not here; run: openbook models pull smollm2")
    return load_model("smollm2", fetch=False)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    return book_of_notes(tmp_path_factory.mktemp("notes"))


def chatting(question: str) -> Any:
    def work(model: LanguageModel) -> Generator[str, None, str]:
        said = ""
        for piece in generate(
            model, model.tokenizer.encode_chat([{"role": "user", "content": question}]), max_tokens=16
        ):
            said += piece.text
            yield piece.text
        return said

    return work


def test_real_answers_in_company_are_the_answers_alone(model: LanguageModel, book: Book) -> None:
    encoder, kept = HashedWords(), passage_cache(book, model, 1 << 26, 0)
    asked = [(question, how) for question in QUESTIONS for how in HOW]

    async def together() -> tuple[list[Any], list[str]]:
        engine = Engine(model, rows=64)
        runs = [
            engine.start(lambda m, q=q, h=h: tokens_of(Reader(book, m, encoder, h, kept), q))  # type: ignore[misc]
            for q, h in asked
        ]
        chats = [engine.start(chatting(question), rows=1) for question in QUESTIONS]
        found = [facts(await run.answer()) for run in runs], [await run.answer() for run in chats]
        stats = engine.stats()
        assert not model.runner.batch_invariant or stats["steps"] < stats["parts"]
        return found

    answers, said = asyncio.run(together())
    for (question, how), answer in zip(asked, answers, strict=True):
        assert answer == facts(write(Reader(book, model, encoder, how), question))
    for question, text in zip(QUESTIONS, said, strict=True):
        assert text == "".join(chatting(question)(model))
