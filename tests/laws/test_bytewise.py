"""A model over tokens read over bytes equals the sum over all its tokenisations, by brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.errors import Fault
from openbook.lm.decoding.bytewise import CHOICES, END, Bytewise, Next
from openbook.lm.decoding.spelt import TokenRows
from openbook.lm.decoding.trie import Trie

ALPHABET = b"ab"
SPELLINGS = st.lists(st.binary(min_size=1, max_size=3).map(lambda b: bytes(ALPHABET[c % 2] for c in b)), min_size=1)


class Chains:
    """A token model with memory: what follows depends on the last token, and is drawn. Rows hold their whole text."""

    merges, read, written = False, 0, 0

    def __init__(self, spellings, seed, sharp=1.0, rest=0.0):
        self.spellings, self.trie = spellings, Trie(spellings)
        count = len(spellings)
        generator = np.random.default_rng(seed)
        logits = sharp * generator.normal(size=(count + 1, count + 1))  # the last column ends; the last row begins
        self.log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True) + math.log1p(-rest)
        self.log_rest = math.log(rest) if rest else -math.inf
        self.rows = [()]

    def _next(self, row):
        log_p = self.log_p[row[-1] if row else -1]
        return Next(self.trie, log_p[:-1][self.trie.order_V], float(log_p[-1]), self.log_rest)

    def first(self):
        return self._next(())

    def follow(self, parents, tokens):
        chosen = [() if token is None else (int(self.trie.order_V[token]),) for token in tokens]
        self.rows = [self.rows[p] + t for p, t in zip(parents, chosen, strict=True)]
        return [self._next(row) for row, token in zip(self.rows, tokens, strict=True) if token is not None]

    def again(self, text):
        return None

    def log_begins(self, text: bytes) -> float:
        """log P(text begins so): every sequence that covers it, and no token more."""
        found, waiting = [], [((), 0.0, b"")]
        while waiting:
            row, log_p, said = waiting.pop()
            if len(said) >= len(text):
                if said.startswith(text):
                    found.append(log_p)
                continue
            if text.startswith(said):
                step = self.log_p[row[-1] if row else -1]
                waiting += [((*row, t), log_p + step[t], said + s) for t, s in enumerate(self.spellings)]
        return float(np.logaddexp.reduce([-np.inf, *found]))

    def log_is(self, text: bytes) -> float:
        """log P(text, then the end)."""
        found = []
        waiting = [((), 0.0, b"")]
        while waiting:
            row, log_p, said = waiting.pop()
            step = self.log_p[row[-1] if row else -1]
            if said == text:
                found.append(log_p + step[-1])
            if len(said) < len(text) and text.startswith(said):
                waiting += [((*row, t), log_p + step[t], said + s) for t, s in enumerate(self.spellings)]
        return float(np.logaddexp.reduce([-np.inf, *found]))


@given(SPELLINGS, st.integers(0, 999), st.sampled_from([0.3, 1.0, 4.0]))
@settings(max_examples=40)
def test_bytes_equal_the_sum_over_every_tokenisation(spellings, seed, sharp):
    """Σ over bytes and the end = 1, and each equals enumeration; repeated spellings are tokens of their own."""
    model = Chains(spellings, seed, sharp)
    for text in itertools.product(ALPHABET, repeat=4):
        bytewise = Bytewise(Chains(spellings, seed, sharp), width=10**6, least=0)
        for n in range(len(text)):
            said = bytes(text[:n])
            log_here = model.log_begins(said)
            if log_here == -math.inf:
                assert bytewise.width == 0 and bytewise.unknown == 1
                break
            log_p = bytewise.log_p()
            assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
            for byte in ALPHABET:
                wanted = model.log_begins(said + bytes([byte])) - log_here
                assert log_p[byte] == pytest.approx(wanted, abs=1e-9)
            assert log_p[END] == pytest.approx(model.log_is(said) - log_here, abs=1e-9)
            assert bytewise.log_lower == pytest.approx(log_here, abs=1e-9)
            bytewise.step(text[n])


@given(SPELLINGS, st.integers(0, 999), st.integers(1, 3), st.sampled_from([0, 1e-2, 0.2]), st.sampled_from([0.0, 0.1]))
@settings(max_examples=40)
def test_what_is_cut_is_bounded_and_nothing_becomes_impossible(spellings, seed, width, least, rest):
    model = Chains(spellings, seed)
    text = bytes(np.random.default_rng(seed).choice(list(ALPHABET), size=6))
    bytewise = Bytewise(Chains(spellings, seed, rest=rest), width=width, least=least)
    for n, byte in enumerate(text):
        log_p = bytewise.log_p()
        assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-9)
        if bytewise.unknown > 0:
            assert np.isfinite(log_p).all()
        if rest == 0:  # of a model that tells all, P is known by brute force
            assert bytewise.log_lower <= model.log_begins(text[:n]) + 1e-9
            assert bytewise.log_upper >= model.log_begins(text[:n]) - 1e-9
        assert bytewise.width <= width
        known = bytewise.log_known()
        low, high = known[byte], np.logaddexp(known[byte], np.log(max(bytewise.unknown, 1e-300)))
        assert low - 1e-9 <= log_p[byte] <= high + 1e-9
        bytewise.step(byte)


@given(SPELLINGS, st.integers(0, 99))
def test_a_trie_holds_what_it_was_given(spellings, seed):
    trie, log_p_V = Trie(spellings), np.random.default_rng(seed).normal(size=len(spellings))
    for text in {s[:n] for s in spellings for n in range(4)}:
        node = trie.root
        for byte in text:
            node = trie.child(node, byte)
        assert sorted(trie.order_V[list(trie.ends(node))]) == [i for i, s in enumerate(spellings) if s == text and text]
        longer = [p for i, p in zip(trie.order_V, log_p_V, strict=True) if spellings[i].startswith(text)
                  and len(spellings[i]) > len(text)]  # fmt: skip
        assert trie.log_inner(node, log_p_V) == pytest.approx(np.logaddexp.reduce([-np.inf, *longer]))
        _, sums_C = trie.log_children(node, log_p_V)
        assert np.logaddexp.reduce([-np.inf, *sums_C]) == pytest.approx(trie.log_inner(node, log_p_V))
    assert trie.child(trie.root, ord("c")) is None


def test_spellings_of_nothing_are_refused():
    with pytest.raises(ValueError, match="one byte or more"):
        Trie([b"a", b""])
    with pytest.raises(Fault, match="tokenisations"):
        Bytewise(Chains([b"a"], 0), width=0)


@given(st.binary(max_size=12))
@settings(max_examples=8)
def test_a_model_of_one_token_a_byte_is_itself(tiny_model, text):
    """There is one tokenisation, so the bytewise distribution is the model's own, of what can be in a text."""
    prompt = [3, 5, 8]
    bytewise = Bytewise(TokenRows(tiny_model, prompt, 16), least=0)
    spelt = tiny_model.spelt
    token_of = {tiny_model.tokenizer.token_bytes(int(i))[0]: int(i) for i in spelt.ids_V}
    read = list(prompt)
    for byte in text:
        bytewise.step(byte)
        read.append(token_of[byte])
    scores_V = tiny_model.runner.forward(torch.tensor([read]))[0, -1].double()
    allowed = torch.tensor([*spelt.ids_V, *spelt.ends])
    expected = scores_V - scores_V[allowed].logsumexp(0)
    log_p = bytewise.log_p()
    assert bytewise.unknown == 0 and len(log_p) == CHOICES
    for byte in range(256):
        assert log_p[byte] == pytest.approx(float(expected[token_of[byte]]), abs=1e-4)


