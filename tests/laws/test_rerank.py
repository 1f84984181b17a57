"""Reranking: who is chosen depends on the passages alone; where nothing is to be chosen nothing changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openbook.answer.ask import write
from openbook.book.embedder import HashedWords
from openbook.book.retrieve import with_prior
from openbook.book.store import open_book
from openbook.errors import Fault
from openbook.lm.cross_encoder import load_cross_encoder
from openbook.mix import rerank as module
from openbook.mix.reading import Reader, passage_text
from openbook.mix.rerank import Rerank, rerank, reranker, rerankers
from openbook.mix.settings import Settings

QUESTION = "How long is the bridge?"
SHARED_FIXTURE = [HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def reader(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("documents")
    for i in range(9):
        text = f"# Bridge {i}\n\nThe bridge number {i} over the Larch is {200 + i} metres long.\n"
        (folder / f"{i}.md").write_text(text, encoding="utf-8")
    book = open_book(tmp_path_factory.mktemp("books") / "bridges.book")
    book.add(folder, encoder=HashedWords())
    return Reader(book, tiny_model, HashedWords(), Settings(max_tokens=8, margin=None))


def under(reader: Reader, **changed) -> Reader:
    return replace(reader, settings=replace(reader.settings, **changed))


def facts(reader: Reader) -> dict:
    told = write(reader, QUESTION).to_dict()
    return {key: told[key] for key in ("answer", "sources", "tokens", "citations")}


@pytest.mark.parametrize("passages", [1, 3, 6])
def test_a_pool_of_those_that_are_kept_is_the_answer_without_reranking_to_the_bit(reader, passages):
    plain = under(reader, passages=passages, retrieved=passages)
    reranked = under(plain, rerank=Rerank(pool=passages))
    assert facts(reranked) == facts(plain)


def test_a_wider_pool_gives_the_best_of_it(reader):
    """Those that a reading of the whole pool at once would keep, with the same shares of belief."""
    whole = under(reader, passages=3, retrieved=9)
    chosen = under(reader, passages=3, rerank=Rerank(pool=9))
    once, again = (r.begin(QUESTION, r.find(QUESTION)) for r in (whole, chosen))
    assert [hit.passage.id for hit in once.hits] == [hit.passage.id for hit in again.hits]
    np.testing.assert_allclose(again.mixture.weights.log_prior_S, once.mixture.weights.log_prior_S, atol=1e-4)
    assert once.lift_bits == pytest.approx(again.lift_bits, abs=1e-3)


@given(st.permutations(range(9)), st.integers(1, 9))
@settings(max_examples=5, suppress_health_check=SHARED_FIXTURE)
def test_the_order_of_the_pool_decides_nothing(reader, order, keep):
    pooled = under(reader, passages=keep, rerank=Rerank(pool=9))
    hits = pooled.find(QUESTION)
    chosen = rerank(pooled, QUESTION, hits, keep)
    again = rerank(pooled, QUESTION, [hits[i] for i in order], keep)
    assert {hit.passage.id for hit in again} == {hit.passage.id for hit in chosen}
    assert sum(hit.prior for hit in chosen) == pytest.approx(1)
    by_id = {hit.passage.id: hit.prior for hit in again}
    assert all(by_id[hit.passage.id] == pytest.approx(hit.prior) for hit in chosen)


def test_batches_of_the_pool_change_nothing(reader, monkeypatch):
    pooled = under(reader, rerank=Rerank(pool=9))
    hits = pooled.find(QUESTION)
    whole = module.likelihood(pooled, QUESTION, hits)
    monkeypatch.setattr(module, "ROWS", 2)
    np.testing.assert_allclose(module.likelihood(pooled, QUESTION, hits), whole, atol=1e-3)


def test_equals_part_by_name_and_a_reranker_of_ones_own_counts_in_the_prior(reader, monkeypatch):
    monkeypatch.setattr(module, "_RERANKERS", dict(module._RERANKERS))

    @reranker("long")
    def long(reader, question, hits):
        return np.array([float(hit.passage.text.count("205")) for hit in hits])

    assert "long" in rerankers()
    pooled = under(reader, passages=2, rerank=Rerank(pool=9, by="long"))
    hits = with_prior([replace(hit, score=1.0) for hit in pooled.find(QUESTION)])
    best, other = sorted(rerank(pooled, QUESTION, hits, 2), key=lambda hit: -hit.prior)
    assert "205" in best.passage.text and best.prior == pytest.approx(np.e / (np.e + 1))
    assert other.passage.id == min(hit.passage.id for hit in hits if hit.passage.id != best.passage.id)


def test_what_is_no_score_is_a_fault(reader, monkeypatch):
    monkeypatch.setattr(module, "_RERANKERS", dict(module._RERANKERS))
    reranker("broken")(lambda reader, question, hits: np.full(len(hits), np.nan))
    pooled = under(reader, rerank=Rerank(pool=9, by="broken"))
    with pytest.raises(Fault, match="gave no score"):
        write(pooled, QUESTION)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"pool": 0}, "1 to 256"), ({"by": "best"}, "likelihood"), ({"by": "cross-encoder"}, "folder")],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(Fault, match=said):
        Rerank(**given)


@pytest.fixture(scope="module")
def cross_folder(tmp_path_factory) -> Path:
    """A cross-encoder of random weights, with a tokenizer of letters, as a hub would hand it out."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("cross")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(chr(c) for c in range(33, 127))]
    pieces = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))  # noqa: S106
    pieces.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    pieces.save(str(folder / "tokenizer.json"))
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=36,
        max_position_embeddings=128, num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


