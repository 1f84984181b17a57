"""Reading ahead changes how fast an answer is written, and nothing else: tokens, evidence and certificates stay."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.backends.runner import Runner
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.layout import Cache
from openbook.lm.cache.make import CacheSpec
from openbook.lm.decoder import Decoder
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.constrain import Constraint
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.model import LanguageModel
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec
from openbook.mix.beam import search
from openbook.mix.decode import Step, generate
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.prompt import Framing
from openbook.mix.settings import Settings
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK, Branch, Branches
from openbook.mix.speculation import MOST, Speculation
from openbook.mix.weights import Array, normalise

SHARED_FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
PASSAGES = ["A comet.", "A bridge over the river, 212 metres long.", "Moss."]
QUESTION = "How long?"


class OneByOne(TorchRunner):
    """A torch runner whose numbers do not depend on how many tokens it is given: it runs one after the other."""

    batch_invariant = True

    def forward(
        self,
        tokens_BT: Tensor,
        cache: Cache | None = None,
        *,
        positions_BT: Tensor | None = None,
        keep: slice | Sequence[int] = slice(None),
    ) -> Tensor:
        if cache is None or positions_BT is not None:
            return super().forward(tokens_BT, cache, positions_BT=positions_BT, keep=keep)
        columns = [TorchRunner.forward(self, column, cache) for column in tokens_BT.split(1, dim=1)]
        return torch.cat(columns, dim=1)[:, keep if isinstance(keep, slice) else list(keep)]


def native(decoder: Decoder, caching: CacheSpec) -> Runner:
    pytest.importorskip("openbook_kernels", reason="the native kernels are not installed")
    from openbook.lm.backends.native import NativeRunner

    return NativeRunner(decoder.spec, decoder.state_dict().items(), caching, precision="fp32")


def static(decoder: Decoder, caching: CacheSpec) -> Runner:
    return TorchRunner(decoder, caching, static=True)


RUNNERS: dict[str, Callable[[Decoder, CacheSpec], Runner]] = {
    "torch": TorchRunner,
    "static": static,
    "one by one": OneByOne,
    "native": native,
}


def branches(model: LanguageModel, room: int) -> Branches:
    rows = [Branch(Label(f"p{i}", "passage"), f"p{i}", (text,)) for i, text in enumerate(PASSAGES)]
    return Branches(model, Framing(model.tokenizer), [*rows, CLOSED_BOOK], QUESTION, room=room)


class Foretold(Speculation):
    """Guesses that are right for as long as they are told to be, then wrong."""

    def __init__(self, text: Sequence[int], plan: Sequence[tuple[int, int]], vocabulary: int) -> None:
        self.text, self.plan, self.vocabulary = list(text), itertools.cycle(plan), vocabulary
        self.place = 0

    def after(self, token: int, share_S: Array, most: int) -> list[int]:
        self.place += 1
        assert share_S.sum() == pytest.approx(1.0) and (
            self.place > len(self.text) or self.text[self.place - 1] == token
        )
        right, wrong = next(self.plan)
        guess = self.text[self.place : self.place + right]
        other = self.text[self.place + right] + 1 if self.place + right < len(self.text) else 7
        return [*guess, *[other % self.vocabulary] * wrong][:most]


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"sampling": Sampling(1.0, seed=4)},
    "cut and drawn": {"sampling": Sampling(2.0, top_p=0.9, seed=2)},
    "penalised": {"sampling": Sampling(repetition_penalty=1.7)},
    "regex": {"regex": "[a-f ]{3,9}z?"},
}
LIMIT = 14


def written(
    model: LanguageModel, weights: Weights, how: dict[str, Any], guesses: Speculation | None = None
) -> tuple[list[Step], Branches, str | None]:
    source = branches(model, LIMIT)
    guide = model.guides.guide(Constraint("regex", how["regex"])) if "regex" in how else None
    draft = Draft(model.tokenizer.eos_ids, guide=guide)
    mixture = Mixture([source], weights)
    steps = generate(mixture, how.get("sampling", Sampling()), draft, LIMIT, fixed_prior=True, speculation=guesses)
    return list(steps), source, draft.reason


def assert_same(ahead: Sequence[Step], plain: Sequence[Step], exactly: bool) -> None:
    assert [step.token for step in ahead] == [step.token for step in plain]
    for one, other in zip(ahead, plain, strict=True):
        assert one.certified == other.certified
        if exactly:
            assert one.log_p == other.log_p
            assert np.array_equal(one.log_p_S, other.log_p_S) and np.array_equal(one.log_w_S, other.log_w_S)
        else:
            assert one.log_p == pytest.approx(other.log_p, abs=1e-4)
            np.testing.assert_allclose(one.log_p_S, other.log_p_S, atol=1e-4)
            np.testing.assert_allclose(one.log_w_S, other.log_w_S, atol=1e-4)


@pytest.mark.parametrize("name", RUNNERS)
@given(
    st.sampled_from(["dense", "ring", "paged"]),
    st.sampled_from(["raw", "int8"]),
    st.sampled_from(list(WAYS)),
    st.sampled_from([0.0, 0.5]),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=4),
)
@settings(deadline=None, max_examples=12, suppress_health_check=SHARED_FIXTURE)
def test_an_answer_is_what_it_would_have_been(
    tiny_model: LanguageModel,
    name: str,
    layout: str,
    codec: str,
    way: str,
    tau: float,
    plan: list[tuple[int, int]],
) -> None:
    """Bit for bit where the runner's numbers do not depend on the batch, else to rounding."""
    if name in ("torch", "static"):
        codec = "raw"  # a last bit may be a whole step of a codec
    runner = RUNNERS[name](tiny_model.runner.decoder, CacheSpec(layout, codec, block=5))  # type: ignore[attr-defined]
    model = replace(tiny_model, runner=runner)
    weights = Weights(normalise(np.log([0.4, 0.3, 0.2, 0.1])), tau, 0.8)
    plain, source, reason = written(model, weights, WAYS[way])
    tokens = [step.token for step in plain]
    ahead, other, over = written(model, weights, WAYS[way], Foretold(tokens, plan, model.spec.vocabulary))
    assert_same(ahead, plain, exactly=runner.batch_invariant)
    assert over == reason
    assert source.tally.proposed == source.tally.accepted == 0
    assert other.tally.steps + other.tally.accepted == source.tally.steps
    assert other.tally.accepted <= other.tally.proposed
    if plan == [(5, 0)] * len(plan) and len(tokens) > 3:
        assert other.tally.accepted > 0


