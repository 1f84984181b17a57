"""Beam search on chains over a few tokens, where everything can be enumerated, and on a model with every cache.

One beam is greedy; with a beam for every text the best is found; a cache changes nothing; a score is what the texts'
log-probabilities say.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cache_specs import decoder, specs, unrounded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.make import CacheSpec
from openbook.lm.decoding.beam import Beams, Found, beam_search
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.generate import choose
from openbook.lm.decoding.hypotheses import Text
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.seq2seq import Continuations, Seq2Seq, classic
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec
from openbook.lm.stack import Memory

END = 0


class Chain:
    """A Markov chain, one for each text that is begun."""

    def __init__(self, first_BV: Tensor, next_BVV: Tensor) -> None:
        self.first_BV, self.next_BVV = first_BV, next_BVV
        self.texts = list(range(len(first_BV)))

    def start(self) -> Tensor:
        return self.first_BV

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        self.texts = [self.texts[parent] for parent in parents]
        return self.next_BVV[self.texts, list(tokens)]

    def log_p(self, text: Sequence[int], which: int = 0) -> float:
        total = self.first_BV.double().log_softmax(-1)[which, text[0]]
        for a, b in itertools.pairwise(text):
            total = total + self.next_BVV.double().log_softmax(-1)[which, a, b]
        return float(total)


@st.composite
def chains(draw: st.DrawFn, texts: int = 1, least: int = 2) -> Chain:
    V = draw(st.integers(least, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    sharp = draw(st.sampled_from([0.3, 1.0, 3.0]))
    first = sharp * torch.randn(texts, V, generator=generator)
    return Chain(first, sharp * torch.randn(texts, V, V, generator=generator))


KINDS: list[Any] = [True, False, "never"]


def texts_of(vocabulary: int, limit: int) -> list[tuple[int, ...]]:
    """Every text up to the limit: ended by END, or cut at the limit."""
    found = [(*body, END) for n in range(limit) for body in itertools.product(range(1, vocabulary), repeat=n)]
    return found + list(itertools.product(range(1, vocabulary), repeat=limit))


@given(chains(), st.integers(1, 4), st.sampled_from([-1.0, 0.0, 0.6, 1.0, 2.0]))
@settings(deadline=None, max_examples=80)
def test_with_a_beam_for_every_beginning_the_best_is_found(chain: Chain, limit: int, alpha: float) -> None:
    """V^(T−1) beams are wide enough, for a search that ends only where nothing better can come."""
    V = chain.first_BV.shape[1]
    ranked = sorted(texts_of(V, limit), key=lambda text: -chain.log_p(text) / len(text) ** alpha)
    best = beam_search(chain, [Draft({END})], Beams(V ** (limit - 1), alpha, "never"), limit)[0][0]
    written = (*best.tokens, END) if best.reason == "end" else best.tokens
    assert best.score == pytest.approx(chain.log_p(ranked[0]) / len(ranked[0]) ** alpha, abs=1e-5)
    assert chain.log_p(written) / len(written) ** alpha == pytest.approx(best.score, abs=1e-5)


class Alternating:
    """A guide that forbids a token after itself, and the end after an odd number of tokens."""

    def __init__(self, tokens: tuple[int, ...] = ()) -> None:
        self.tokens = tokens

    accepting, complete = True, False

    def fork(self) -> Alternating:
        return Alternating(self.tokens)

    def mask(self, vocabulary: int) -> Tensor:
        return torch.tensor([self.allows(self.tokens, token) for token in range(vocabulary)])

    def add(self, token: int) -> None:
        self.tokens += (token,)

    @staticmethod
    def allows(tokens: tuple[int, ...], token: int) -> bool:
        return tokens[-1:] != (token,) and (token != END or len(tokens) % 2 == 0)


@given(chains(least=3), st.integers(1, 4), st.sampled_from([0.0, 1.0]))
@settings(deadline=None, max_examples=40)
def test_under_a_constraint_the_best_that_satisfies_it_is_found(chain: Chain, limit: int, alpha: float) -> None:
    """Each hypothesis is held to it by itself; its score is the model's, not renormalised."""
    V = chain.first_BV.shape[1]
    fitting = [t for t in texts_of(V, limit) if all(Alternating.allows(t[:n], t[n]) for n in range(len(t)))]
    scores = {text: chain.log_p(text) / len(text) ** alpha for text in fitting}
    draft = Draft({END}, guide=Alternating())  # type: ignore[arg-type]
    best = beam_search(chain, [draft], Beams(64, alpha, "never"), limit)[0][0]
    written = (*best.tokens, END) if best.reason == "end" else best.tokens
    assert best.score == pytest.approx(max(scores.values()), abs=1e-5)
    assert scores[written] == pytest.approx(best.score, abs=1e-5)


