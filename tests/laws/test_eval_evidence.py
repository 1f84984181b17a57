"""`eval evidence`: leaving out by arithmetic is leaving out; the estimate beside it is the least it claims to be."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from openbook.book.embedder import HashedWords
from openbook.cli.app import app
from openbook.errors import Fault
from openbook.measure import beside
from openbook.measure.ablation import Ablations, draw, lasso, logit, surrogate
from openbook.measure.evidence import SCORES, answer, judge, measure, necessity, responsibility
from openbook.measure.evidence_table import table
from openbook.measure.grounding import Calibration, Owed, owed, words, words_of_tokens
from openbook.measure.leaving_out import Apart, Together
from openbook.measure.ranks import kendall, order, pairs_in_order, ranks, spearman, top_agrees
from openbook.measure.speed.environments import Environment
from openbook.measure.squad import Squad, book_of, read_squad
from openbook.mix.prompt import Prompt
from openbook.mix.reading import Reader, passage_text
from openbook.mix.settings import Settings
from openbook.mix.sources.branches import Branch

QUESTION = "Who led the comet team in 2019?"
TEXTS = ["Vass led the comet team.", "The team of 2019 was led by Ito.", "Moss grows on stone.", "A comet has a tail."]
NUMBERS = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=6).map(np.array)


@pytest.fixture
def squad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Squad:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    qas = [{"id": "1", "question": QUESTION, "answers": [{"text": "Ito"}]}]
    path = tmp_path / "q.json"
    data = [{"title": "Comets", "paragraphs": [{"context": text, "qas": qas} for text in TEXTS]}]
    path.write_text(json.dumps({"data": data}))
    return read_squad(path)


def reader_of(squad: Squad, model, **given) -> Reader:
    encoder = HashedWords()
    asks = Settings(**{"passages": 4, "max_tokens": 16, **given})
    return Reader(book_of(squad, encoder), model, encoder, asks)


@pytest.mark.parametrize(("tau", "cap"), [(0.0, 1.0), (0.5, 0.98), (1.0, 1.0), (0.5, 0.4)])
def test_any_choice_of_passages_by_arithmetic_is_the_mixture_run_with_them(squad, tiny_model, tau, cap):
    """Necessity too: without one passage each. The passages are read again, the weights computed again."""
    reader = reader_of(squad, tiny_model, persistence=tau, cap=cap)
    answered = answer(reader, QUESTION)
    assert answered is not None and len(answered.steps) > 4
    labels = answered.evidence.labels
    hits = zip(labels, answered.hits, strict=False)
    branches = [Branch(label, hit.passage.id, (passage_text(hit),)) for label, hit in hits]
    apart = Apart(reader, QUESTION, branches, answered.reading.mixture.weights)
    masks = np.array(list(itertools.product([False, True], repeat=4)))
    really = apart.log_p(masks, answered.tokens)
    np.testing.assert_allclose(answered.ablations.log_p(masks), really, atol=1e-3)
    again = Ablations(4, len(answered.steps), lambda some: apart.log_p(some, answered.tokens))
    np.testing.assert_allclose(again.leave_one_out(), necessity(answered), atol=1e-3)
    assert apart.cost.passes == masks.sum() + len(masks) + 5 + 4 * 4


def test_one_prompt_is_read_as_the_model_reads_it(squad, tiny_model):
    """Many choices at once are each choice alone, and all passages are the branch that wrote."""
    reader = reader_of(squad, tiny_model)
    passages, said = ["One.", "Two, longer than one.", "Three."], [65, 66, 67, 10, 80]
    masks = np.array(list(itertools.product([False, True], repeat=3)))
    many = Together(reader, QUESTION, passages)
    at_once = many.log_p(masks, said)
    alone = [Together(reader, QUESTION, passages).log_p(mask[None], said)[0] for mask in masks]
    np.testing.assert_allclose(at_once, alone, atol=1e-4)
    fewer = Together(reader, QUESTION, [passages[0], passages[2]]).log_p(np.array([[True, True]]), said)[0]
    assert at_once[5] == pytest.approx(fewer, abs=1e-4) and masks[5].tolist() == [True, False, True]
    mixture = Together(reader, QUESTION, passages).mixture()
    total = 0.0
    for token in said:
        total += float(mixture.distribution()[token])
        mixture.advance(token)
    assert at_once[7] == pytest.approx(total, abs=1e-3)
    assert many.cost.passes == 8


def objective(x_NP, y_N, w_P, b, alpha, scale_P) -> float:
    rest = y_N - x_NP @ w_P - b
    return float(rest @ rest) / (2 * len(y_N)) + alpha * float(np.abs(w_P * scale_P).sum())


@given(st.data(), st.integers(1, 3), st.integers(2, 12), st.sampled_from([0.01, 0.1, 1.0]))
def test_the_surrogate_is_the_least_by_brute_force(data, passages, count, alpha):
    """Over every pattern of signs: within one, the least is a linear system's solution."""
    x = np.array(data.draw(st.lists(st.tuples(*[st.booleans()] * passages), min_size=count, max_size=count)), float)
    y = np.array(data.draw(st.lists(st.floats(-5, 5), min_size=count, max_size=count)))
    weights, b = lasso(x, y, alpha)
    scale = x.std(0)
    ours = objective(x, y, weights, b, alpha, scale)
    assert (weights[scale == 0] == 0).all()
    z = np.where(scale > 0, (x - x.mean(0)) / np.where(scale > 0, scale, 1), 0)
    for signs in itertools.product([-1.0, 0.0, 1.0], repeat=passages):
        used = [p for p in range(passages) if signs[p] and scale[p] > 0]
        theirs = np.zeros(passages)
        gram, pull = z[:, used].T @ z[:, used] / count, z[:, used].T @ y / count
        theirs[used] = np.linalg.lstsq(gram, pull - alpha * np.array(signs)[used], rcond=None)[0]
        rest = y - y.mean() - z @ theirs
        least = float(rest @ rest) / (2 * count) + alpha * float(np.abs(theirs).sum())
        assert ours <= least + 1e-7


