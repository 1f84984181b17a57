"""Greedy and drawn text of a tiny Llama: transformers' tokens under a repetition penalty, and its cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import built, pair
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.make import CacheSpec
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.generate import choose
from openbook.lm.decoding.hypotheses import Text
from openbook.lm.decoding.sampling import Sampling, penalise

transformers = pytest.importorskip("transformers")
VOCABULARY, LIMIT = 32, 14


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, TorchRunner]]:
    made = []
    for seed in range(3):
        config = transformers.LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("llama")
        oracle, checkpoint = pair(transformers.LlamaForCausalLM, config, folder, seed)
        made.append((oracle, TorchRunner(built(checkpoint), CacheSpec("paged", block=4))))
    return made


@pytest.mark.parametrize("ends", [(), (3,), (3, 7, 11)])
@pytest.mark.parametrize("penalty", [0.8, 1.0, 1.3, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_greedy_text_is_the_oracles(
    models: list[tuple[Any, TorchRunner]], seed: int, penalty: float, ends: tuple[int, ...]
) -> None:
    oracle, runner = models[seed]
    prompt = torch.randint(0, VOCABULARY, (1, 9), generator=torch.Generator().manual_seed(seed))
    expected = oracle.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=LIMIT, do_sample=False,
        repetition_penalty=penalty, eos_token_id=list(ends) or None, pad_token_id=0,
    )[0, 9:].tolist()  # fmt: skip
    draft = Draft(ends, seen=prompt[0].tolist())
    rows = Text(runner, prompt.tolist(), LIMIT)
    written = [token for token, _ in choose(rows, draft, Sampling(repetition_penalty=penalty), LIMIT)]
    assert expected[: len(written)] == written
    assert expected[len(written) :] == [] if draft.reason == "limit" else expected[len(written)] in ends


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=20, unique=True),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([None, 1, 3, 50]),
    st.sampled_from([None, 0.1, 0.5, 0.9, 1.0]),
    st.sampled_from([None, 0.0, 0.1, 0.6]),
    st.sampled_from([0.5, 1.0, 1.7]),
    st.data(),
)
@settings(deadline=None)
def test_what_may_be_drawn_and_how_likely_is_the_oracles(
    logits: list[float], temperature: float, top_k: Any, top_p: Any, min_p: Any, penalty: float, data: st.DataObject
) -> None:
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    seen = data.draw(st.lists(st.integers(0, len(logits) - 1), min_size=1, max_size=4))
    scores_V = torch.tensor(logits)
    expected, ids = scores_V.double()[None], torch.tensor([seen])
    steps = [RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)]
    steps += [TopKLogitsWarper(top_k)] if top_k else []
    steps += [TopPLogitsWarper(top_p)] if top_p else []
    steps += [MinPLogitsWarper(min_p)] if min_p is not None else []
    for step in steps:
        expected = step(ids, expected)
    sampling = Sampling(temperature, top_k, top_p, min_p)
    tokens, p = sampling.kept(penalise(scores_V.double(), set(seen), penalty))
    found_V = torch.zeros(len(logits), dtype=torch.float64)
    found_V[tokens] = p
    wanted_V = expected[0].softmax(0)
    if not torch.equal(found_V > 0, wanted_V > 0):  # a token that stands exactly on a cut may fall on either side
        assert int(((found_V > 0) != (wanted_V > 0)).sum()) == 1
        return
    torch.testing.assert_close(found_V, wanted_V, atol=1e-9, rtol=1e-6)


def test_the_oracle_draws_from_these_cuts_in_this_order(tmp_path: Path) -> None:
    """The order of the steps above is that of `generate`."""
    config = transformers.GenerationConfig(
        do_sample=True, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.2
    )
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                 num_attention_heads=1, num_key_value_heads=1)
    )  # fmt: skip
    steps = model._get_logits_processor(config, device="cpu")
    names = [type(step).__name__ for step in steps]
    assert names == [
        "RepetitionPenaltyLogitsProcessor", "TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper",
        "MinPLogitsWarper",
    ]  # fmt: skip
