"""From a description to a model."""

from __future__ import annotations

from openbook.lm.decoder import Decoder
from openbook.lm.encoder import Encoder
from openbook.lm.spec import ModelSpec


def build(spec: ModelSpec) -> Decoder | Encoder:
    """The module a spec describes, with random weights: a `Decoder` if it has a head, else an `Encoder`."""
    return Decoder(spec) if spec.head else Encoder(spec)
