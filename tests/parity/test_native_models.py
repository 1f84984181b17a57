"""The native backend on real models, when they are here: near what torch in fp32 makes of the same quantised weights.

Near is said by the models' predictions: KL(torch ‖ native) in nats a token, and how often both would write the same.
Activations in eight bits, 32 to a scale, are nearly all of it: done to torch's, they alone give Gemma 0.011.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openbook.lm.backends.native import NativeRunner
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.cache.make import AUTO, CacheSpec
from openbook.lm.encoder import Encoder, pad, pieces_of
from openbook.lm.spec import ModelSpec
from openbook.lm.weights.checkpoint import Checkpoint, open_checkpoint
from openbook.lm.weights.pull import find, installed
from openbook.native import kernels

HERE = {model.name for model in installed()}
pytestmark = pytest.mark.skipif(kernels() is None, reason="the native kernels are not installed")
CPU = torch.device("cpu")
TEXT = (
    "The comet was first seen in 1843 by sailors off the coast of Chile, who took it for a burning ship. Within a week "
    "it could be seen at noon beside the sun. Astronomers in Paris and in Cambridge computed its orbit and found "
    "that it would come back after about five hundred years. Nobody who saw it will see it again, but the tables that "
    "they left are still used: the same ice is thought to have come apart into the group of comets that graze the sun."
)
MOST = {"smollm2": 0.006, "gemma3": 0.02}
"""Nats a token, the mean of a text."""
TEXTS = ["A comet.", "The observatory measured a tail of 4.7 million kilometres. " * 12, "彗星 was seen", ""]


def opened(name: str) -> tuple[Checkpoint, ModelSpec]:
    if name not in HERE:
        model = find(name)
        pytest.skip(f"needs: openbook models pull {name}{' --accept-terms' if model and model.terms else ''}")
    checkpoint = open_checkpoint(find(name).path)  # type: ignore[union-attr]
    assert isinstance(checkpoint.spec, ModelSpec)
    return checkpoint, checkpoint.spec


@cache
def both(name: str) -> tuple[Tensor, Tensor, NativeRunner]:
    """The text, what torch says of it in fp32, and the native runner."""
    checkpoint, spec = opened(name)
    tokens = torch.tensor([checkpoint.tokenizer().encode(TEXT)[:100]])
    wanted = TorchRunner.load(spec, checkpoint.state(torch.float32), CPU).forward(tokens)
    return tokens, wanted, NativeRunner(spec, checkpoint.packed(), threads=1)


def near(name: str, found: Tensor, wanted: Tensor) -> None:
    one, other = F.log_softmax(wanted, -1), F.log_softmax(found, -1)
    divergence = (one.exp() * (one - other)).sum(-1)
    assert float(divergence.mean()) < MOST[name]
    assert float((one.argmax(-1) == other.argmax(-1)).float().mean()) > 0.85


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_decoders_predict_what_torch_predicts(name: str) -> None:
    tokens, wanted, runner = both(name)
    assert tokens.shape[1] > 80
    near(name, runner.forward(tokens), wanted)


@pytest.mark.parametrize(
    ("name", "kind"), [("smollm2", AUTO), ("smollm2", CacheSpec("paged", "int8")), ("gemma3", CacheSpec("ring"))]
)
def test_decoders_predict_it_a_few_tokens_at_a_time(name: str, kind: CacheSpec) -> None:
    """As text is written; Gemma's keys do not bear eight bits, whoever computes with them."""
    tokens, wanted, runner = both(name)
    start = tokens.shape[1] - 24
    runner.caching = kind
    cache = runner.cache([runner.prefill(tokens[0, :start].tolist())], room=24)
    written = [runner.forward(part, cache) for part in tokens[:, start:].split([1, 1, 5, 7, 10], dim=1)]
    near(name, torch.cat(written, dim=1), wanted[:, start:])


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("bf16", 0.9999), ("int8", 0.998)])
def test_the_encoder_places_texts_where_torch_does(precision: str, least: float) -> None:
    checkpoint, spec = opened("minilm")
    pieces = pieces_of(checkpoint, spec)
    tokens, positions = pad([pieces.encode(text).ids for text in TEXTS])
    encoder = Encoder(spec).eval()
    encoder.load_state_dict(dict(checkpoint.state(torch.float32)))
    with torch.inference_mode():
        wanted = encoder(tokens, positions)
    runner = NativeRunner(spec, checkpoint.packed(), precision=precision, threads=1)
    found, real = runner.hidden(tokens, positions_BT=positions).last_BTM, (positions >= 0)[..., None]
    one, other = ((states * real).sum(1) / real.sum(1) for states in (wanted, found))
    assert (F.cosine_similarity(one, other) > least).all()
