"""Answers from a book on the engine: in company as alone, to the last bit; and a book that changes under them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from company import book_of_notes, facts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_specs import needs_kernels

from openbook.answer.answer import Answer
from openbook.answer.ask import tokens_of, write
from openbook.book.embedder import HashedWords
from openbook.book.store import Book
from openbook.lm.backends.native import NativeRunner
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.model import LanguageModel
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings
from openbook.serve.engine import Engine, Run, Work
from openbook.serve.shelf import Shelved

QUESTIONS = ["Who led the comet team?", "How long is the bridge?", "What do mosses have?", "When was it opened?"]
SETTINGS = [
    Settings(max_tokens=12, margin=None),
    Settings(max_tokens=9, margin=None, persistence=1.0, passages=2, sampling=Sampling(1.0, seed=3)),
    Settings(max_tokens=6, margin=None, passages=3, beams=Beams(2)),
]
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def model(tiny_model: LanguageModel) -> LanguageModel:
    weights = tiny_model.runner.decoder.state_dict().items()  # type: ignore[attr-defined]
    return replace(tiny_model, runner=NativeRunner(tiny_model.spec, weights, precision="fp32", threads=1))


@pytest.fixture
def shelved(tmp_path: Path, model: LanguageModel) -> Iterator[Shelved]:
    made = Shelved("notes", book_of_notes(tmp_path).path, HashedWords)
    made.budget(1 << 24, 0)
    yield made


def asking(shelved: Shelved, book: Book, question: str, how: Settings) -> Work:
    return lambda model: tokens_of(Reader(book, model, shelved.encoder, how, shelved.kept_for(model)), question)


def alone(shelved: Shelved, book: Book, model: LanguageModel, question: str, how: Settings) -> Any:
    return facts(write(Reader(book, model, shelved.encoder, how), question))


@needs_kernels
@given(st.lists(st.tuples(st.sampled_from(QUESTIONS), st.sampled_from(SETTINGS)), min_size=2, max_size=6))
@settings(max_examples=8, suppress_health_check=SLOW)
def test_an_answer_in_company_is_the_answer_alone(
    shelved: Shelved, model: LanguageModel, asked: list[tuple[str, Settings]]
) -> None:
    """Tokens and evidence, whatever else is asked beside it; though alone reads ahead and company does not."""
    book = shelved.at()

    async def together() -> list[Answer]:
        engine = Engine(model, rows=64)
        runs = [engine.start(asking(shelved, book, question, how)) for question, how in asked]
        return [await run.answer() for run in runs]

    for (question, how), answer in zip(asked, asyncio.run(together()), strict=True):
        assert facts(answer) == alone(shelved, book, model, question, how)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 3)),
        st.tuples(st.just("take"), st.integers(0, 5)),
        st.tuples(st.sampled_from(["add", "use", "cancel"]), st.integers(0, 5)),
    ),
    min_size=4,
    max_size=12,
)


@needs_kernels
@given(STEPS, st.sampled_from([4, 64]))
@settings(max_examples=6, suppress_health_check=SLOW)
def test_a_book_that_changes_under_its_answers_drops_none_and_mixes_none(
    shelved: Shelved, model: LanguageModel, steps: list[tuple[str, int]], rows: int
) -> None:
    """Each names the version that was live when it was asked, and is what that version answers alone."""
    how = SETTINGS[0]

    async def changing() -> list[tuple[Run, Book, str, bool]]:
        engine, runs, changes = Engine(model, rows=rows, queue=64), [], 0
        for do, n in steps:
            if do == "ask":
                book = shelved.at()
                runs.append([engine.start(asking(shelved, book, QUESTIONS[n], how), rows=6), book, QUESTIONS[n], False])
            elif do == "take" and runs:
                async for _ in runs[n % len(runs)][0]:
                    break
            elif do == "cancel" and runs:
                runs[n % len(runs)][0].cancel()
                runs[n % len(runs)][3] = True
            elif do == "add":
                note = shelved.path.parent / f"note{n}.md"
                changes += 1
                note.write_text(f"# Note\n\nThe comet team has {changes} telescopes.\n", encoding="utf-8")
                Book(shelved.path).add(note, encoder=shelved.encoder)
            elif do == "use":
                Book(shelved.path).use(1)
        await engine.drain(600)
        return [(run, book, question, gone) for run, book, question, gone in runs]

    async def answers() -> list[tuple[Answer | None, Book, str]]:
        found: list[tuple[Answer | None, Book, str]] = []
        for run, book, question, gone in await changing():
            try:
                found.append((await run.answer(), book, question))
            except Exception:
                assert gone  # only who was cancelled has no answer
        return found

    for answer, book, question in asyncio.run(answers()):
        assert answer is not None and answer.book["version"] == book.version
        assert facts(answer) == alone(shelved, book, model, question, how)
