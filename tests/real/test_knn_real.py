"""A real model remembers a text: read again it is foretold far better, and what has nothing to do with it no worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openbook.book.embedder import HashedWords
from openbook.book.neighbours import Neighbours, open_neighbours
from openbook.book.store import open_book
from openbook.home import home
from openbook.lm.model import LanguageModel, load_model
from openbook.measure.lm import Subject, windows
from openbook.measure.ways.knn import foretell
from openbook.mix.memorise import memorise
from openbook.mix.sources.neighbours import Knn

PAGE = Path(__file__).parents[2] / "docs" / "passage-cache.md"
STORY = """The old miller had three daughters, and none of them would dance. On the evening before the fair he hung his
coat behind the door, lit his pipe and said that whoever brought him a blue goose should have the mill and the
meadow beside it. The eldest laughed, the second went to bed, and the youngest put on her shoes and walked out into the
rain."""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    if not any((home() / "models" / "smollm2").glob("*.gguf")):
        pytest.skip("smollm2 is not here; run: openbook models pull smollm2")
    return load_model("smollm2", fetch=False)


@pytest.fixture(scope="module")
def neighbours(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Neighbours:
    book = open_book(tmp_path_factory.mktemp("real") / "book")
    book.add(PAGE, encoder=HashedWords())
    memorise(book, model)
    return open_neighbours(book, model.fingerprint)


def perplexities(model: LanguageModel, neighbours: Neighbours, text: str) -> tuple[float, float]:
    """Of the model alone, and with neighbours under λ by their distances."""
    cut = windows(model.tokenizer.encode(text)[:257], 128, 64)
    said = list(foretell(Subject(model), cut, neighbours, Knn("auto")))
    alone = np.concatenate([one.log_p_T for one in said])
    mixed = np.concatenate([one.mixed(one.share_T) for one in said])
    return float(np.exp(-alone.mean())), float(np.exp(-mixed.mean()))


def test_what_was_remembered_is_foretold(model: LanguageModel, neighbours: Neighbours) -> None:
    alone, mixed = perplexities(model, neighbours, PAGE.read_text())
    assert mixed < 0.5 * alone


def test_what_is_foreign_is_foretold_no_worse(model: LanguageModel, neighbours: Neighbours) -> None:
    alone, mixed = perplexities(model, neighbours, STORY)
    assert mixed < 1.005 * alone
