"""Floor 1: a language model one can read: what it is, how it attends, what it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openbook.lazy import names

if TYPE_CHECKING:
    from openbook.lm.classifier import load_classifier as load_classifier
    from openbook.lm.decoding.beam import Beams as Beams
    from openbook.lm.decoding.constrain import Constraint as Constraint
    from openbook.lm.decoding.generate import generate as generate
    from openbook.lm.decoding.sampling import Sampling as Sampling
    from openbook.lm.encoder import load_encoder as load_encoder
    from openbook.lm.model import LanguageModel as LanguageModel
    from openbook.lm.model import load_model as load_model
    from openbook.lm.seq2seq import load_seq2seq as load_seq2seq
    from openbook.lm.spec import AttentionSpec as AttentionSpec
    from openbook.lm.spec import FeedForwardSpec as FeedForwardSpec
    from openbook.lm.spec import LayerSpec as LayerSpec
    from openbook.lm.spec import ModelSpec as ModelSpec
    from openbook.lm.spec import NormSpec as NormSpec
    from openbook.lm.spec import RopeSpec as RopeSpec
    from openbook.lm.stacks import build as build

_HOMES = {
    "Beams": "openbook.lm.decoding.beam",
    "Constraint": "openbook.lm.decoding.constrain",
    "Sampling": "openbook.lm.decoding.sampling",
    "generate": "openbook.lm.decoding.generate",
    "build": "openbook.lm.stacks",
    "load_classifier": "openbook.lm.classifier",
    "load_encoder": "openbook.lm.encoder",
    "load_seq2seq": "openbook.lm.seq2seq",
    "LanguageModel": "openbook.lm.model",
    "load_model": "openbook.lm.model",
    **dict.fromkeys(
        ("AttentionSpec", "FeedForwardSpec", "LayerSpec", "ModelSpec", "NormSpec", "RopeSpec"), "openbook.lm.spec"
    ),
}
__getattr__, __dir__ = names(__name__, _HOMES)
