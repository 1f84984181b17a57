"""A text gone on with: its parts join, each token names the passage in force, and the account adds up."""

import json

import numpy as np
import pytest
import torch

from openbook.answer.complete import as_recorded, ask_again, complete
from openbook.answer.html import render_html
from openbook.answer.replay import replay, run_of
from openbook.book.embedder import HashedWords
from openbook.book.store import open_book
from openbook.cli import main
from openbook.cli.complete import text_or_file
from openbook.errors import Fault
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.decoding.beam import Beams
from openbook.mix.decode import Sampling
from openbook.mix.prompt import Framing
from openbook.mix.reading import Reader, passage_text
from openbook.mix.settings import Settings
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, Branch
from openbook.mix.sources.retrieved import Lookup, Retrieval, Retrieved, asking, read_under

FACTS = {
    "comet.md": "# The comet\n\nDr. Ingrid Vass led the comet team in 2019. The tail was 4.7 million km long.\n",
    "bridge.md": "# The bridge\n\nThe bridge over the Larch is 212 metres long. It was opened in 1931.\n",
    "moss.txt": "Mosses have no roots. They take up water through their leaves.\n",
}
PROMPT = "The bridge over the Larch "
SETTINGS = Settings(max_tokens=24, sampling=Sampling(6.0, seed=3), cut_repeats=False)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    for name, text in FACTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    made = open_book(tmp_path_factory.mktemp("books") / "facts.book")
    made.add(folder, encoder=HashedWords())
    return made


def told(model, book, text=PROMPT, settings=SETTINGS, **given):
    retrieval = Retrieval(**{"stride": 4, "by": "dense", "rerank": 3, "query_tokens": 12, **given.pop("retrieval", {})})
    return complete(
        text, book=book, model=model, encoder=HashedWords(), retrieval=retrieval, settings=settings,
        kept=PrefixStore(1 << 26), **given,
    )  # fmt: skip


@pytest.mark.parametrize("closed_share", [0.0, 0.3])
def test_the_account_adds_up(tiny_model, book, closed_share):
    seen = []
    answer = told(tiny_model, book, closed_share=closed_share, on_token=seen.append)
    facts = answer.to_dict()
    json.dumps(facts, allow_nan=False)
    render_html(facts)
    assert "".join(token.text for token in seen) == answer.text
    for token, later in zip(seen, answer.tokens, strict=True):
        assert (token.text, token.span, token.bits) == (later.text, later.span, later.bits)
        assert later.responsibility == {**{s.id: 0.0 for s in answer.sources}, **token.responsibility}
        assert answer.text[slice(*token.span)] == token.text
        assert sum(token.responsibility.values()) == pytest.approx(1.0)
    evidence, passages = answer.evidence, answer.sources[:-1]
    np.testing.assert_allclose(evidence.responsibility_TS.sum(1), 1.0)
    for t, token in enumerate(seen):
        of = dict(zip([s.id for s in answer.sources], evidence.responsibility_TS[t], strict=True))
        assert all(of[name] == pytest.approx(share) for name, share in token.responsibility.items())
        assert len([s for s in passages if np.isfinite(evidence.log_w_TS[t, int(s.id[1:]) - 1])]) == 1
    assert sum(s.bits for s in answer.sources) == pytest.approx(float(evidence.bits_T.sum()))
    assert sum(s.responsibility for s in answer.sources) == pytest.approx(1.0)
    assert sum(s.refined for s in answer.sources) == pytest.approx(1.0)
    assert len({s.text for s in passages}) == len(passages) and answer.book["version"] == book.version
    for source in passages:
        assert book.text(source.document)[slice(*source.span)] == source.text
    # With all passages left out the model alone is left.
    lost = sum(s.necessity for s in passages)
    assert lost == pytest.approx(float((evidence.log_mix_T - evidence.log_p_TS[:, -1]).sum()))
    assert answer.sources[-1].necessity == pytest.approx(0.0) if closed_share == 0 else True


def test_several_passages_come_into_force(tiny_model, book):
    answer = told(tiny_model, book, settings=Settings(max_tokens=48, sampling=Sampling(6.0, seed=1), cut_repeats=False))
    assert len(answer.sources) > 2 and answer.timings["rereads"] >= len(answer.sources) - 1


def test_the_same_seed_writes_the_same(tiny_model, book):
    one, two = told(tiny_model, book), told(tiny_model, book)
    assert (one.text, one.tokens, one.sources) == (two.text, two.tokens, two.sources)


def test_without_a_book_the_model_writes_alone(tiny_model):
    answer = complete(PROMPT, model=tiny_model, settings=SETTINGS)
    assert [s.id for s in answer.sources] == ["closed"] and answer.sources[0].responsibility == 1.0
    assert answer.sources[0].bits == 0 and answer.book == {"path": None, "version": None}
    json.dumps(answer.to_dict(), allow_nan=False)
    cache = tiny_model.runner.cache([None], room=200)
    scores_1V = tiny_model.runner.read(torch.tensor([tiny_model.tokenizer.encode(PROMPT)]), cache)
    for step in answer.evidence.log_p_TS[:, 0]:
        token = next(t for t in range(scores_1V.shape[1]) if abs(float(scores_1V.log_softmax(-1)[0, t]) - step) < 1e-5)
        scores_1V = tiny_model.runner.forward(torch.tensor([[token]]), cache)[:, -1]


