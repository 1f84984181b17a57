"""In-Context RALM: no passage is the plain model, one passage is that passage in front, scoring is writing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.book.embedder import HashedWords
from openbook.book.retrieve import find
from openbook.book.store import open_book
from openbook.errors import Fault
from openbook.lm.cache.prefixes import PrefixStore
from openbook.measure.lm import Subject, measure, ways, windows
from openbook.measure.ways.ralm import retrieved
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.sources.retrieved import Lookup, Retrieval, Retrieved, opening, read_under

FACTS = {
    "comet.md": "# The comet\n\nDr. Ingrid Vass led the comet team in 2019. The tail was 4.7 million km long.\n",
    "bridge.md": "# The bridge\n\nThe bridge over the Larch is 212 metres long. It was opened in 1931.\n",
    "moss.txt": "Mosses have no roots. They take up water through their leaves.\n",
}
PROMPT = "The comet team was led by someone. The bridge over the Larch "
GOES_ON = "was long. Mosses take up water"


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    for name, text in FACTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    made = open_book(tmp_path_factory.mktemp("books") / "facts.book")
    made.add(folder, encoder=HashedWords())
    return made


def lookup(model, book, store=None, **given):
    return Lookup(model, book, HashedWords(), Retrieval(**given), store)


def log_p_of(source, model, tokens):
    """Log p of these tokens, written one by one, under the source's first row; and the passages in force."""
    mixture = Mixture([source], Weights(np.array([0.0, -np.inf])))
    log_p, in_force = [], []
    for token in tokens:
        in_force.append(source.in_force)
        log_p.append(float(mixture.distribution()[token]))
        mixture.advance(token)
    return np.array(log_p), in_force


def plainly(model, before, tokens):
    """The same of the plain model after `before`, one token at a time."""
    cache = model.runner.cache([None], room=len(before) + len(tokens))
    scores_1V = model.runner.read(torch.tensor([before]), cache)
    log_p = []
    for token in tokens:
        log_p.append(float(scores_1V.softmax(-1)[0, token].log()))
        scores_1V = model.runner.forward(torch.tensor([[token]]), cache)[:, -1]
    return np.array(log_p)


def test_without_a_book_it_is_the_plain_model_to_the_bit(tiny_model):
    encode = tiny_model.tokenizer.encode
    prompt, tokens = encode(PROMPT), encode(GOES_ON)
    source = Retrieved(lookup(tiny_model, None), prompt, len(tokens))
    cache = tiny_model.runner.cache([None], room=len(prompt) + len(tokens))
    plain_1V, scores_RV = tiny_model.runner.read(torch.tensor([prompt]), cache), source.start()
    for token in tokens:
        assert scores_RV.tolist() == [*plain_1V.tolist(), *plain_1V.tolist()]
        plain_1V, scores_RV = tiny_model.runner.forward(torch.tensor([[token]]), cache)[:, -1], source.step(token)
    assert source.in_force is None and source.used == [] and source.rereads == 0


def test_without_words_to_look_for_the_way_is_the_plain_model_to_the_bit(tiny_model, book):
    subject = Subject(tiny_model, None)
    chosen = [("model alone", ways(False)["model alone"])]
    chosen.append(("ralm", lambda s, w: retrieved(s, w, retrieval=Retrieval(stride=3))))
    made = measure(subject, [PROMPT * 3, GOES_ON], chosen, length=48, overlap=24)
    for one, two in zip(*made.log_p.values(), strict=True):
        assert one.tolist() == two.tolist()


@pytest.mark.parametrize("by", ["bm25", "dense", "fused"])
def test_a_stride_as_long_as_the_text_is_one_passage_in_front(tiny_model, book, by):
    encode = tiny_model.tokenizer.encode
    prompt, tokens = encode(PROMPT), encode(GOES_ON)
    looks = lookup(tiny_model, book, stride=len(tokens) + 1, by=by)
    source = Retrieved(looks, prompt, len(tokens))
    got, in_force = log_p_of(source, tiny_model, tokens)
    assert set(in_force) == {0} and source.rereads == 1
    [hit] = find(book, tiny_model.tokenizer.decode(prompt[-looks.retrieval.length :]), 1, HashedWords(), by=by)
    assert source.used[0].passage == hit.passage
    whole = [*looks.before(hit), *prompt]
    np.testing.assert_allclose(got, plainly(tiny_model, whole, tokens), atol=2e-5)