def test_where_a_window_has_come_round_nothing_is_read_ahead(tiny_model: LanguageModel) -> None:
    layer = LayerSpec(AttentionSpec(4, 2, 8, rope=RopeSpec(), window=9), FeedForwardSpec(48))
    torch.manual_seed(1)
    decoder = Decoder(ModelSpec(tiny_model.tokenizer.vocabulary, 32, (layer,) * 2, 2048))
    weights = Weights(normalise(np.zeros(4)))
    for layout, may in (("ring", False), ("paged", True)):
        model = replace(tiny_model, runner=OneByOne(decoder, CacheSpec(layout, block=64)))
        plain, _, _ = written(model, weights, {})
        guesses = Foretold([step.token for step in plain], [(3, 0)], model.spec.vocabulary)
        ahead, source, _ = written(model, weights, {}, guesses)
        assert_same(ahead, plain, exactly=True)
        assert may or source.tally.proposed == 0


def test_whoever_goes_on_otherwise_does_not_see_what_was_read_ahead(tiny_model: LanguageModel) -> None:
    """Rows that are kept, tokens of their own, beams: all start from what was written."""
    model = replace(tiny_model, runner=OneByOne(tiny_model.runner.decoder))  # type: ignore[attr-defined]
    weights = Weights(normalise(np.log([0.4, 0.3, 0.2, 0.1])), 0.5)

    def begun(guess: Sequence[int]) -> tuple[Branches, Mixture]:
        source = branches(model, 12)
        mixture = Mixture([source], weights)
        mixture.expect(guess)
        mixture.advance(65)
        return source, mixture

    one, other = begun([66, 67, 68])[0], begun([])[0]
    assert torch.equal(one.step_each([1, 2, 3, 4]), other.step_each([1, 2, 3, 4]))
    one, other = begun([66, 67])[0], begun([])[0]
    one.keep([1, 3])
    other.keep([1, 3])
    assert torch.equal(one.step(66), other.step(66)) and one.texts == other.texts and len(one.texts) == 2
    found, plain = (search(begun(guess)[1], Beams(3), Draft(), 5) for guess in ([66, 67], []))
    for text, same in zip(found, plain, strict=True):
        assert_same(text.steps, same.steps, exactly=True)


def test_no_more_is_read_ahead_than_there_is_room(tiny_model: LanguageModel) -> None:
    source = branches(tiny_model, 4)
    source.expect([1] * MOST)
    source.step(65)
    assert source.tally.proposed == 3
    for token in (1, 2, 3):
        source.expect([1] * MOST)
        source.step(token)
    with pytest.raises(Fault, match="context is full"):
        source.step(4)
    source = branches(tiny_model, 9)
    for token in range(4):  # what is taken back is room again
        source.expect([70, 71, 72])
        source.step(token)
    assert source.tally.proposed == 12


