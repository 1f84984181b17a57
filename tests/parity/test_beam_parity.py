"""Beam search against transformers' `generate`: the same tokens and scores, whatever ends the search."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from families import built, pair
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.make import CacheSpec
from openbook.lm.decoding.beam import Beams, Found, beam_search
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.hypotheses import Hypotheses, Text
from openbook.lm.seq2seq import Continuations, Seq2Seq
from openbook.lm.spec import Seq2SeqSpec

V, LIMIT, PAD, END, ENDS = 37, 7, 1, 2, (2, 11, 23)
WAYS = list(itertools.product((1, 2, 3, 4), (0.0, 1.0, 2.0), (False, True, "never")))
TEXTS = [[0, 5, 9, 30, 4, 17], [0, 21, 3]]
"""Two texts of different length."""


def theirs(
    oracle: Any, inputs: dict[str, torch.Tensor], way: tuple[int, float, Any], ends: Sequence[int], **more: Any
) -> tuple[list[list[list[int]]], list[list[float]]]:
    """What transformers writes: for each text the tokens (ends among them, no padding) and scores of all beams."""
    beams, penalty, early = way
    config = GenerationConfig(
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=penalty,
        early_stopping=early,
        max_new_tokens=LIMIT,
        eos_token_id=list(ends) or None,
        pad_token_id=PAD,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **more,
    )
    oracle.generation_config = GenerationConfig()  # else what is None here is taken from there
    with torch.no_grad():
        found = oracle.generate(**inputs, generation_config=config)
    start = 1 if oracle.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    rows = [cut(row[start:].tolist(), ends) for row in found.sequences]
    if beams == 1:  # greedy: there is no score
        scores = torch.stack([score.log_softmax(-1) for score in found.scores], 1)
        sums = [sum(float(scores[b, t, token]) for t, token in enumerate(row)) for b, row in enumerate(rows)]
        return [[row] for row in rows], [[s / len(row) ** penalty] for s, row in zip(sums, rows, strict=True)]
    each = found.sequences_scores.tolist()
    split = range(0, len(rows), beams)
    return [rows[i : i + beams] for i in split], [each[i : i + beams] for i in split]


def cut(row: list[int], ends: Sequence[int]) -> list[int]:
    """Up to the end token, with it; what is padded is never longer than the limit."""
    for index, token in enumerate(row):
        if token in ends:
            return row[: index + 1]
    return row


def same(found: list[list[Found]], tokens: list[list[list[int]]], scores: list[list[float]]) -> None:
    """Every beam of every text: its tokens, its score."""
    for ours, rows, each in zip(found, tokens, scores, strict=True):
        assert [[*text.tokens] for text in ours] == [
            row[:-1] if text.reason == "end" else row for text, row in zip(ours, rows, strict=True)
        ]
        torch.testing.assert_close([text.score for text in ours], each, rtol=1e-5, atol=1e-4)


def ours(hypotheses: Hypotheses, way: tuple[int, float, Any], ends: Sequence[int], texts: int = 2) -> list[list[Found]]:
    return beam_search(hypotheses, [Draft(ends)] * texts, Beams(*way), LIMIT)


@pytest.mark.parametrize("ends", [(), (END,), ENDS], ids=["no end", "one end", "three ends"])
def test_a_decoder_finds_what_transformers_finds(ends: Sequence[int], tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    oracle, checkpoint = pair(LlamaForCausalLM, config, tmp_path)
    runner = TorchRunner(built(checkpoint))
    longest, reasons = max(map(len, TEXTS)), set()
    rows = torch.tensor([[PAD] * (longest - len(text)) + text for text in TEXTS])
    seen = torch.tensor([[0] * (longest - len(text)) + [1] * len(text) for text in TEXTS])
    for index, way in enumerate(WAYS):
        kind = CacheSpec(("dense", "ring", "paged")[index % 3], block=3)
        tokens, scores = theirs(oracle, {"input_ids": rows, "attention_mask": seen}, way, ends)
        found = ours(Text(runner, TEXTS, LIMIT, kind), way, ends)
        same(found, tokens, scores)
        reasons |= {text.reason for each in found for text in each}
    assert reasons == ({"end", "limit"} if ends else {"limit"})


def test_a_repetition_penalty_counts_as_transformers_counts_it(tmp_path: Path) -> None:
    """On log-probabilities, the prompt among what was seen; it counts in the score."""
    config = LlamaConfig(vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    oracle, checkpoint = pair(LlamaForCausalLM, config, tmp_path)
    runner, text = TorchRunner(built(checkpoint)), TEXTS[0]
    for way, penalty in itertools.product([(3, 1.0, False), (4, 0.0, "never"), (2, 2.0, True)], (0.7, 1.5)):
        inputs = {"input_ids": torch.tensor([text]), "attention_mask": torch.ones(1, len(text), dtype=torch.long)}
        tokens, scores = theirs(oracle, inputs, way, (END,), repetition_penalty=penalty)
        draft = Draft((END,), seen=text)
        same(beam_search(Text(runner, [text], LIMIT), [draft], Beams(*way), LIMIT, penalty=penalty), tokens, scores)


READ = torch.randint(3, V, (2, 6), generator=torch.Generator().manual_seed(1))
SEEN = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
SEQ2SEQ = {
    "bart": (
        BartForConditionalGeneration,
        BartConfig(
            vocab_size=V,
            d_model=16,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            max_position_embeddings=32,
            decoder_start_token_id=END,
            forced_eos_token_id=None,
        ),
    ),
    "t5": (
        T5ForConditionalGeneration,
        T5Config(
            vocab_size=V,
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
            pad_token_id=0,
        ),
    ),
}


@pytest.mark.parametrize("family", SEQ2SEQ)
@pytest.mark.parametrize("ends", [(), (END,)], ids=["no end", "one end"])
def test_an_encoder_decoder_finds_what_transformers_finds(family: str, ends: Sequence[int], tmp_path: Path) -> None:
    kind, config = SEQ2SEQ[family]
    oracle, checkpoint = pair(kind, config, tmp_path)
    assert isinstance(checkpoint.spec, Seq2SeqSpec)
    model = Seq2Seq.load(checkpoint.spec, checkpoint.state(torch.float32))
    with torch.no_grad():
        memory = model.encode(READ, torch.arange(6).expand(2, 6).masked_fill(SEEN == 0, -1))
    forced: list[dict[str, int]] = [{}, {"forced_bos_token_id": 13, "forced_eos_token_id": END}]
    for way, demanded in itertools.product(WAYS, forced):
        first, last = demanded.get("forced_bos_token_id"), demanded.get("forced_eos_token_id")
        if demanded and (not ends or way[1] == 2.0):
            continue
        tokens, scores = theirs(
            oracle,
            {"input_ids": READ, "attention_mask": SEEN},
            way,
            ends,
            decoder_start_token_id=config.decoder_start_token_id,
            **demanded,
        )
        same(ours(Continuations(model, memory, LIMIT, first=first, last=last), way, ends), tokens, scores)