@given(st.integers(1, 6), st.lists(st.floats(-4, 4), min_size=6, max_size=6), st.integers(1, 40))
@settings(max_examples=20)
def test_a_logit_that_is_linear_is_found_again_up_to_its_penalty(passages, slopes, tokens):
    """256 ablations of a linear thing: each coefficient shrinks by no more than the penalty can."""
    true_P = np.array(slopes[:passages]) * tokens
    masks = draw(256, passages)
    found = surrogate(masks, masks @ true_P - 3.0, tokens)
    # At the least, the gradient is the penalty: z'z/N (w − ŵ) = α sign; the columns are nearly uncorrelated.
    assert np.abs(found - true_P).max() <= tokens * 0.01 / 0.5 * 2 + 1e-6


@given(st.floats(-60, -1e-9))
def test_the_logit_is_the_logit(log_p):
    p = np.exp(log_p)
    assert logit(np.array([log_p]))[0] == pytest.approx(
        log_p - np.log1p(-p) if p < 0.9 else np.log(p / -np.expm1(log_p))
    )
    assert np.isfinite(logit(np.array([0.0]))).all()


def test_a_choice_is_run_once_however_often_it_is_asked_for():
    ran = []

    def read(masks):
        ran.extend(map(tuple, masks.tolist()))
        return -masks.sum(1) - 1.0

    ablations = Ablations(3, 4, read)
    ablations.context_cite(256)
    assert ablations.leave_one_out().tolist() == [-1.0] * 3
    assert ablations.drop([0, 2]) == -2.0
    assert len(ran) == len(set(ran)) == ablations.run <= 8


@given(st.integers(1, 7), st.integers(0, 99))
@settings(max_examples=30)
def test_shapley_values_by_brute_force_and_what_all_add_shared_out(passages, seed):
    """By the formula over subsets where all orders are taken; the sum is right in any case."""
    value = dict(enumerate(np.random.default_rng(seed).normal(size=1 << passages).tolist()))
    bits = 1 << np.arange(passages)
    found = Ablations(passages, 1, lambda masks: np.array([value[int(m @ bits)] for m in masks])).shapley()
    assert found.sum() == pytest.approx(value[(1 << passages) - 1] - value[0])
    for p in range(passages if passages <= 5 else 0):
        others = [n for n in value if not n >> p & 1]
        ways = [math.factorial(n.bit_count()) * math.factorial(passages - n.bit_count() - 1) for n in others]
        gains = [value[n | 1 << p] - value[n] for n in others]
        assert found[p] == pytest.approx(np.dot(ways, gains) / math.factorial(passages))


@given(NUMBERS, st.data())
def test_rank_agreement_by_brute_force(one, data):
    other = np.array(data.draw(st.lists(st.integers(-3, 3).map(float), min_size=len(one), max_size=len(one))))
    places = [np.mean([i + 1 for i, v in enumerate(sorted(one)) if v == x]) for x in one]
    assert ranks(one).tolist() == places
    pairs = list(itertools.combinations(range(len(one)), 2))
    same = sum(np.sign(one[i] - one[j]) * np.sign(other[i] - other[j]) for i, j in pairs)
    ties = [sum(v[i] != v[j] for i, j in pairs) for v in (one, other)]
    assert kendall(one, other) == pytest.approx(same / np.sqrt(ties[0] * ties[1]) if all(ties) else 0.0)
    if all(ties):
        assert spearman(one, other) == pytest.approx(np.corrcoef(ranks(one), ranks(other))[0, 1])
        assert spearman(one, one) == kendall(one, one) == pytest.approx(1.0)
        assert spearman(one, -other) == pytest.approx(-spearman(one, other))
    else:
        assert spearman(one, other) == 0.0


