"""One decoder against transformers, same weights, fp32: whole, a token at a time, in chunks, padded on the left.

    oracle, checkpoint = pair(LlamaForCausalLM, LlamaConfig(...), tmp_path)
    assert_decoder_parity(built(checkpoint), oracle)

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.cache.protocol import KeyValueCache
from openbook.lm.decoder import Decoder
from openbook.lm.spec import ModelSpec
from openbook.lm.weights.checkpoint import Checkpoint, open_checkpoint

TOLERANCE = 1e-4
CHUNKS = ((1,) * 16, (3, 1, 2, 10), (7, 9), (16,))
"""Ways to read 16 tokens: one at a time; smaller and larger than the windows of 4 to 6 that tests use; at once."""

MakeCache = Callable[[ModelSpec, int, int], KeyValueCache]


def layout(name: str) -> MakeCache:
    """Caches of raw numbers in this layout; a paged one has blocks of three positions, so that texts cross them."""

    def make(spec: ModelSpec, batch: int, capacity: int) -> KeyValueCache:
        return make_cache(spec, CacheSpec(name, block=3), batch, capacity, torch.float32, torch.device("cpu"))

    make.__name__ = name
    return make


LAYOUTS = tuple(map(layout, ("dense", "ring", "paged")))


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Random values for every parameter: also norms and biases, which start at one and nought, where a mistake in
    them would not show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:  # a bias, or a norm's weight about the value that it starts at
                parameter.copy_(parameter.mean() + 0.3 * noise)


def pair(kind: Any, config: Any, folder: Path, seed: int = 0) -> tuple[Any, Checkpoint]:
    """transformers' model of this config with random weights, and its checkpoint as ours to open."""
    oracle = kind(config).eval()
    oracle.set_attn_implementation("eager")
    randomise(oracle, seed)
    oracle.save_pretrained(folder)
    return oracle, open_checkpoint(folder)


def built(checkpoint: Checkpoint) -> Decoder:
    """The decoder of a checkpoint, in fp32."""
    assert isinstance(checkpoint.spec, ModelSpec)
    with torch.device("meta"):
        decoder = Decoder(checkpoint.spec)
    decoder.load_state_dict(dict(checkpoint.state(torch.float32)), assign=True)
    return decoder.eval()


def assert_decoder_parity(
    decoder: Decoder,
    oracle: Any,
    *,
    tolerance: float = TOLERANCE,
    chunks: Iterable[Sequence[int]] = CHUNKS,
    caches: Sequence[MakeCache] = LAYOUTS,
) -> float:
    """Logits of 16 random tokens agree (a) whole, (b, c) with every cache in every way of chunking, (d) padded.

    Gives the largest difference.
    """
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(0, decoder.spec.vocabulary, (2, 16), generator=generator)
    with torch.inference_mode():
        whole_BTV = oracle(tokens_BT, use_cache=False).logits
        assert whole_BTV.abs().max() > 100 * tolerance, "logits so small agree whatever made them"
        found = [near(decoder(tokens_BT), whole_BTV, tolerance, "without a cache")]
        for sizes in chunks:
            # Only scalings that ask how long the text is make a cached text differ from a whole one.
            expected_BTV = in_chunks(oracle, tokens_BT, sizes) if decoder.asks_length else whole_BTV
            for make in caches:
                cache = make(decoder.spec, 2, 16)
                got = [decoder(part, cache=cache) for part in tokens_BT.split(list(sizes), 1)]
                how = f"{make.__name__} cache in chunks of {sizes}"
                found.append(near(torch.cat(got, 1), expected_BTV, tolerance, how))
        return max(found + [assert_padded_parity(decoder, oracle, tokens_BT, tolerance, make) for make in caches])


def in_chunks(oracle: Any, tokens_BT: Tensor, sizes: Sequence[int]) -> Tensor:
    """The oracle's logits where it reads with its own cache."""
    parts, cache = [], None
    for part in tokens_BT.split(list(sizes), 1):
        out = oracle(part, past_key_values=cache, use_cache=True)
        parts.append(out.logits)
        cache = out.past_key_values
    return torch.cat(parts, 1)


def assert_padded_parity(decoder: Decoder, oracle: Any, tokens_BT: Tensor, tolerance: float, make: MakeCache) -> float:
    """Rows of 16, 11 and 5 tokens, padded on the left: whole, and the last four tokens one at a time."""
    T = tokens_BT.shape[1]
    padding = torch.tensor([0, T - 11, T - 5])[:, None]
    tokens_BT = tokens_BT[[0, 1, 0]]
    real_BT = torch.arange(T) >= padding
    positions_BT = torch.where(real_BT, torch.arange(T) - padding, -1)
    expected = oracle(
        tokens_BT, attention_mask=real_BT.long(), position_ids=positions_BT.clamp(min=0), use_cache=False
    ).logits[real_BT]
    whole = near(decoder(tokens_BT, positions_BT)[real_BT], expected, tolerance, "padded on the left")
    if decoder.asks_length:
        return whole
    cache = make(decoder.spec, 3, T)
    sizes = [T - 4, 1, 1, 1, 1]
    parts = zip(tokens_BT.split(sizes, 1), positions_BT.split(sizes, 1), strict=True)
    got = torch.cat([decoder(part, positions, cache) for part, positions in parts], 1)[real_BT]
    return max(whole, near(got, expected, tolerance, f"padded on the left with the {make.__name__} cache"))


def near(got: Tensor, expected: Tensor, tolerance: float, how: str) -> float:
    """The largest difference, which is within the tolerance; the message says how the two were made."""
    difference = (got - expected).abs().max().item()
    assert difference <= tolerance, f"{how}: logits differ by {difference:.2e}"
    return difference


def tiny(**changes: Any) -> dict[str, Any]:
    """Sizes of a model of three layers, grouped heads and a gated MLP, for a config of transformers."""
    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    return {**sizes, **changes}


def assert_family_parity(kind: Any, config: Any, folder: Path) -> ModelSpec:
    """A whole family in one line: save, open, build, compare. The spec, for what else a test asks of it."""
    oracle, checkpoint = pair(kind, config, folder)
    decoder = built(checkpoint)
    print(f"{kind.__name__}: largest difference {assert_decoder_parity(decoder, oracle):.1e}")
    return decoder.spec