@settings(max_examples=5)
@given(st.integers(3, 40), st.sampled_from(["bm25", "dense"]), st.sampled_from([1, 3]), st.integers(4, 40))
def test_scoring_a_text_at_once_is_writing_it(tiny_model, book, stride, by, rerank, query):
    retrieval = Retrieval(stride, query, by, rerank=rerank)
    text = tiny_model.tokenizer.encode(PROMPT + GOES_ON)
    [window] = [w for w in windows(text, len(text) - 20, 60) if w.start == 0][:1]
    begin = len(tiny_model.tokenizer.encode(PROMPT))
    window = replace(window, stop=len(text), count=len(text) - begin)
    [scored] = retrieved(Subject(tiny_model, book, HashedWords()), [window], retrieval=retrieval)
    source = Retrieved(Lookup(tiny_model, book, HashedWords(), retrieval), text[:begin], len(text) - begin)
    written, _ = log_p_of(source, tiny_model, text[begin:])
    np.testing.assert_allclose(scored, written, atol=5e-5)


def test_a_passage_from_the_cache_is_the_passage_afresh(tiny_model, book, tmp_path):
    encode = tiny_model.tokenizer.encode
    prompt, tokens = encode(PROMPT), encode(GOES_ON)
    store = PrefixStore(1 << 26)
    runs = [
        log_p_of(Retrieved(lookup(tiny_model, book, kept, rerank=2), prompt, len(tokens)), tiny_model, tokens)
        for kept in (None, store, store)
    ]
    assert runs[0][0].tolist() == runs[1][0].tolist() == runs[2][0].tolist()
    assert runs[0][1] == runs[1][1] == runs[2][1]


def test_the_passage_in_force_follows_the_text(tiny_model, book):
    encode = tiny_model.tokenizer.encode
    tokens = encode(" Mosses take up water through leaves." * 2 + " Ingrid Vass led the comet team.")
    source = Retrieved(lookup(tiny_model, book, stride=4, query_tokens=24), encode("bridge over the Larch"), 200)
    _, in_force = log_p_of(source, tiny_model, tokens)
    documents = [hit.passage.document.rsplit("/", 1)[-1] for hit in source.used]
    assert documents == ["bridge.md", "moss.txt", "comet.md"]
    assert [place for place, before in zip(in_force, [None, *in_force], strict=False) if place != before] == [0, 1, 2]


def test_the_closed_book_beside_it_is_the_plain_model(tiny_model, book):
    encode = tiny_model.tokenizer.encode
    prompt, tokens = encode(PROMPT), encode(GOES_ON)
    source = Retrieved(lookup(tiny_model, book, stride=5), prompt, len(tokens))
    mixture = Mixture([source], Weights(np.log([0.5, 0.5])))
    alone = []
    for token in tokens:
        alone.append(mixture.log_p_of(token)[1])
        mixture.advance(token)
    np.testing.assert_allclose(alone, plainly(tiny_model, prompt, tokens), atol=2e-5)


def test_reranking_takes_the_passage_under_which_the_last_tokens_are_likeliest(tiny_model, book):
    encode = tiny_model.tokenizer.encode
    looks = lookup(tiny_model, book, rerank=3, by="dense", rerank_tokens=9)
    text = encode(PROMPT)
    hits = looks.candidates(text)
    _, _, log_p_K = read_under(looks, looks.prefixes(hits), text)
    wanted = [plainly(tiny_model, [*looks.before(hit), *text[:-9]], text[-9:]).sum() for hit in hits]
    np.testing.assert_allclose(log_p_K, wanted, atol=1e-4)
    source = Retrieved(looks, text, 8)
    assert source.used[0].passage == hits[int(np.argmax(wanted))].passage


def test_a_prompt_longer_than_the_context_is_read_from_its_end(tiny_model, book):
    encode = tiny_model.tokenizer.encode
    long, short = encode("x" * 500 + PROMPT), encode(PROMPT)
    kept = {"context": len(short), "stride": 4}
    one, two = (Retrieved(lookup(tiny_model, book, **kept), text, 8) for text in (long, short))
    assert one.start().tolist() == two.start().tolist()


def test_what_cannot_be_is_refused(tiny_model, book):
    for wrong in ({"stride": 0}, {"query_tokens": 0}, {"rerank": 65}, {"by": "nobody"}, {"context": 0}):
        with pytest.raises(Fault):
            Retrieval(**wrong)
    with pytest.raises(Fault, match="at least one word"):
        Retrieved(lookup(tiny_model, book), [], 8)
    with pytest.raises(Fault, match="context"):
        Retrieved(lookup(tiny_model, book), [1], 3000)
    assert opening(tiny_model.tokenizer) == []
