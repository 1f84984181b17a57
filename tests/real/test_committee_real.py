"""Real members: law 8 on a text of ours under two real vocabularies, and the command as people meet it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from openbook.cli import main
from openbook.lm.decoding.bytewise import Bytewise
from openbook.lm.decoding.spelt import TokenRows
from openbook.lm.model import LanguageModel, load_model
from openbook.lm.weights.pull import find, installed
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.source import Label
from openbook.mix.sources.member import BytewiseMember
from openbook.mix.weights import normalise

SMALL = find("smollm2")
pytestmark = pytest.mark.skipif(SMALL not in installed(), reason="needs: openbook models pull smollm2")
TEXT = "The bridge at Osterby is 340 metres long – Café Müßig."


@pytest.fixture(scope="module")
def models() -> list[LanguageModel]:
    """SmolLM2, and Gemma 3 where its terms were accepted; else SmolLM2 in another precision."""
    other = load_model("gemma3") if find("gemma3") in installed() else load_model("smollm2", precision="fp32")
    return [load_model("smollm2"), other]


def opening(model: LanguageModel) -> list[int]:
    return model.tokenizer.encode("", special=True) or [min(model.tokenizer.eos_ids)]


def own_tokens(model: LanguageModel, text: str) -> float:
    """log p of a text in the tokenizer's own tokens."""
    tokens = model.tokenizer.encode(text)
    log_p_TV = model.runner.forward(torch.tensor([[*opening(model), *tokens]]))[0].double().log_softmax(-1)
    before = len(opening(model)) - 1
    return sum(float(log_p_TV[before + t, token]) for t, token in enumerate(tokens))


def test_a_mixture_over_bytes_costs_at_most_a_bit_more_than_its_best_member(models):
    data = TEXT.encode()
    sources = [
        BytewiseMember(
            Bytewise(TokenRows(model, opening(model), len(data)), width=4, least=1e-3), Label(str(i), "model")
        )
        for i, model in enumerate(models)
    ]
    mixture = Mixture(sources, Weights(normalise(np.zeros(2)), tau=1.0))
    log_mix = 0.0
    for byte in data:
        assert math.isclose(float(mixture.distribution().exp().sum()), 1, abs_tol=1e-4)
        log_mix += float(np.logaddexp.reduce(mixture.log_w_S + mixture.log_p_of(byte)))
        mixture.advance(byte)
    assert -log_mix <= -mixture.log_likelihood_S.max() + math.log(2) + 1e-9
    for source, model in zip(sources, models, strict=True):
        # Its own tokens are one of the tokenisations of the text, and the sum is over all.
        assert source.bytewise.log_upper >= own_tokens(model, TEXT)
        assert -mixture.log_likelihood_S[int(source.labels[0].id)] <= -own_tokens(model, TEXT) + 2


def test_the_command_writes_together_and_chooses(capsys):
    asked = ["committee", "What is the capital of France?", "-m", "smollm2", "-m", "smollm2=Answer in one word."]
    assert main([*asked, "--max-tokens", "8", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "Paris" in facts["answer"] and facts["how"] == "tokens"
    assert [member["id"] for member in facts["sources"]] == ["smollm2", "smollm2~2"]
    assert facts["bits"]["mixture"] <= facts["bits"]["allowed"] + 1e-6 and facts["cost"]["read"] > 0
    assert main([*asked, "--max-tokens", "8", "--how", "debate"]) == 0
    shown = capsys.readouterr().out
    assert "Paris" in shown and "round 2" in shown and "tokens read" in shown


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        (["Who?", "-m", "smollm2", "--how", "magic"], 2, "debate"),
        (["Who?", "-m", "http://127.0.0.1:1"], 1, "which model"),
        ([" ", "-m", "smollm2"], 1, "empty"),
        (["Who?", "-m", "http://127.0.0.1:1/v1#m"], 1, "cannot be asked"),
    ],
)
def test_what_cannot_be_asked_is_one_line(capsys, given, status, said):
    assert main(["committee", *given]) == status
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