def test_what_was_cut_by_mistake_is_read_again(tiny_model):
    """A share so high that all is cut at once: the text is read anew in the tokenizer's tokens, exactly."""
    text = b"unlikely text"
    strict = Bytewise(TokenRows(tiny_model, [3], 32), width=1, least=0.9)
    whole = Bytewise(TokenRows(tiny_model, [3], 32), least=0)
    for byte in text:
        strict.step(byte)
        whole.step(byte)
        assert strict.log_lower <= whole.log_lower + 1e-4 <= strict.log_upper + 2e-4
    assert strict.width == 1
    np.testing.assert_allclose(strict.log_known()[:END].max(), whole.log_p()[:END].max(), atol=1e-2)


def test_a_half_character_is_gone_on_with_after_reading_again(tiny_model):
    bytewise = Bytewise(TokenRows(tiny_model, [3], 32), width=1, least=0.9)
    for byte in "né".encode()[:-1]:
        bytewise.step(byte)
    assert np.exp(bytewise.log_p()).sum() == pytest.approx(1)


@pytest.mark.parametrize(("prompt", "room"), [([], 4), ([1], 0), ([1], 10**6)])
def test_what_cannot_be_read_is_refused(tiny_model, prompt, room):
    with pytest.raises(Fault):
        TokenRows(tiny_model, prompt, room)


@given(st.text("the and é", min_size=1, max_size=8))
@settings(max_examples=6)
def test_the_tokenizers_own_tokens_are_one_of_the_tokenisations(merging_model, text):
    """So the text over bytes is at least as likely as in them; and cuts keep both bounds."""
    model = merging_model
    tokens = model.tokenizer.encode(text)
    scores_TV = model.runner.forward(torch.tensor([[3, *tokens]]))[0]
    where = {int(token): v for v, token in enumerate(model.spelt.ids_V)}
    own = sum(float(model.spelt.next(row).log_p_V[where[token]]) for row, token in zip(scores_TV, tokens, strict=False))
    whole = Bytewise(TokenRows(model, [3], 32), width=10**6, least=0)
    cut = Bytewise(TokenRows(model, [3], 32), width=2, least=0.01)
    for byte in text.encode():
        whole.step(byte)
        cut.step(byte)
    assert whole.unknown == 0 and whole.log_lower >= own - 1e-4
    assert cut.log_lower <= whole.log_lower + 1e-4 and whole.log_lower <= cut.log_upper + 1e-4
    again = TokenRows(model, [3], 32).again(text.encode())
    assert again is not None and again[1] == pytest.approx(own, abs=1e-4)
