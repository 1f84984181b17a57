"""Decoding's rules: what may be drawn, what a stop string leaves of a text, what is streamed and when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.constrain import Constraint
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.generate import Writing, choose, generate
from openbook.lm.decoding.hypotheses import Text
from openbook.lm.decoding.sampling import Sampling, penalise
from openbook.lm.decoding.stops import Spelling, check_stops, spelled
from openbook.lm.model import LanguageModel
from openbook.lm.tokenizer import Tokenizer

SHARED = [HealthCheck.function_scoped_fixture]
WORDS = st.text("ab é€", max_size=12)


@st.composite
def scores(draw: st.DrawFn) -> Tensor:
    numbers = st.floats(-20, 20, width=32)
    return torch.tensor(draw(st.lists(numbers, min_size=1, max_size=12)))


@given(scores(), st.floats(0.1, 3.0), st.integers(1, 14), st.floats(0.01, 1.0), st.floats(0.0, 1.0))
@settings(deadline=None)
def test_each_cut_keeps_the_likeliest_of_what_the_last_one_left(
    scores_V: Tensor, temperature: float, k: int, top_p: float, min_p: float
) -> None:
    everything, p = Sampling(temperature).kept(scores_V)
    assert len(everything) == len(scores_V) and float(p.sum()) == pytest.approx(1.0)
    kept: dict[str, int] = {}
    for name, cut in {"k": Sampling(temperature, top_k=k), "kp": Sampling(temperature, top_k=k, top_p=top_p),
                      "kpm": Sampling(temperature, top_k=k, top_p=top_p, min_p=min_p)}.items():  # fmt: skip
        tokens, left = cut.kept(scores_V)
        assert tokens.tolist() == everything[: len(tokens)].tolist() and float(left.sum()) == pytest.approx(1.0)
        kept[name] = len(tokens)
    assert kept["k"] == min(k, len(scores_V)) and kept["kpm"] <= kept["kp"] <= kept["k"]
    mass = p[: kept["k"]] / p[: kept["k"]].sum()
    assert float(mass[: kept["kp"]].sum()) >= top_p - 1e-9
    assert kept["kp"] == 1 or float(mass[: kept["kp"] - 1].sum()) < top_p + 1e-9
    assert kept["kpm"] == 1 or float(p[kept["kpm"] - 1]) >= min_p * float(p[0]) - 1e-12


@given(
    scores(), st.sampled_from([None, 0.05, 0.5, 0.9, 1.0]), st.sampled_from([None, 0.0, 0.2, 1.0]), st.integers(1, 5)
)
@settings(deadline=None)
def test_sorting_a_few_first_changes_nothing(scores_V: Tensor, top_p: Any, min_p: Any, few: int) -> None:
    cut = Sampling(1.3, top_p=top_p, min_p=min_p)
    tokens, p = cut.kept(scores_V)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openbook.lm.decoding.sampling.FEW", few)
        again, p_again = cut.kept(scores_V)
    assert tokens.tolist() == again.tolist()
    torch.testing.assert_close(p_again, p)


@given(scores(), st.floats(0.2, 5.0), st.data())
@settings(deadline=None)
def test_a_penalty_makes_what_was_seen_less_likely_and_nothing_else(
    scores_V: Tensor, penalty: float, data: st.DataObject
) -> None:
    seen = data.draw(st.sets(st.integers(0, len(scores_V) - 1)))
    after_V = penalise(scores_V, seen, penalty)
    for token in range(len(scores_V)):
        before, after = float(scores_V[token]), float(after_V[token])
        if token not in seen or penalty == 1:
            assert after == before
        else:
            assert after <= before if penalty > 1 else after >= before
    # The inverse penalty takes it back.
    torch.testing.assert_close(penalise(after_V, seen, 1 / penalty), scores_V, rtol=1e-5, atol=1e-5)


def test_what_is_forbidden_is_never_drawn() -> None:
    scores_V = torch.tensor([-1.0, float("-inf"), 0.0, float("-inf")])
    for sampling in (Sampling(1.0), Sampling(5.0, top_k=4), Sampling(1.0, top_p=1.0), Sampling(1.0, min_p=0.0)):
        generator = sampling.generator()
        assert {sampling.pick(scores_V, generator) for _ in range(50)} == {0, 2}
    assert Sampling().pick(scores_V, Sampling().generator()) == 2


class Repeats:
    """A model that always prefers the same token."""

    def start(self) -> Tensor:
        return torch.tensor([[0.0, 2.0, 1.9, 1.0]])

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        return self.start()


def test_a_penalty_counts_what_was_seen_before_and_what_is_written() -> None:
    def written(penalty: float, seen: Sequence[int] = ()) -> list[int]:
        draft = Draft({0}, seen=seen)
        return [token for token, _ in choose(Repeats(), draft, Sampling(repetition_penalty=penalty), 4)]

    assert written(1.0) == [1, 1, 1, 1]
    assert written(1.5) == [1, 2, 1, 1]  # 2.0/1.5 = 1.33 and 1.9/1.5 = 1.27, both above 1.0
    assert written(3.0) == [1, 2, 3, 1]
    assert written(3.0, seen=[1]) == [2, 3, 1, 1]


def test_a_penalty_reaches_what_is_nearly_certain() -> None:
    """Of a mixture there are only log-probabilities: counted from 0 a loop at p = 0.99 could not be left."""
    p_V = torch.full((1000,), 0.001 / 998)
    p_V[0], p_V[1] = 0.99, 0.009

    def next_token(zero: float, penalty: float) -> int:
        return int(Draft(seen={0}, zero=zero).allow(p_V.log(), penalty).argmax())

    even = -math.log(1000)
    assert next_token(0.0, 3.0) == 0 and next_token(even, 2.0) == 0 and next_token(even, 3.5) == 1
    torch.testing.assert_close(Draft(seen={5}, zero=even).allow(p_V.log(), 3.5)[0], p_V.log()[0])


@given(st.lists(WORDS, max_size=3), st.lists(st.integers(0, 255), max_size=30), WORDS)
@settings(deadline=None, max_examples=150, suppress_health_check=SHARED)
def test_a_text_ends_before_its_first_stop_string(
    tiny_model: LanguageModel, stops: list[str], noise: list[int], words: str
) -> None:
    """Whatever the tokens are, halves of characters too: texts join to what stands before the first stop string, each
    token's text is its own, and nothing is given out that is not in the final text."""
    tokenizer = tiny_model.tokenizer
    stops = [stop for stop in stops if stop]
    tokens = [*tokenizer.encode(words), *noise[:10], *tokenizer.encode(words[::-1]), *noise[10:]]
    plain = tokenizer.stream()
    own = [plain.push(token) for token in tokens]
    whole = "".join(own) + plain.flush()
    found = ((whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole)
    cut = min(found, default=(0, len(whole)))[1]  # what is whole first, whatever the tokens
    spelling = Spelling(tokenizer, stops)
    given_out: list[tuple[int, str]] = []
    for (index, _), text in spelled(enumerate(tokens), lambda pair: pair[1], spelling):
        given_out.append((index, text))
    assert "".join(text for _, text in given_out) == whole[:cut]
    assert [index for index, _ in given_out] == list(range(len(given_out)))
    assert spelling.stopped == (cut < len(whole))
    assert all(text == own[index] for index, text in given_out[:-1])


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=2), st.text("abc", max_size=12))
@settings(deadline=None, suppress_health_check=SHARED)
def test_only_what_may_become_a_stop_string_is_held_back(
    tiny_model: LanguageModel, stops: list[str], text: str
) -> None:
    spelling, so_far, given_out = Spelling(tiny_model.tokenizer, stops), "", ""
    for token, character in zip(tiny_model.tokenizer.encode(text), text, strict=True):
        fork = spelling.fork()
        texts = spelling.push(token)
        assert fork.push(token) == texts  # a fork goes on as the original does
        if spelling.stopped:
            break
        so_far, given_out = so_far + character, given_out + "".join(texts)
        held = max(n for stop in stops for n in range(len(stop)) if so_far.endswith(stop[:n]))
        assert given_out == so_far[: len(so_far) - held]