class Deaf:
    """A source that expects nothing."""

    labels = (Label("deaf", "model"),)

    def start(self) -> Tensor:
        return torch.zeros(1, 259)

    def step(self, token: int) -> Tensor:
        return torch.arange(259.0)[None] * 0.01


def test_sources_that_cannot_read_ahead_go_along(tiny_model: LanguageModel) -> None:
    model = replace(tiny_model, runner=OneByOne(tiny_model.runner.decoder))  # type: ignore[attr-defined]

    def steps(guesses: Speculation | None) -> list[Step]:
        mixture = Mixture([branches(model, LIMIT), Deaf()], Weights(normalise(np.zeros(5)), 0.5))
        return list(generate(mixture, Sampling(1.0, seed=1), Draft(), LIMIT, speculation=guesses))

    plain = steps(None)
    guesses = Foretold([step.token for step in plain], [(3, 1)], model.spec.vocabulary)
    assert_same(steps(guesses), plain, exactly=True)


# Guesses.


def spelled(token: int) -> bytes:
    return b" a" if token % 2 else b"b"


TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=3)
EVEN = np.full(3, 1 / 3)


@given(TEXTS, st.lists(st.integers(0, 3), max_size=12))
@settings(deadline=None)
def test_matches_are_all_places_that_the_written_words_end_at(texts: list[list[int]], text: list[int]) -> None:
    guesses = Speculation(texts, spelled)
    for count, token in enumerate(text, 1):
        guesses.after(token, EVEN, 4)
        found = {(place.text, place.at): place.length for place in guesses._places()}
        wanted = {}
        for number, there in enumerate([*texts, text[:count]]):
            for at in range(1, len(there)):
                pairs = zip(reversed(there[:at]), reversed(text[:count]), strict=False)
                length = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
                if length:
                    wanted[number, at] = length
        assert found == wanted


@given(
    TEXTS, st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 5), st.sampled_from([0.0, 0.02, 0.2])
)
@settings(deadline=None)
def test_a_guess_goes_on_where_the_written_words_stand(
    texts: list[list[int]], text: list[int], most: int, cost: float
) -> None:
    guesses = Speculation(texts, spelled, row_cost=cost)
    for count, token in enumerate(text, 1):
        guess = guesses.after(token, EVEN, most)
        assert len(guess) <= min(most, MOST)
        there = [*texts, text[:count]]
        assert not guess or any(
            words[at - 1] == token and words[at : at + len(guess)] == guess
            for words in there
            for at in range(1, len(words))
        )


@given(st.lists(st.floats(0.01, 0.99), max_size=9), st.integers(1, 12), st.sampled_from([0.0, 0.02, 0.2, 1.0]))
def test_the_length_gives_the_most_tokens_for_the_cost(rates: list[float], rows: int, cost: float) -> None:
    def worth(count: int) -> float:
        tokens = sum(float(np.prod(rates[:n])) for n in range(count + 1))
        return tokens / (1 + cost * rows * (1 + count))

    found = Speculation([[]] * rows, spelled, row_cost=cost)._length(rates)
    assert worth(found) == pytest.approx(max(worth(count) for count in range(len(rates) + 1)))


def test_hits_make_guesses_longer_and_misses_end_them() -> None:
    passage = list(range(100, 160))
    sure = np.array([1.0])
    guesses, lengths = Speculation([passage], lambda token: b"x"), []
    for token in passage[:20]:
        lengths.append(len(guesses.after(token, sure, MOST)))
    assert lengths[0] < lengths[-1] <= MOST and lengths[-1] > 5
    guesses, lengths = Speculation([passage], lambda token: b"x"), []
    for token in passage[::2]:  # each of them stands in the passage, none is what was guessed
        lengths.append(len(guesses.after(token, sure, MOST)))
    assert lengths[0] > 0 and lengths[-1] == 0


def test_a_text_of_one_word_costs_no_more_than_another() -> None:
    guesses = Speculation([[5] * 5000] * 4, spelled)
    for _ in range(20):
        guesses.after(5, np.full(4, 0.25), 8)
    assert len(guesses._places()) <= 256


def test_beams_do_not_speculate() -> None:
    with pytest.raises(Fault, match="not both"):
        Settings(speculate=True, beams=Beams(2))
    assert Settings(beams=Beams(2)).speculate is None