@given(NUMBERS, st.integers(0, 5))
def test_ties_favour_nobody(true, seed):
    flat = np.zeros(len(true))
    assert top_agrees(true, true) == 1.0
    assert top_agrees(flat, true) == pytest.approx((true == true.max()).mean())
    good, count = pairs_in_order(flat, true, 0.5)
    assert good == count / 2 and pairs_in_order(true, true, 0.5) == (count, count)
    assert pairs_in_order(-true, true, 0.5) == (0.0, count)
    chosen = order(true, np.random.default_rng(seed))
    assert sorted(chosen) == list(range(len(true))) and (np.diff(true[chosen]) <= 0).all()


def test_ties_are_broken_by_chance():
    first = {order(np.zeros(4), np.random.default_rng(seed))[0] for seed in range(40)}
    assert first == {0, 1, 2, 3}


def test_the_top_k_drop_takes_away_the_highest_scored():
    ablations = Ablations(3, 2, lambda masks: masks @ np.array([1.0, 10.0, 100.0]) - 200.0)
    judged = judge(ablations, ablations.leave_one_out(), np.array([0.1, 0.3, 0.2]), np.random.default_rng(0))
    assert judged.drops == (10.0, 110.0, 111.0)
    assert judged.top == 0.0 and judged.spearman == pytest.approx(0.5)


class Letters:
    """A tokenizer whose tokens are given pieces of text."""

    def __init__(self, pieces):
        self.pieces = pieces

    def stream(self):
        return self

    def push(self, token):
        return self.pieces[token]


def test_a_token_belongs_to_the_whole_word_it_is_a_part_of():
    pieces = ["Mau", "rice", " led", ", the", " team", "'", "s", " ", "彗星", "!"]
    found = words_of_tokens(Letters(pieces), range(len(pieces)))
    alone = [{"maurice"}, {"maurice"}, {"led"}, {"the"}, {"team"}, set(), {"s"}, set(), {"彗", "星"}, set()]
    assert found == alone
    assert words("Maurice's TEAM_2 彗星") == {"maurice", "s", "team", "2", "彗", "星"}


def test_calibration_counts_by_hand():
    """Three tokens, one of them no word, two passages: the first holds "comet", both hold "the"."""
    said = [{"the"}, set(), {"comet"}]
    share = np.array([[0.55, 0.35], [0.9, 0.1], [0.85, 0.05]])
    pairs = owed(said, share, np.array([0.2, 9.0, 3.0]), ["The comet.", "The moss"], "Which comet?")
    assert pairs == [
        Owed(0.55, 0.2, True, 1.0, False),
        Owed(0.35, 0.2, True, 1.0, False),
        Owed(0.85, 3.0, True, 0.0, True),
        Owed(0.05, 3.0, False, 1.0, True),
    ]
    bins = Calibration(pairs).bins()
    assert [(bin["least"], bin["tokens"], bin["held"]) for bin in bins] == [
        (0.0, 1, 0.0), (0.2, 1, 100.0), (0.4, 1, 100.0), (0.6, 0, 0.0), (0.8, 1, 100.0)
    ]  # fmt: skip
    assert bins[0]["question_only"] == 100.0 and bins[4]["others"] == 0.0
    assert [bin["tokens"] for bin in Calibration(pairs).bins(1.0)] == [1, 0, 0, 0, 1]
    edges = Calibration([Owed(r, 0.0, True, 0.0, False) for r in (0.0, 0.8, 1.0, 1.0 + 1e-12)]).bins()
    assert [bin["tokens"] for bin in edges] == [1, 0, 0, 0, 3]


def test_the_whole_of_it_on_a_small_file(squad, tiny_model):
    reader = reader_of(squad, tiny_model)
    asked = [*squad.sample(2), replace(squad.questions[0], text="Comet?")]
    outcomes = list(measure(reader, asked, (8,), one_prompt=1))
    made = table(outcomes, reader)
    assert made["questions"] == 3 and made["in_one_prompt"] == 1
    assert set(made["mixture"]) == {*SCORES, "ContextCite, 8", "by chance"}
    assert made["mixture"]["necessity"]["spearman"] == pytest.approx(1.0, abs=0.21)  # fp32: near ties may turn
    assert made["rerun"]["largest_difference"] < 1e-3
    assert made["one_prompt"]["ContextCite, 8"]["passes"] <= 8 and made["one_prompt"]["by chance"]["passes"] == 0
    assert sum(bin["tokens"] for bin in made["calibration"]) == sum(len(o.words) for o in outcomes if o)
    json.dumps(made, allow_nan=False)