@given(chains(), st.integers(1, 3), st.sampled_from(KINDS))
@settings(deadline=None, max_examples=40)
def test_with_a_beam_for_every_text_all_are_found(chain: Chain, limit: int, early: Any) -> None:
    every = texts_of(chain.first_BV.shape[1], limit)
    found = beam_search(chain, [Draft({END})], Beams(64, 1.0, early), limit)[0]
    assert sorted((*f.tokens, END) if f.reason == "end" else f.tokens for f in found) == sorted(every)


@given(chains(), st.integers(1, 6), st.integers(1, 5), st.sampled_from([0.0, 1.0]), st.sampled_from(KINDS))
@settings(deadline=None, max_examples=60)
def test_a_score_is_the_likelihood_of_its_text(chain: Chain, limit: int, width: int, alpha: float, early: Any) -> None:
    found = beam_search(chain, [Draft({END})], Beams(width, alpha, early), limit)[0]
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
    for text in found:
        written = (*text.tokens, END) if text.reason == "end" else text.tokens
        assert text.reason == "end" or len(written) == limit
        assert sum(text.log_p) == pytest.approx(chain.log_p(written), abs=1e-4)
        assert text.score == pytest.approx(chain.log_p(written) / len(written) ** alpha, abs=1e-4)


def greedy(chain: Any, limit: int, penalty: float = 1.0) -> tuple[int, ...]:
    return tuple(token for token, _ in choose(chain, Draft({END}), Sampling(repetition_penalty=penalty), limit))


@given(chains(), st.integers(1, 8), st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from(KINDS))
@settings(deadline=None, max_examples=60)
def test_one_beam_is_greedy(chain: Chain, limit: int, alpha: float, early: Any) -> None:
    expected = greedy(chain, limit)
    chain.texts = [0]
    assert beam_search(chain, [Draft({END})], Beams(1, alpha, early), limit)[0][0].tokens == expected


@given(chains(texts=3), st.integers(1, 5), st.integers(1, 4), st.sampled_from(KINDS))
@settings(deadline=None, max_examples=40)
def test_texts_of_one_batch_are_found_as_each_alone(chain: Chain, limit: int, width: int, early: Any) -> None:
    together = beam_search(chain, [Draft({END}) for _ in range(3)], Beams(width, 1.0, early), limit)
    for which, found in enumerate(together):
        alone = Chain(chain.first_BV[[which]], chain.next_BVV[[which]])
        assert found == beam_search(alone, [Draft({END})], Beams(width, 1.0, early), limit)[0]


