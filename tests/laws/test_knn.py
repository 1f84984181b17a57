"""kNN-LM in the mixture: Khandelwal's equations by brute force, and evidence that stays exact as λ changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mixture import Markov, chains, priors

from openbook.answer.ask import write
from openbook.book.embedder import HashedWords
from openbook.book.neighbours import Found, Neighbours, open_neighbours
from openbook.book.segment_writer import SegmentWriter
from openbook.book.store import open_book
from openbook.book.tending import tend
from openbook.errors import Fault
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.sampling import Sampling
from openbook.mix.decode import generate
from openbook.mix.evidence import Evidence
from openbook.mix.memorise import memorise, tokens_of
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.prompt import Framing
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings
from openbook.mix.source import Label, Tap
from openbook.mix.sources.neighbours import Knn, NeighboursSource, adapted, agreement, log_p_of

KNN = Label("knn", "neighbours")


def store_of(folder, seed: int, count: int, width: int, vocabulary: int):
    draw = np.random.default_rng(seed)
    keys = draw.standard_normal((count, width)).astype(np.float16).astype(np.float32)
    values = draw.integers(0, vocabulary, count)
    writer = SegmentWriter(folder, width)
    writer.append(("d", "h"), 0, count, keys, values, np.arange(count))
    tend(writer)
    return Neighbours(folder), keys, values


def khandelwal(keys, values, q, k, temperature, vocabulary) -> np.ndarray:
    """Equation 2 of the paper, one neighbour after the other."""
    variance = ((keys - keys.mean(0)) ** 2).sum(1).mean()
    d = ((keys - q) ** 2).sum(1)
    p = np.zeros(vocabulary)
    for i in np.argsort(d)[:k]:
        p[values[i]] += np.exp(-(d[i] - d.min()) / (temperature * variance))
    return p / p.sum()


@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 12), st.floats(0.02, 2.0))
@settings(max_examples=20)
def test_p_knn_is_khandelwals(tmp_path_factory, seed, count, k, temperature):
    neighbours, keys, values = store_of(tmp_path_factory.mktemp("s"), seed, count, 5, 7)
    if neighbours.variance == 0:
        return
    q = np.random.default_rng(seed + 1).standard_normal(5).astype(np.float32)
    tap = Tap(torch.from_numpy(q))
    source = NeighboursSource(neighbours, tap, 7, Knn(0.3, k, temperature))
    wanted = khandelwal(keys.astype(np.float64), values, q.astype(np.float64), k, temperature, 7)
    scores = source.start()
    assert np.allclose(scores.double().softmax(1)[0].numpy(), wanted, atol=1e-4)
    assert source.share == 0.3
    found, log_p_1k = source.trace[0]
    for token in range(7):
        log_p = log_p_of(found, log_p_1k, [token])[0]
        assert np.isclose(np.exp(log_p), wanted[token], atol=1e-4)
        assert sum(near.p for near in source.near(0, token)) <= wanted[token] + 1e-4


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20), st.floats(0, 1))
def test_the_share_falls_with_the_distance_and_is_none_when_all_is_far(distances, agreed):
    d = np.sort(np.array(distances))
    share = adapted(d, agreed)
    assert ((share >= 0) & (share < 1)).all() and (np.diff(share) <= 0).all() and (adapted(d, 1.0) >= share).all()
    assert (share[d >= 1] == 0).all() and adapted([1e9], 1.0) == 0 and adapted([0.0], 1.0) > 0.9


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 99))
def test_agreement_is_the_chance_that_two_neighbours_say_the_same(values, seed):
    p = np.random.default_rng(seed).dirichlet(np.ones(len(values)))
    found = Found(np.zeros((1, len(p)), np.float32), np.array([values], np.int32), np.arange(len(p))[None])
    by_token = np.bincount(values, weights=p)
    assert np.isclose(agreement(found, np.log(p[None]))[0], (by_token**2).sum())


class Drawn:
    """Neighbours drawn by hand: which tokens they have, and which share they take, step by step."""

    labels = (KNN,)

    def __init__(self, scores_TV: torch.Tensor, shares: list[float]) -> None:
        self.scores_TV, self.shares, self.at = scores_TV, shares, -1

    @property
    def share(self) -> float:
        return self.shares[self.at]

    def start(self) -> torch.Tensor:
        return self.step(0)

    def step(self, token: int) -> torch.Tensor:
        self.at += 1
        return self.scores_TV[self.at : self.at + 1]


@st.composite
def drawn(draw, V: int, length: int, shares) -> Drawn:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    scores_TV = 2 * torch.randn(length + 1, V, generator=generator)
    for t in range(length + 1):
        for v in range(1, V):
            if draw(st.booleans()):
                scores_TV[t, v] = -torch.inf
    return Drawn(scores_TV.log_softmax(-1), [draw(shares) for _ in range(length + 1)])


def forced(sources, weights, text) -> tuple[Mixture, list[torch.Tensor], Evidence]:
    mixture, given, rows = Mixture(sources, weights), [], []
    for token in text:
        given.append(mixture.distribution())
        rows.append((mixture.log_p_of(token), mixture.log_w_S))
        mixture.advance(token)
    p, w = (np.array(column) for column in zip(*rows, strict=True))
    return mixture, given, Evidence(mixture.labels, weights, p, w)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_evidence_is_exact_with_a_share_of_its_own(data):
    chain = data.draw(chains())
    S, V = chain.first_SV.shape
    tau, cap, length = data.draw(st.sampled_from([0.0, 0.5, 1.0])), data.draw(st.sampled_from([1.0, 0.7])), 4
    prior = data.draw(priors(S))
    source = data.draw(drawn(V, length, st.sampled_from([0.0, 0.2, 0.9])))
    text = data.draw(st.lists(st.integers(0, V - 1), min_size=length, max_size=length))
    ordinary, shared = Weights(prior, tau, cap), Weights(np.append(prior, -np.inf), tau, cap)
    _, alone, alone_evidence = forced([chain], ordinary, text)
    source.at = -1
    _, mixed, evidence = forced([chain, source], shared, text)
    assert np.allclose(evidence.responsibility_TS.sum(1), 1)
    assert np.allclose(np.exp(evidence.log_w_TS).sum(1), 1)
    for t in range(length):
        share = source.shares[t]
        p_knn = source.scores_TV[t].double().softmax(0).numpy()
        wanted = (1 - share) * alone[t].double().exp().numpy() + share * p_knn
        assert np.allclose(mixed[t].double().exp().numpy(), wanted, atol=1e-5)
        assert np.isclose(mixed[t].double().exp().sum(), 1, atol=1e-5)
        if share == 0:
            assert torch.equal(mixed[t], alone[t])
            assert np.array_equal(evidence.log_w_TS[t, :-1], alone_evidence.log_w_TS[t])
    # Left out: the neighbours leave the others what they would have been; each other one leaves λ as it was.
    total = float(evidence.log_mix_T.sum())
    assert np.isclose(total - evidence.necessity_S[-1], alone_evidence.log_mix_T.sum(), atol=1e-4)
    for s in range(S):
        rest = [i for i in range(S) if i != s]
        fewer = Weights(prior[rest], tau, cap)
        _, _, kept = forced([Markov(chain.first_SV[rest], chain.next_SVV[rest])], fewer, text)
        log_share = np.log(np.maximum(source.shares[:length], 1e-300))
        wanted = np.logaddexp(
            np.log1p(-np.array(source.shares[:length])) + kept.log_mix_T, log_share + evidence.log_p_TS[:, -1]
        ).sum()
        assert np.isclose(evidence.log_p_with(np.arange(S + 1) != s), wanted, atol=1e-6)
    only = evidence.log_p_with(np.arange(S + 1) == S)
    assert np.isclose(only, evidence.log_p_TS[:, -1].sum()) or np.isneginf(only)


def test_who_says_its_share_and_who_does_not_must_agree():
    chain = Markov(torch.zeros(1, 3), torch.zeros(1, 3, 3))
    chain.labels = (KNN,)
    with pytest.raises(Fault, match="share"):
        Mixture([chain], Weights(np.zeros(1)))


def test_no_other_share_than_one_of_the_whole():
    for bad in (1.0, -0.1, float("nan"), "some"):
        with pytest.raises(Fault, match="lambda_knn"):
            Settings(lambda_knn=bad)
    with pytest.raises(Fault, match="beam"):
        Settings(lambda_knn=0.2, beams=Beams(2))
    with pytest.raises(Fault, match="certificate"):
        Settings(lambda_knn="auto").robustly(1)


@pytest.fixture
def reader(tmp_path, tiny_model) -> Reader:
    notes = tmp_path / "notes"
    notes.mkdir()
    for i, what in enumerate(("comet", "glacier", "river")):
        (notes / f"{what}.md").write_text(f"# The {what}\n\n" + f"The {what} team of {i} people saw it. " * 9)
    book = open_book(tmp_path / "book")
    book.add(notes, encoder=HashedWords())
    memorise(book, tiny_model)
    return Reader(book, tiny_model, HashedWords(), Settings(margin=None, max_tokens=12, passages=2))


def test_the_tap_gives_the_key_the_token_was_stored_under(reader, tiny_model):
    """A text of the book, read again from its beginning: its own rows are nearest, at no distance."""
    neighbours = open_neighbours(reader.book, tiny_model.fingerprint)
    text = reader.book.text("notes/comet.md")
    ids, _ = tokens_of(tiny_model, text)
    tap = torch.zeros(1, len(ids) - 1, tiny_model.spec.width)
    tiny_model.runner.forward(torch.tensor([ids[:-1]]), tap_BTM=tap)
    found = neighbours.search(tap[0].numpy(), 1)
    assert (found.distances_Qk[1:, 0] < 1e-3 * neighbours.variance).all()
    names = {document.id: document.name for document in reader.book.documents()}
    for i, row in enumerate(found.rows_Qk[:, 0]):
        place = neighbours.place(int(row))
        if names[place.document_id] == "notes/comet.md" and found.distances_Qk[i, 0] == 0:
            assert text[place.offset] == tiny_model.tokenizer.decode([ids[i + 1]])


@pytest.mark.parametrize("speculate", [False, True])
def test_answers_with_neighbours_are_mixed_of_what_the_closed_book_reads(reader, speculate):
    reader.settings = replace(reader.settings, lambda_knn=0.6, speculate=speculate)
    hits = reader.find("Who saw the comet?")
    reading = reader.begin("Who saw the comet?", hits)
    assert [label.kind for label in reading.mixture.labels] == ["passage", "passage", "closed_book", "neighbours"]
    draft = Draft(frozenset())
    steps = list(generate(reading.mixture, Sampling(), draft, 12, speculation=reading.speculation))
    assert len(steps) == 12
    source = reading.neighbours
    assert source is not None and len(source.trace) >= 12
    # The same text, teacher-forced through the closed book alone: the keys that were looked up were its states.
    tokens = [step.token for step in steps]
    framing = Framing(reader.model.tokenizer, reader.settings.prompt)
    suffix = framing.suffix("Who saw the comet?")
    prompt = [*framing.prefix(()), *suffix.question, *suffix.tail]
    tap = torch.zeros(1, len(prompt) + len(tokens), reader.model.spec.width)
    reader.model.runner.forward(torch.tensor([[*prompt, *tokens]]), tap_BTM=tap)
    found = source.neighbours.search(tap[0, len(prompt) - 1 : -1].numpy(), source.knn.k)
    for t, step in enumerate(steps):
        assert np.isclose(np.exp(step.log_w_S[-1]), 0.6)
        log_p = log_p_of(
            Found(*(column[t : t + 1] for column in (found.distances_Qk, found.values_Qk, found.rows_Qk))),
            source.knn.log_p(found, source.neighbours.variance)[t : t + 1],
            [step.token],
        )[0]
        assert np.isclose(np.exp(step.log_p_S[-1]), np.exp(log_p), atol=2e-2)


def test_no_share_is_as_without_to_the_bit(reader, monkeypatch):
    def written(settings) -> list:
        reader.settings = settings
        reading = reader.begin("Who saw the comet?", reader.find("Who saw the comet?"))
        return [(s.token, s.log_p) for s in generate(reading.mixture, Sampling(), Draft(frozenset()), 12)]

    without = written(reader.settings)
    monkeypatch.setattr("openbook.mix.sources.neighbours.adapted", lambda d, agreed: np.zeros_like(d))
    assert written(replace(reader.settings, lambda_knn="auto")) == without


def test_an_answer_shows_its_neighbours_at_their_places(reader):
    reader.settings = replace(reader.settings, lambda_knn=0.9)
    answer = write(reader, "Who saw the comet?").to_dict()
    assert answer["settings"]["lambda_knn"] == 0.9
    (source,) = [s for s in answer["sources"] if s["kind"] == "neighbours"]
    assert source["id"] == "knn" and source["responsibility"] > 0.1
    told = [n for token in answer["tokens"] for n in token.get("neighbours", ())]
    assert told
    for neighbour in told:
        text = reader.book.text(neighbour["document"])
        start, end = neighbour["span"]
        assert text[start:end] == neighbour["text"] and text[:start].endswith(neighbour["before"])
        assert text.count("\n", 0, start) + 1 == neighbour["line"]


def test_a_book_without_neighbours_says_how_to_make_them(tmp_path, tiny_model):
    book = open_book(tmp_path / "bare")
    (tmp_path / "a.md").write_text("Some words about rivers.")
    book.add(tmp_path / "a.md", encoder=HashedWords())
    reader = Reader(book, tiny_model, HashedWords(), Settings(lambda_knn=0.3, margin=None))
    with pytest.raises(Fault, match="--neighbours"):
        reader.begin("What of rivers?", reader.find("What of rivers?"))
