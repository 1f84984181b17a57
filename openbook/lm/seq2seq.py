"""Encoder and decoder: one reads a text whole, the other writes another and attends to it (Vaswani 2017).

    p(y | x) = Π_t p(y_t | y_<t, memory(x))          arXiv 1706.03762, section 3

Shapes: B batch, S tokens read, T tokens written, M model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from openbook.lm.cache.dense import KeyValueCache
from openbook.lm.decoder import Decoder
from openbook.lm.encoder import Encoder
from openbook.lm.spec import Activation, AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, NormSpec, Seq2SeqSpec
from openbook.lm.stack import Memory


class Seq2Seq(nn.Module):
    """A `Seq2SeqSpec`, built. A shared embedding is one module under two names."""

    def __init__(self, spec: Seq2SeqSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec.encoder)
        self.decoder = Decoder(spec.decoder, self.encoder.embedding if spec.shared_embedding else None)

    @classmethod
    def load(
        cls, spec: Seq2SeqSpec, state: Iterable[tuple[str, Tensor]], device: torch.device | str | None = None
    ) -> Seq2Seq:
        """Build the spec and give it these weights (`encoder.…`, `decoder.…`), which keep their dtype."""
        with torch.device("meta"):
            model = cls(spec)
        tensors = {name: tensor.to(device or "cpu") for name, tensor in state}
        if spec.shared_embedding:
            tensors["decoder.embedding.weight"] = tensors["encoder.embedding.weight"]
        model.load_state_dict(tensors, assign=True)
        return model.eval()

    def encode(self, tokens_BS: Tensor, positions_BS: Tensor | None = None) -> Memory:
        """What the decoder reads of these texts: keys and values of every layer, made once.

        A position of −1 marks padding, which nobody sees; without positions nothing is padding.
        """
        if positions_BS is None:
            positions_BS = torch.arange(tokens_BS.shape[1], device=tokens_BS.device).expand_as(tokens_BS)
        return self.decoder.remember(self.encoder(tokens_BS, positions_BS), positions_BS)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        cache: KeyValueCache | None = None,
        *,
        memory: Memory,
        keep: slice = slice(None),
    ) -> Tensor:
        """fp32 logits `[B, T', V]` of what follows these tokens of the decoder, given a memory (`Decoder.forward`)."""
        logits_BTV: Tensor = self.decoder(tokens_BT, positions_BT, cache, memory=memory, keep=keep)
        return logits_BTV


def classic(
    vocabulary: int,
    *,
    width: int = 512,
    heads: int = 8,
    inner: int = 2048,
    layers: int | tuple[int, int] = 6,
    place: Literal["post", "pre"] = "post",
    activation: Activation = "relu",
    bias: bool = True,
    norm: NormSpec = NormSpec("layer", 1e-5),  # noqa: B008 - frozen
    max_positions: int = 1024,
    start: int = 0,
) -> Seq2SeqSpec:
    """The Transformer as published, by default its base model; `layers` of the encoder and of the decoder.

    Sinusoidal positions, embeddings times √M and shared by encoder, decoder and head (sections 3.4 and 3.5). `place`
    "post" normalises after each residual sum, as the paper does; "pre" before each part and once more at the end of a
    stack (Xiong 2020, arXiv 2002.04745). `start` is the decoder's first token.
    """
    deep, tall = (layers, layers) if isinstance(layers, int) else layers

    def stack(count: int, decodes: bool) -> ModelSpec:
        attention, cross = (
            AttentionSpec(heads, heads, max(1, width // heads), causal=causal, qkv_bias=bias, out_bias=bias)
            for causal in (decodes, False)
        )
        feed_forward = FeedForwardSpec(inner, activation, gated=False, bias=bias)
        return ModelSpec(
            vocabulary=vocabulary,
            width=width,
            layers=(LayerSpec(attention, feed_forward, norm, place, cross if decodes else None),) * count,
            max_positions=max_positions,
            head=decodes,
            embedding_scale=width**0.5,
            positions="sinusoidal",
            final_norm=norm if place == "pre" else None,
            memory_width=width if decodes else None,
        )

    return Seq2SeqSpec(stack(deep, decodes=False), stack(tall, decodes=True), start)