@given(chains(), st.integers(1, 5), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_notes_are_of_the_rows_that_were_chosen_from(chain: Chain, limit: int, width: int) -> None:
    """What a mixture needs for its evidence: each number's own row, also of the last token."""
    rows: list[Tensor] = []

    class Watched(Chain):
        def start(self) -> Tensor:
            rows.append(super().start())
            return rows[-1]

        def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
            rows.append(super().step(parents, tokens))
            return rows[-1]

    watched = Watched(chain.first_BV, chain.next_BVV)

    def note(row: int, token: int) -> float:
        return float(rows[-1].log_softmax(-1)[row, token])

    for text in beam_search(watched, [Draft({END})], Beams(width), limit, note=note)[0]:
        assert text.notes == text.log_p


class Afresh:
    """The same search without a cache: every step reads every text whole."""

    def __init__(self, runner: TorchRunner, texts: Sequence[Sequence[int]]) -> None:
        self.runner, self.texts = runner, [list(text) for text in texts]

    def start(self) -> Tensor:
        return torch.stack([self.runner.forward(torch.tensor([text]))[0, -1] for text in self.texts])

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        self.texts = [[*self.texts[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        return self.start()


def same(found: list[Found], expected: list[Found]) -> None:
    assert [f.tokens for f in found] == [f.tokens for f in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-9)


@given(specs(), st.integers(0, 99), st.integers(1, 4), st.sampled_from(["dense", "ring", "paged"]))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_a_cache_changes_nothing(spec: ModelSpec, seed: int, width: int, layout: str) -> None:
    """Law 1 for searches: two texts of different length, beams of each, over windows, pins and shared keys."""
    runner, texts = TorchRunner(decoder(spec, seed)), [[3, 1, 4, 1, 5, 9, 2], [2, 7]]
    with unrounded():
        hypotheses = Text(runner, texts, 8, CacheSpec(layout, block=3))
        found = beam_search(hypotheses, [Draft({END})] * 2, Beams(width), 8)
        expected = beam_search(Afresh(runner, texts), [Draft({END})] * 2, Beams(width), 8)
    for one, other in zip(found, expected, strict=True):
        same(one, other)


@given(specs(), st.integers(0, 99), st.sampled_from(["dense", "ring", "paged"]))
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])
def test_one_beam_of_a_decoder_is_greedy(spec: ModelSpec, seed: int, layout: str) -> None:
    runner, kind = TorchRunner(decoder(spec, seed)), CacheSpec(layout, block=3)
    with unrounded():
        expected = greedy(Text(runner, [[3, 1, 4]], 8, kind), 8)
        found = beam_search(Text(runner, [[3, 1, 4]], 8, kind), [Draft({END})], Beams(1), 8)[0]
    assert [f.tokens for f in found] == [expected]


def test_an_encoder_decoder_searches_as_without_a_cache_and_one_beam_is_greedy() -> None:
    torch.manual_seed(0)
    model = Seq2Seq(classic(23, width=16, heads=2, inner=24, layers=2)).double().eval()
    texts = torch.randint(3, 23, (2, 5))
    with torch.no_grad(), unrounded():
        memory = model.encode(
            texts, torch.arange(5).expand(2, 5).masked_fill(torch.tensor([[0] * 5, [0] * 4 + [1]]) > 0, -1)
        )
        for layout, width in itertools.product(("dense", "ring", "paged"), (1, 3)):
            kind = CacheSpec(layout, block=3)
            drafts = [Draft({END}), Draft({END})]
            found = beam_search(Continuations(model, memory, 6, kind=kind), drafts, Beams(width), 6)
            for which, each in enumerate(found):
                alone = memory.select([which])
                same(each, beam_search(Rewritten(model, alone), [Draft({END})], Beams(width), 6)[0])
                if width == 1:
                    assert each[0].tokens == greedy(Continuations(model, alone, 6, kind=kind), 6)


class Rewritten:
    """An encoder–decoder's hypotheses of one text without a cache."""

    def __init__(self, model: Seq2Seq, memory: Memory) -> None:
        self.model, self.memory, self.texts = model, memory, [[model.spec.start]]

    def start(self) -> Tensor:
        rows = self.memory.select([0] * len(self.texts))
        return self.model(torch.tensor(self.texts), memory=rows)[:, -1]

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        self.texts = [[*self.texts[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        return self.start()


@given(specs(), st.integers(0, 99), st.sampled_from([0.0, 1.0]))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
def test_a_score_of_a_model_is_recomputed_by_one_forward(spec: ModelSpec, seed: int, alpha: float) -> None:
    runner, text = TorchRunner(decoder(spec, seed)), [3, 1, 4]
    with unrounded():
        for found in beam_search(Text(runner, [text], 6), [Draft({END})], Beams(3, alpha), 6)[0]:
            written = [*found.tokens, *[END] * (found.reason == "end")]
            log_p_TV = runner.forward(torch.tensor([text + written]))[0].log_softmax(-1)
            total = sum(float(log_p_TV[len(text) - 1 + t, token]) for t, token in enumerate(written))
            assert found.score == pytest.approx(total / len(written) ** alpha, abs=1e-6)


RUNNER = TorchRunner(decoder(ModelSpec(9, 8, (LayerSpec(AttentionSpec(2, 1, 4), FeedForwardSpec(8)),), 64), 0))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Beams(0),
        lambda: Beams(65),
        lambda: Beams(2, math.inf),
        lambda: Text(RUNNER, [], 2),
        lambda: Text(RUNNER, [[3], []], 2),
        lambda: Text(RUNNER, [[3] * 60], 5),
        lambda: Beams(2, early_stopping="sometimes"),  # type: ignore[arg-type]
        lambda: beam_search(Chain(torch.zeros(1, 2), torch.zeros(1, 2, 2)), [Draft()], Beams(2), 0),
        lambda: beam_search(Chain(torch.full((1, 2), math.nan), torch.zeros(1, 2, 2)), [Draft()], Beams(2), 1),
    ],
)
def test_what_cannot_be_searched_is_a_fault(wrong: Any) -> None:
    with pytest.raises(Fault):
        wrong()


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "beam-search.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "beam-search.md", "exec"), {})  # noqa: S102 - our own page
    assert capsys.readouterr().out == "1 ['the', 'cat']\n2 ['a', 'comet']\n"