def test_a_cross_encoder_scores_pairs_as_transformers_does(cross_folder):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer

    theirs = transformers.BertForSequenceClassification.from_pretrained(cross_folder).eval()
    pieces = Tokenizer.from_file(str(cross_folder / "tokenizer.json"))
    texts = ["It is 212 metres long.", "Moss.", "A much longer text about " + "bridges " * 40]
    pieces.enable_truncation(128, strategy="only_second")
    wanted = []
    for text in texts:
        pair = pieces.encode(QUESTION, text)
        with torch.no_grad():
            logits = theirs(torch.tensor([pair.ids]), token_type_ids=torch.tensor([pair.type_ids])).logits
        wanted.append(float(logits))
    np.testing.assert_allclose(load_cross_encoder(cross_folder, "cpu")(QUESTION, texts), wanted, atol=1e-4)


def test_an_answer_is_written_after_a_cross_encoder(reader, cross_folder):
    chosen = Rerank(pool=9, by="cross-encoder", model=cross_folder)
    pooled = under(reader, passages=2, rerank=chosen)
    answer = write(pooled, QUESTION).to_dict()
    json.dumps(answer, allow_nan=False)
    assert answer["settings"]["rerank"] == {"by": "cross-encoder", "pool": 9, "model": cross_folder.name}
    hits = reader.find(QUESTION)
    pool = replace(pooled).find(QUESTION)
    scores = pooled.cross_encoder(QUESTION, [passage_text(hit) for hit in pool])
    rank = np.log([hit.prior for hit in pool]) + scores
    best = {pool[i].passage.document for i in np.argsort(-rank)[:2]}
    assert {source["document"] for source in answer["sources"] if source["kind"] == "passage"} == best
    assert len(hits) >= 9


def test_a_question_too_long_for_a_cross_encoder_and_a_folder_that_is_none_are_faults(cross_folder, tmp_path):
    with pytest.raises(Fault, match="too long"):
        load_cross_encoder(cross_folder, "cpu")("why " * 100, ["text"])
    with pytest.raises(Fault, match="no folder"):
        load_cross_encoder(tmp_path / "absent")


def test_of_a_question_no_more_is_read_than_was_counted(cross_folder):
    pre_tokenizers = pytest.importorskip("tokenizers.pre_tokenizers")
    encoder = load_cross_encoder(cross_folder, "cpu")
    encoder._pieces.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert encoder("why" + " " * 10_000 + "why " * 200, ["text"]) == encoder("why", ["text"])
