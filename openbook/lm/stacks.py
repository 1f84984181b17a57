"""From a description to a model."""

from __future__ import annotations

from typing import overload

from openbook.lm.classifier import Classifier
from openbook.lm.decoder import Decoder
from openbook.lm.encoder import Encoder
from openbook.lm.seq2seq import Seq2Seq
from openbook.lm.spec import ModelSpec, Seq2SeqSpec


@overload
def build(spec: ModelSpec) -> Decoder | Encoder: ...
@overload
def build(spec: Seq2SeqSpec) -> Seq2Seq: ...


def build(spec: ModelSpec | Seq2SeqSpec) -> Decoder | Encoder | Seq2Seq:
    """The module a spec describes, with random weights: a `Seq2Seq`; a `Decoder` if it has a head; a `Classifier` if
    it has one; else an `Encoder`."""
    if isinstance(spec, Seq2SeqSpec):
        return Seq2Seq(spec)
    if spec.head:
        return Decoder(spec)
    return Classifier(spec) if spec.classifier else Encoder(spec)
