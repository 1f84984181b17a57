"""An answer's own laws: its parts join, its spans point where they say, its sources' shares add up."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.answer.account import cite, trimmed
from openbook.answer.answer import Source, Token
from openbook.answer.ask import ask, stream, tokens_of, write
from openbook.answer.citations import best_span, words
from openbook.book.embedder import HashedWords
from openbook.book.store import open_book
from openbook.errors import Fault
from openbook.lm.cache.prefixes import PrefixStore
from openbook.measure.qa import CHOSEN, measure, table
from openbook.measure.squad import Question, read_squad
from openbook.mix.decode import Sampling
from openbook.mix.reading import Reader, make_of
from openbook.mix.settings import Settings

FACTS = {
    "comet.md": "# The comet\n\nDr. Ingrid Vass led the comet team in 2019. The tail was 4.7 million km long.\n",
    "bridge.md": "# The bridge\n\nThe bridge over the Larch is 212 metres long. It was opened in 1931.\n",
    "moss.txt": "Mosses have no roots. They take up water through their leaves.\n",
}


@pytest.fixture(scope="module")
def reader(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("documents")
    for name, text in FACTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    book = open_book(tmp_path_factory.mktemp("books") / "facts.book")
    encoder = HashedWords()
    book.add(folder, encoder=encoder)
    settings = Settings(max_tokens=24, margin=None, sampling=Sampling(1.0, seed=5))
    return Reader(book, tiny_model, encoder, settings)


def parts(reader):
    return {"book": reader.book, "model": reader.model, "encoder": reader.encoder}


def test_an_answer_adds_up(reader):
    answer = write(reader, "Who led the comet team?")
    facts = answer.to_dict()
    json.dumps(facts, allow_nan=False)
    assert "".join(t["text"] for t in facts["tokens"]) == facts["answer"]
    for token in facts["tokens"]:
        assert facts["answer"][slice(*token["span"])] == token["text"]
        assert sum(token["responsibility"].values()) == pytest.approx(1.0, abs=1e-4)
    whole = float(answer.evidence.bits_T.sum())
    assert sum(s["bits"] for s in facts["sources"]) == pytest.approx(whole, abs=1e-3)
    assert sum(s["prior"] for s in facts["sources"]) == pytest.approx(1.0, abs=1e-4)
    assert sum(s["refined"] for s in facts["sources"]) == pytest.approx(1.0, abs=1e-4)
    for source in answer.sources[:-1]:
        assert reader.book.text(source.document)[slice(*source.span)] == source.text
    assert set(facts["sources"][-1]) & {"document", "text", "span"} == set()


def test_the_same_seed_gives_the_same_answer_and_streams_it(reader):
    seen = []
    one = write(reader, "Who led the comet team?", lambda token: seen.append(token.text))
    two = write(reader, "Who led the comet team?")
    assert one.text == two.text and one.tokens == two.tokens and one.sources == two.sources
    assert "".join(seen).strip() == one.text
    tokens = list(stream("Who led the comet team?", **parts(reader), settings=reader.settings))
    assert len(tokens) == len(seen)


def test_one_passage_is_kept_where_one_is_asked_for(reader):
    settings = Settings(passages=1, max_tokens=4, margin=None)
    answer = ask("How long is the bridge?", **parts(reader), settings=settings)
    assert [s.kind for s in answer.sources] == ["passage", "closed_book"]


def test_it_abstains_where_nothing_has_to_do_with_the_question(reader):
    settings = Settings(max_tokens=4, margin=1e6)
    answer = ask("How long is the bridge?", **parts(reader), settings=settings)
    assert answer.abstained and answer.text == "" and "bits likelier" in answer.reason
    assert answer.sources and not answer.tokens and not answer.citations


def test_keys_are_kept_also_where_it_abstains_or_nobody_listens(reader, tmp_path):
    for margin in (1e6, None):
        kept = PrefixStore(1 << 24, tmp_path / str(margin), 1 << 24, make_of(reader.model))
        settings = Settings(max_tokens=8, margin=margin)
        one = Reader(reader.book, reader.model, reader.encoder, settings, kept)
        tokens = tokens_of(one, "How long is the bridge?")
        next(tokens, None)
        tokens.close()
        assert list((tmp_path / str(margin)).glob("*/*.kv"))


def test_a_one_word_sentence_is_cited():
    text, passage = "Yes. Delacourt.", "Maurice Delacourt led the team."
    tokens = [
        Token("Yes.", (0, 4), 1.0, 0.1, {"p1": 1.0}),
        Token(" Delacourt", (4, 14), 1.0, 9.0, {"p1": 1.0}),
        Token(".", (14, 15), 1.0, 0.1, {"p1": 1.0}),
    ]
    source = Source("p1", "passage", 1.0, 1.0, span=(100, 131), text=passage)
    (citation,) = cite(text, tokens, [source])
    assert text[slice(*citation.span)] == "Delacourt."
    assert citation.cited_text == "Delacourt" and citation.source_span == (108, 117)


@pytest.mark.parametrize("question", ["", "  \n\t "])
def test_an_empty_question_is_a_fault(reader, question):
    with pytest.raises(Fault, match="empty"):
        write(reader, question)


def test_ways_raced_in_one_batch_answer_as_each_alone(reader):
    """`eval qa` runs every way in one batch; its chosen way must write what `ask` writes greedily."""
    greedy = Reader(reader.book, reader.model, reader.encoder, Settings(max_tokens=16, margin=None))
    for text in ("Who led the comet team?", "How long is the bridge?"):
        (outcome,) = measure(greedy, [Question(text, ("x",), "comet.md")])
        assert outcome.answers[CHOSEN] == write(greedy, text).text
        closed = Settings(max_tokens=16, margin=None, passages=1, closed_share=1 - 1e-9)
        alone = write(Reader(reader.book, reader.model, reader.encoder, closed), text).text
        assert outcome.answers["closed book"] == alone
    made = table([outcome], greedy)
    expected = 100.0 if outcome.ranks["fused"] and outcome.ranks["fused"] <= 5 else 0.0
    assert made["recall"]["R@5"]["fused"] == expected
    assert set(made["answers"]) >= {"closed book", CHOSEN, "passages concatenated"}


@given(st.lists(st.text(alphabet=" ab\n彗é", max_size=3), max_size=8))
def test_trimmed_tokens_join_to_the_answer(pieces):
    tokens, end = [], 0
    for piece in pieces:
        tokens.append(Token(piece, (end, end + len(piece)), 1.0, 0.0, {}))
        end += len(piece)
    text, placed = trimmed(tokens)
    assert text == "".join(pieces).strip()
    assert "".join(t.text for t in placed) == text
    assert all(text[slice(*t.span)] == t.text for t in placed)


PASSAGE = "In 2019 the observatory measured a tail of 4.7 million kilometres; the team was led by Dr. Ingrid Vass."


@pytest.mark.parametrize(
    ("sentence", "passage", "place"),
    [
        ("The comet team was led by Dr. Ingrid Vass.", PASSAGE, "team was led by Dr. Ingrid Vass"),
        ("It measured 4.7 million kilometres.", PASSAGE, "measured a tail of 4.7 million kilometres"),
        ("Ingrid Vass", PASSAGE, "Ingrid Vass"),
        (  # one word many words away does not belong to the place
            "The comet team at Karlsholt was led by Dr. Ingrid Vass.",
            "It measured a comet tail of 4.7 million kilometres. The team was led by Dr. Ingrid Vass.",
            "team was led by Dr. Ingrid Vass",
        ),
        ("Vass.", "Vass led. Vass wrote. Vass left. Vass slept.", "Vass"),
        ("The comet team was led by Vass.", "# Comet\n\nVass led the comet team.", "the comet team"),
        ("彗星的尾巴长470万公里", "天文台测量了彗星的尾巴，长470万公里。团队很小。", "彗星的尾巴，长470万公里"),
    ],
)
def test_the_place_is_where_the_words_were_copied_from(sentence, passage, place):
    start, end = best_span(sentence, passage)
    assert passage[start:end] == place


def test_nothing_shared_is_no_place():
    assert best_span("Mosses are green", PASSAGE) is None
    assert best_span("the of a", PASSAGE) is None
    assert best_span("", PASSAGE) is None


@given(st.text(max_size=80), st.text(max_size=200))
def test_any_span_lies_within_the_passage(sentence, passage):
    if found := best_span(sentence, passage):
        start, end = found
        assert 0 <= start < end <= len(passage)
        spoken = {w.folded for w in words(sentence)}
        inside = words(passage[start:end])
        assert inside[0].folded in spoken and inside[-1].folded in spoken


def test_squad_files_are_read_and_others_refused(tmp_path):
    qas = [{"id": "1", "question": "Who?", "answers": [{"text": "Vass"}, {"text": "Vass"}]}]
    data = {"data": [{"title": "The_comet", "paragraphs": [{"context": "Vass led.", "qas": qas}]}]}
    good = tmp_path / "q.json"
    good.write_text(json.dumps(data))
    squad = read_squad(good)
    assert squad.questions == (Question("Who?", ("Vass",), "000-000.md"),)
    assert squad.sample(5) == list(squad.questions)
    for text in ("", "[]", "{}", '{"data": [{}]}', '{"data": 3}'):
        bad = tmp_path / "bad.json"
        bad.write_text(text)
        with pytest.raises(Fault, match="SQuAD"):
            read_squad(bad)


def test_evidence_arrays_have_their_shapes(reader):
    evidence = write(reader, "Who led the comet team?").evidence
    assert evidence.responsibility_TS.shape == evidence.log_p_TS.shape
    assert evidence.log_p_TS.shape[1] == len(evidence.labels)
    assert np.isfinite(evidence.necessity_S).all()