def test_it_ends_where_it_is_told_to(tiny_model, book):
    whole = told(tiny_model, book)
    stop = whole.text[6:8]
    cut = told(tiny_model, book, settings=Settings(max_tokens=24, sampling=SETTINGS.sampling, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.ended == "stop" and whole.ended == "limit"


def test_what_cannot_be_is_refused(tiny_model, book):
    with pytest.raises(Fault, match="beams has no meaning"):
        told(tiny_model, book, settings=Settings(beams=Beams(2)))
    with pytest.raises(Fault, match="share"):
        told(tiny_model, book, closed_share=1.5)
    with pytest.raises(Fault, match="at least one word"):
        told(tiny_model, book, text="")


def test_a_question_is_read_under_the_passages_that_ask_keeps(tiny_model, book):
    settings = Settings(max_tokens=12, margin=None, sampling=Sampling(6.0, seed=2), cut_repeats=False)
    reader = Reader(book, tiny_model, HashedWords(), settings, PrefixStore(1 << 26))
    question = "Who led the comet team?"
    retrieval = Retrieval(4, by="fused", rerank=3, passage_tokens=512)
    answer = ask_again(reader, question, retrieval)
    assert "".join(token.text for token in answer.tokens) == answer.text
    assert answer.question == question and answer.settings["retrieval"]["stride"] == 4
    # The text under the first passage is what `ask` reads under it, and its passage is kept under the same name.
    frame, text = asking(Framing(tiny_model.tokenizer, settings.prompt), question)
    lookup = Lookup(tiny_model, book, HashedWords(), retrieval, reader.kept, frame)
    source = Retrieved(lookup, text, 12)
    hit = source.used[0]
    branch = Branch(Label("p1", "passage"), hit.passage.id, (passage_text(hit),))
    branches = reader.branches(question, [branch, CLOSED_BOOK])
    np.testing.assert_allclose(source.start(), branches.start(), atol=1e-4)
    assert reader.kept.get(hit.passage.id, lookup.before(hit)) is not None
    # The first choice is by the question's last tokens: the template says nothing of a passage.
    hits = lookup.candidates(text)
    places = lookup.ranking(len(text))
    assert len(places) == 16 and max(places) == frame.template.start - 1
    _, _, log_p_K = read_under(lookup, lookup.prefixes(hits), text)
    assert hits[int(np.argmax(log_p_K))].passage == hit.passage


@pytest.mark.parametrize("length", [1, 255, 256, 300, 4_095, 4_096, 100_000])
@pytest.mark.parametrize("word", ["a", "é/", "ab\0", "~", "."])
def test_a_text_of_any_length_is_a_text(word, length):
    """Longer than any file's name may be, too."""
    text = ("x" + word * length)[:length]
    assert text_or_file(text) == text


def test_a_book_that_the_settings_name_is_not_passed_over(tmp_path, monkeypatch, capsys):
    """Written alone is only what nobody named a book for."""
    monkeypatch.setenv("OPENBOOK_BOOK", str(tmp_path / "nowhere"))
    assert main(["complete", "The comet"]) == 1
    assert "there is no book at" in capsys.readouterr().err


def test_a_file_is_read_and_an_empty_one_named(tmp_path):
    file = tmp_path / "draft.txt"
    file.write_bytes("Das Wetter é".encode() + b"\xff")
    assert text_or_file(str(file)) == "Das Wetter é\ufffd"
    file.write_bytes(b" \n")
    with pytest.raises(Fault, match=r"draft\.txt is empty"):
        text_or_file(str(file))
    with pytest.raises(Fault, match="the text is empty"):
        text_or_file(" ")


def test_a_question_that_ask_withholds_is_withheld(tiny_model, book):
    settings = Settings(max_tokens=12, margin=1e6)
    reader = Reader(book, tiny_model, HashedWords(), settings, PrefixStore(1 << 26))
    assert ask_again(reader, "Who led the comet team?", Retrieval(4)).abstained


def test_a_question_longer_than_the_context_is_refused(tiny_model, book):
    reader = Reader(book, tiny_model, HashedWords(), Settings(max_tokens=12, margin=None), PrefixStore(1 << 26))
    with pytest.raises(Fault, match="shorter"):
        ask_again(reader, "Who led the comet team? " * 100, Retrieval(4))


@pytest.mark.parametrize("asked", [False, True])
def test_what_is_recorded_says_it_all_again(tiny_model, book, asked):
    settings = Settings(max_tokens=16, margin=None, sampling=Sampling(6.0, seed=4), cut_repeats=False)
    reader = Reader(book, tiny_model, HashedWords(), settings, PrefixStore(1 << 26))
    retrieval = Retrieval(4, 20, "dense", rerank=2, rerank_tokens=7)
    text = "Who led the comet team?"
    one = ask_again(reader, text, retrieval) if asked else told(tiny_model, book, text, settings, closed_share=0.2)
    kept = json.loads(json.dumps({**one.to_dict(), "run": run_of(tiny_model, {})}))
    again = replay(kept, book, tiny_model, HashedWords(), kept=reader.kept)
    assert again.same and again.largest == 0 and again.answer.sources == one.sources


@pytest.mark.parametrize(
    "wrong",
    [
        *({"stride": "4"}, {"stride": 0.5}, {"context": 1 << 40}, {"rerank": None}, {"by": ["bm25"]}),
        *({"asked": "no"}, {"closed_share": 10**400}, {"closed_share": float("nan")}, {"closed_share": 1}),
    ],
)
def test_what_a_stored_answer_says_of_its_retrieval_is_not_believed(wrong: dict) -> None:
    how = {**Retrieval().summary(), "query_tokens": 32, "asked": False, "closed_share": 0.0, **wrong}
    with pytest.raises(Fault):
        as_recorded(None, "text", how)
    with pytest.raises(Fault):
        as_recorded(None, "text", [how])