def test_half_a_character_is_given_out_with_the_token_that_ends_it(tiny_model: LanguageModel) -> None:
    tokens = tiny_model.tokenizer.encode("a€b")
    spelling = Spelling(tiny_model.tokenizer)
    assert [spelling.push(token) for token in tokens] == [["a"], [], [], ["", "", "€"], ["b"]]
    spelling = Spelling(tiny_model.tokenizer)
    assert [spelling.push(token) for token in tokens[:3]] == [["a"], [], []]
    assert spelling.flush() == ["", "\ufffd"]


def greedy(model: LanguageModel, tokens: list[int], count: int) -> list[int]:
    written: list[int] = []
    while len(written) < count:
        best = int(model.runner.forward(torch.tensor([tokens + written]))[0, -1].argmax())
        if best in model.tokenizer.eos_ids:
            break
        written.append(best)
    return written


def test_a_model_writes_what_it_would_without_a_cache_and_says_why_it_ended(tiny_model: LanguageModel) -> None:
    prompt = tiny_model.tokenizer.encode("A comet.")
    writing = generate(tiny_model, "A comet.", max_tokens=12)
    pieces = list(writing)
    assert [piece.token for piece in pieces] == greedy(tiny_model, prompt, 12)
    assert writing.reason == "limit" and writing.fits is None
    text = "".join(piece.text for piece in pieces)
    assert text == tiny_model.tokenizer.decode([piece.token for piece in pieces])
    log_p = tiny_model.runner.forward(torch.tensor([prompt + [p.token for p in pieces]]))[0].log_softmax(-1)
    for place, piece in enumerate(pieces):
        assert piece.log_p == pytest.approx(float(log_p[len(prompt) - 1 + place, piece.token]), abs=1e-4)


