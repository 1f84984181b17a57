"""A real model going on with a text: with no book itself to the bit, with one scored as it was written."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from openbook.answer.complete import complete
from openbook.book.embedder import HashedWords
from openbook.book.store import open_book
from openbook.cli.app import run
from openbook.home import home
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.model import load_model
from openbook.measure.lm import Subject, windows
from openbook.measure.ways.ralm import retrieved
from openbook.mix.settings import Settings
from openbook.mix.sources.retrieved import Retrieval

PROMPT = "The comet was first seen by the team from the hill over the bridge, and"
TOKENS = 10
NOTES = {
    "comet.md": "# The comet\n\nDr. Ingrid Vass led the comet team in 2019. It was seen from Harrow station.",
    "bridge.md": "# The bridge\n\nThe bridge over the Larch is 212 metres long. It was opened in 1931.",
}
WRITING = Settings(max_tokens=TOKENS, cut_repeats=False)


@pytest.fixture(scope="module")
def model():
    if not list((home() / "models" / "smollm2").glob("*.gguf")):
        pytest.skip("smollm2 is not here; run: openbook models pull smollm2")
    return load_model("smollm2")


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notes")
    for name, text in NOTES.items():
        (folder / name).write_text(text, "utf-8")
    made = open_book(tmp_path_factory.mktemp("books") / "notes.book")
    made.add(folder, encoder=HashedWords())
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
    model = load_model("smollm2", backend="torch", precision="fp32")  # bf16 keys make sums of another order differ
    retrieval = Retrieval(stride=4, rerank=2)
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
    np.testing.assert_allclose(scored, answer.evidence.log_mix_T, atol=1e-3)


def test_the_commands(tmp_path, monkeypatch, capsys):
    minilm = home() / "models" / "minilm"
    if not (minilm.is_dir() and list((home() / "models" / "smollm2").glob("*.gguf"))):
        pytest.skip("smollm2 and minilm are not here; run: openbook models pull --all")
    (tmp_path / "models").symlink_to(home() / "models")
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held.txt").write_text("The comet was seen by the team from the station on the hill.", "utf-8")
    (tmp_path / "notes").mkdir()
    for name, text in NOTES.items():
        (tmp_path / "notes" / name).write_text(text, "utf-8")

    def told(*arguments, status=0):
        assert run([*arguments, "--json"]) == status
        return json.loads(capsys.readouterr().out)

    written = told("complete", "held.txt", "--docs", "notes", "--stride", "4", "--max-tokens", "8")
    assert written["question"].startswith("The comet") and written["settings"]["retrieval"]["stride"] == 4
    assert written["sources"][0]["document"].endswith("comet.md") and len(written["tokens"]) <= 8
    kept = told("why")
    assert kept["answer"] == written["answer"] and kept["sources"] == written["sources"]
    book = written["book"]["path"]
    asked = told("ask", "Who led the comet team?", "--book", book, "--stride", "4", "--max-tokens", "6", "--anyway")
    assert [source["kind"] for source in asked["sources"]][-1] == "closed_book" and asked["settings"]["retrieval"][
        "by"
    ] == "fused"
    ways = ("--way", "model alone", "--way", "ralm-bm25-s4", "--way", "ralm-bm25-of4-s4")
    figures = told("eval", "lm", "held.txt", "--book", book, *ways)
    assert list(figures["ways"]) == ["model alone", "ralm-bm25-s4", "ralm-bm25-of4-s4"] and figures["copied"] == 0
    assert all(by["perplexity"] > 1 for by in figures["ways"].values())
    assert run(["eval", "lm", "held.txt", "--way", "nobody"]) == 1
    assert "no way is called" in capsys.readouterr().err
    assert run(["complete", " "]) == 1
    assert "the text is empty" in capsys.readouterr().err
