"""A real model going on with a text: with no book itself to the bit, with one scored as it was written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from openbook.answer.complete import complete
from openbook.book.embedder import HashedWords
from openbook.book.store import open_book
from openbook.home import home
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.model import load_model
from openbook.measure.lm import Subject, windows
from openbook.measure.ways.ralm import retrieved
from openbook.mix.settings import Settings
from openbook.mix.sources.retrieved import Retrieval

DOCS = Path(__file__).parents[2] / "docs"
PROMPT = "The cosine of two vectors and BM25 are joined by a sum of both, because ranks"
TOKENS = 24
WRITING = Settings(max_tokens=TOKENS, cut_repeats=False)


@pytest.fixture(scope="module")
def model():
    if not list((home() / "models" / "smollm2").glob("*.gguf")):
        pytest.skip("smollm2 is not here; run: openbook models pull smollm2")
    return load_model("smollm2")


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    made = open_book(tmp_path_factory.mktemp("books") / "docs.book")
    made.add(DOCS / "book.md", DOCS / "evidence.md", encoder=HashedWords())
    return made


def test_without_a_book_it_writes_what_the_model_writes(model):
    answer = complete(PROMPT, model=model, settings=WRITING)
    cache = model.runner.cache([None], room=200)
    scores_1V = model.runner.read(torch.tensor([model.tokenizer.encode(PROMPT)]), cache)
    written = []
    while len(written) < TOKENS and (token := int(scores_1V.argmax())) not in model.tokenizer.eos_ids:
        written.append(token)
        scores_1V = model.runner.forward(torch.tensor([[token]]), cache)[:, -1]
    assert answer.text == model.tokenizer.decode(written)
    assert set(answer.evidence.bits_T.tolist()) == {0.0}


def test_what_it_wrote_is_scored_as_it_was_written(model, book):
    retrieval = Retrieval(stride=8, rerank=2)
    answer = complete(
        PROMPT, book=book, model=model, encoder=HashedWords(), retrieval=retrieval, settings=WRITING,
        kept=PrefixStore(1 << 28),
    )  # fmt: skip
    assert answer.sources[0].kind == "passage" and answer.sources[0].text in book.text(answer.sources[0].document)
    text = model.tokenizer.encode(PROMPT + answer.text)
    begin = len(model.tokenizer.encode(PROMPT))
    if len(text) != begin + len(answer.tokens):
        pytest.skip("the text written has other tokens when it is read again")
    window = replace(windows(text, len(text), 1)[0], count=len(text) - begin)
    [scored] = retrieved(Subject(model, book, HashedWords()), [window], retrieval=retrieval)
    np.testing.assert_allclose(scored, answer.evidence.log_mix_T, atol=0.15)  # keys in bf16, sums in another order
    assert abs(scored.sum() - answer.evidence.log_mix_T.sum()) < 0.3