def test_beams_and_draws_are_given_out_as_pieces_too(tiny_model: LanguageModel) -> None:
    one = [piece.token for piece in generate(tiny_model, "A comet.", max_tokens=8, beams=Beams(1))]
    assert one == [piece.token for piece in generate(tiny_model, "A comet.", max_tokens=8)]
    writing = generate(tiny_model, "A comet.", max_tokens=8, beams=Beams(4))
    assert len(list(writing)) <= 8 and writing.reason in ("limit", "end")
    hot = Sampling(50.0, seed=3)
    draws = [[p.token for p in generate(tiny_model, "A comet.", max_tokens=8, sampling=hot)] for _ in range(2)]
    assert draws[0] == draws[1] != one


class Script:
    """A model that writes a given text, whatever it is asked."""

    def __init__(self, tokens: Sequence[int], vocabulary: int) -> None:
        self.tokens, self.vocabulary, self.asked = list(tokens), vocabulary, 0

    def start(self) -> Tensor:
        scores = torch.full((1, self.vocabulary), -30.0)
        scores[0, self.tokens[min(self.asked, len(self.tokens) - 1)]] = 30.0
        self.asked += 1
        return scores

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        return self.start().expand(len(parents), -1)


def scripted(tokenizer: Tokenizer, text: str, **how: Any) -> tuple[Script, Writing]:
    script = Script([*tokenizer.encode(text), min(tokenizer.eos_ids)], tokenizer.vocabulary)
    return script, Writing(script, tokenizer, **how)


@pytest.mark.parametrize("beams", [None, Beams(1), Beams(3)])
def test_a_stop_string_ends_a_text_and_no_more_is_asked_for(tiny_model: LanguageModel, beams: Beams | None) -> None:
    script, writing = scripted(tiny_model.tokenizer, "one two\n\nthree", stop=["\n\n", "zzz"], beams=beams)
    assert "".join(piece.text for piece in writing) == "one two" and writing.reason == "stop"
    assert script.asked == len("one two\n\n") or beams == Beams(3)
    _, writing = scripted(tiny_model.tokenizer, "one two", stop=["\n"], beams=beams)
    assert "".join(piece.text for piece in writing) == "one two" and writing.reason == "end"


def test_an_encoder_decoder_or_anything_else_that_goes_on_can_write(tiny_model: LanguageModel) -> None:
    rows = Text(tiny_model.runner, [tiny_model.tokenizer.encode("A comet.")], 6)
    pieces = list(Writing(rows, tiny_model.tokenizer, max_tokens=6))
    assert [p.token for p in pieces] == greedy(tiny_model, tiny_model.tokenizer.encode("A comet."), 6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda model: generate(model, "", max_tokens=3), "go on from"),
        (lambda model: generate(model, "a", max_tokens=0), "1 or more"),
        (lambda model: generate(model, "a" * 2040, max_tokens=60), "context of 2048"),
        (lambda model: generate(model, "a", sampling=Sampling(1.0), beams=Beams(2)), "beams"),
        (lambda model: generate(model, "a", stop=["x"], constraint=Constraint("regex", "a+")), "stop string"),
        (lambda model: generate(model, "a", stop=[""]), "stop strings"),
        (lambda model: generate(model, "a", stop="end"), "a list"),
        (lambda model: check_stops(["x"] * 65), "at most 64"),
        (lambda model: Sampling(min_p=1.5), "min-p"),
        (lambda model: Sampling(repetition_penalty=0.0), "penalty"),
        (lambda model: Sampling(repetition_penalty=float("nan")), "penalty"),
        (lambda model: Sampling(float("inf")), "temperature"),
    ],
)
def test_what_cannot_be_written_is_a_fault_in_a_line(tiny_model: LanguageModel, wrong: Any, words: str) -> None:
    with pytest.raises(Fault, match=words) as caught:
        wrong(tiny_model)
    assert "\n" not in str(caught.value)


def test_a_damaged_model_is_told_not_believed(tiny_model: LanguageModel) -> None:
    class Broken(Repeats):
        def start(self) -> Tensor:
            return torch.full((1, 4), float("nan"))

    with pytest.raises(Fault, match="not finite"):
        list(Writing(Broken(), tiny_model.tokenizer, beams=Beams(2)))


def test_all_of_the_mass_is_every_token_however_unlikely() -> None:
    scores_V = torch.tensor([0.0, 0.25, -9.0, -8.5, 9.6])  # the first three sum to 1 in floats
    tokens, p = Sampling(0.5, top_p=1.0).kept(scores_V)
    assert tokens.tolist() == [4, 1, 0, 3, 2] and float(p.min()) > 0