class Package:
    """Stands in for the package's process: it explains what can be computed without it, and fails where told to."""

    def __init__(self, script, environment, threads):
        self.closed = False

    def call(self, name, *, cases, counts, **given):
        assert name == "open" and "{context}" in given["prompt"] and "{query}" in given["prompt"]
        self.cases, self.counts = iter(cases), counts
        return {"engine": "none"}

    def run(self):
        case = next(self.cases)
        if case["question"] == "Comet?":
            raise Fault("IndexError: an answer without a word")
        count = len(case["passages"])
        masks = draw(max(self.counts), count)
        value = Ablations(count, 5, lambda some: -np.exp(-(some @ np.arange(count))) - 0.1)
        scores = {str(n): value.context_cite(n).tolist() for n in self.counts}
        return {
            "value": 1.0, "scores": scores, "masks": masks.tolist(), "length": 5, "asked": 256,
            "logits": logit(value.log_p(masks)).tolist(), "lost": value.leave_one_out().tolist(),
            "passes": dict.fromkeys(scores, value.run), "tokens": dict.fromkeys(scores, 10),
            "drops": {n: [value.drop([count - 1])] for n in scores},
        }  # fmt: skip

    def close(self):
        self.closed = True


def beside_of(squad, model, monkeypatch, package):
    reader = reader_of(squad, model)
    asked = [*squad.sample(2), replace(squad.questions[0], text="Comet?")]
    outcomes = [one for one in measure(reader, asked, (8,)) if one]
    monkeypatch.setattr(beside, "Worker", package)
    monkeypatch.setattr(beside, "as_folder", lambda checkpoint, tell: Path("nowhere"))
    monkeypatch.setattr(Environment, "install", lambda self, tell: None)
    return beside.context_cite(outcomes, None, reader.settings, 1, lambda words: None, lambda count: None)


def test_the_package_is_judged_as_we_are_and_its_failures_are_told(squad, tiny_model, monkeypatch):
    made = beside_of(squad, tiny_model, monkeypatch, Package)
    assert made["questions"] == 2 and made["asked"] == 256 and "Comet?" in made["failed"][0]
    assert made["solver_difference"] < 1e-9
    row = made["rows"]["context-cite, 256"]
    assert row["top"] == 100.0 and row["tokens"] == 10 and row["spearman"] > 0.8
    json.dumps(made, allow_nan=False)


def test_a_package_that_draws_otherwise_is_not_compared(squad, tiny_model, monkeypatch):
    class Other(Package):
        def run(self):
            ran = super().run()
            return {**ran, "masks": ran["masks"][::-1]}

    with pytest.raises(Fault, match="draws other ablations"):
        beside_of(squad, tiny_model, monkeypatch, Other)


def test_the_prompt_of_the_package_is_ours_with_its_places():
    filled = beside.one_prompt(Prompt("Read {this}.", "\n\nQuestion:", " {x}")).format(context="C {a}", query="Q")
    assert filled == "Read {this}.\n\nC {a}\n\nQuestion: Q {x}"


def test_responsibility_is_the_mean_over_tokens(squad, tiny_model):
    answered = answer(reader_of(squad, tiny_model), QUESTION)
    assert answered is not None
    share_TS = np.array([step.share_S for step in answered.steps])
    np.testing.assert_allclose(responsibility(answered), share_TS.mean(0)[: len(answered.hits)], atol=1e-12)


def test_branches_of_several_passages_are_left_out_whole(squad, tiny_model):
    outcomes = list(measure(reader_of(squad, tiny_model, paths="sets", passages=10), squad.sample(1), (8,)))
    assert outcomes[0] is not None and outcomes[0].difference < 1e-3
    assert max(sum(text in path for text in TEXTS) for path in outcomes[0].passages) == 2


def test_neighbours_are_refused(squad, tiny_model):
    with pytest.raises(Fault, match="lambda_knn 0"):
        next(measure(reader_of(squad, tiny_model, lambda_knn=0.2), squad.sample(1)))


def test_what_is_beside_must_be_known(tmp_path):
    done = CliRunner().invoke(app, ["eval", "evidence", str(tmp_path / "q.json"), "--beside", "lime"])
    assert done.exit_code == 2 and "context-cite" in done.output
