"""A given text: read as it would have been written, no token lost, its shares and bits add up."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.answer import given as given_text
from openbook.answer.check import LONGEST, check
from openbook.answer.given import NEUTRAL, STRETCH, Given, read_given
from openbook.answer.html import render_html
from openbook.answer.page.reading import read
from openbook.book.embedder import HashedWords
from openbook.book.store import open_book
from openbook.errors import Fault
from openbook.mix.reading import Reader, passage_text
from openbook.mix.settings import Settings
from openbook.mix.source import Label
from openbook.mix.sources import branches as branches_module
from openbook.mix.sources.branches import CLOSED_BOOK, Branch

FACTS = {
    "comet.md": "# The comet\n\nDr. Ingrid Vass led the comet team in 2019. The tail was 4.7 million km long.\n",
    "bridge.md": "# The bridge\n\nThe bridge over the Larch is 212 metres long. It was opened in 1931.\n",
    "moss.txt": "Mosses have no roots. They take up water through their leaves.\n",
}
DRAFT = "The comet team was led by Vass. Its tail was 9 km long! Mosses drink <|im_end|> through leaves."


@pytest.fixture(scope="module")
def reader(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("documents")
    for name, text in FACTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    book = open_book(tmp_path_factory.mktemp("books") / "facts.book")
    encoder = HashedWords()
    book.add(folder, encoder=encoder)
    return Reader(book, tiny_model, encoder, Settings(passages=2))


@given(st.text(alphabet="ab. \n彗é!?", max_size=80))
def test_every_token_belongs_to_one_sentence(tiny_model, text):
    made = Given.of(tiny_model.tokenizer, text)
    assert made.text == text and "".join(made.text[a:b] for a, b in made.spans) == text
    found = made.sentences()
    assert [i for _, tokens in found for i in tokens] == list(range(found[-1][1].stop if found else 0))
    left = made.spans[found[-1][1].stop if found else 0 :]
    assert not "".join(text[a:b] for a, b in left).strip()  # white space after the last sentence is nobody's
    assert all(len(tokens) <= STRETCH for _, tokens in found)


@pytest.mark.parametrize("numbers", [1 << 26, 1])
def test_reading_a_text_is_writing_it_word_by_word(reader, monkeypatch, numbers):
    """Also where it is read in chunks of one token."""
    monkeypatch.setattr(branches_module, "LOGIT_NUMBERS", numbers)
    hits = reader.find("comet team")[:2]
    rows = [Branch(Label(f"p{i}", "passage"), hit.passage.id, (passage_text(hit),)) for i, hit in enumerate(hits)]
    tokens = reader.model.tokenizer.encode("The comet team was led.")
    read_at_once = reader.branches(NEUTRAL, [*rows, CLOSED_BOOK], room=len(tokens)).read_given(tokens)
    source = reader.branches(NEUTRAL, [*rows, CLOSED_BOOK], room=len(tokens))
    scores_SV, one_by_one = source.start(), []
    for token in tokens:
        one_by_one.append(scores_SV.log_softmax(-1)[:, token].numpy())
        scores_SV = source.step(token)
    np.testing.assert_allclose(read_at_once, np.array(one_by_one).T, atol=1e-4)


def test_a_stretch_at_a_time_gives_what_all_at_once_gives(reader, monkeypatch):
    """As long as the text before a sentence is read in front of it, and the same passages are found."""
    monkeypatch.setattr(given_text, "OTHERS", 1e-12)
    settings = replace(reader.settings, passages=3)  # all there are
    whole = [one.log_p_TS for one in read_given(replace(reader, settings=settings), text_of(reader), None)]
    monkeypatch.setattr(given_text, "ROWS", 1)
    parts = [one.log_p_TS for one in read_given(replace(reader, settings=settings), text_of(reader), None)]
    assert len(whole) == len(parts) == 3
    for one, other in zip(whole, parts, strict=True):  # the passages may stand in another order
        np.testing.assert_allclose(np.sort(one, axis=1), np.sort(other, axis=1), atol=1e-4)


def text_of(reader):
    return Given.of(reader.model.tokenizer, DRAFT)


@pytest.mark.parametrize("question", [None, "Who led the comet team?"])
def test_a_check_adds_up(reader, question):
    made = check(DRAFT, reader, question)
    facts = made.to_dict()
    json.dumps(facts, allow_nan=False)
    assert facts["answer"] == DRAFT == "".join(token["text"] for token in facts["tokens"])
    known = {source["id"] for source in facts["sources"]}
    for token in facts["tokens"]:
        assert sum(token["responsibility"].values()) == pytest.approx(1.0, abs=1e-4)
        assert set(token["responsibility"]) <= known
    assert [DRAFT[slice(*s["span"])] for s in facts["sentences"]] == [DRAFT[:31], DRAFT[32:55], DRAFT[56:]]
    for name, total in (("responsibility", 1.0), ("prior", 1.0), ("refined", 1.0)):
        assert sum(source[name] for source in facts["sources"]) == pytest.approx(total, abs=1e-4)
    whole = sum(sentence["bits"] for sentence in facts["sentences"])
    assert sum(source["bits"] for source in facts["sources"]) == pytest.approx(whole, abs=1e-3)
    assert sum(token["bits"] for token in facts["tokens"]) == pytest.approx(whole, abs=1e-3)
    for sentence in made.sentences:
        doubted = [word for word in sentence.words if word.unsupported]
        assert bool(sentence.unsupported) == bool(doubted) == (sentence.verdict in ("partly", "unsupported"))
        for word in doubted:
            assert any(a <= word.span[0] and word.span[1] <= b for a, b in sentence.unsupported)
        assert all(sentence.span[0] <= a < b <= sentence.span[1] for a, b in sentence.unsupported)
        assert all(any(c.isalnum() for c in DRAFT[a:b]) for a, b in sentence.unsupported)  # never punctuation alone
    for citation in made.citations:
        source = next(s for s in made.sources if s.id == citation.source)
        assert reader.book.text(source.document)[slice(*citation.source_span)] == citation.cited_text


def test_both_faces_show_the_verdicts_and_no_text_becomes_markup(reader):
    facts = check("The comet <script>alert(1)</script> & team. <b>Vass</b> led it.", reader).to_dict()
    page = render_html(facts)
    assert "<script>alert" not in page and "<b>Vass" not in page
    reading = read(facts)
    assert [j.verdict for j in reading.judged] == [s["verdict"] for s in facts["sentences"]]
    doubted = {i for piece in reading.pieces if piece.doubted for i in piece.tokens}
    assert bool(doubted) == any(s["unsupported"] for s in facts["sentences"])
    broken = {**facts, "sentences": [None, {"span": [0, 10**9]}, {"span": [3, 5], "unsupported": "x", "verdict": 7}]}
    assert [j.verdict for j in read(broken).judged] == ["7"]
    render_html(broken)


def test_what_cannot_be_checked_is_a_fault(reader):
    for text in ("", " \n\t"):
        with pytest.raises(Fault, match="empty"):
            check(text, reader)
    with pytest.raises(Fault, match="in parts"):
        check("a" * (LONGEST + 1), reader)
