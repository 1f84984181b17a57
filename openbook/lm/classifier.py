"""Texts to labels: an encoder, and two dense layers on what it makes of the first token (Devlin 2019, section 4.1).

Shapes: B batch, T positions, M model width, N texts, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from openbook.errors import Fault
from openbook.lm.encoder import Encoder, batches, longest_text, pad, pieces_of
from openbook.lm.spec import ModelSpec, require
from openbook.lm.tokenizer import well_formed

if TYPE_CHECKING:
    from tokenizers import Tokenizer as WordPieces


class Classifier(Encoder):
    """Logits of the labels of a `ModelSpec` with a classifier."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        require(spec.classifier is not None, "this spec has no classifier; it describes an encoder")
        self.pooler = nn.Linear(spec.width, spec.width)
        self.activation = torch.tanh if spec.classifier is None or spec.classifier.activation == "tanh" else torch.relu
        self.classifier = nn.Linear(spec.width, len(spec.classifier.labels) if spec.classifier else 1)

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """fp32 logits `[B, C]`. A position of −1 marks padding; the first token is the one at position 0."""
        hidden_BTM = super().forward(tokens_BT, positions_BT)
        first_B = 0 if positions_BT is None else (positions_BT == 0).int().argmax(1)
        pooled_BM = hidden_BTM[torch.arange(len(hidden_BTM), device=hidden_BTM.device), first_B]
        logits_BC: Tensor = self.classifier(self.activation(self.pooler(pooled_BM)))
        return logits_BC.float()


class TextClassifier:
    """Texts to probabilities of `labels`, by a softmax, or by a sigmoid each where several may hold (`multiple`)."""

    def __init__(self, classifier: Classifier, pieces: WordPieces, name: str, max_tokens: int) -> None:
        spec = classifier.spec.classifier
        require(spec is not None, "this spec has no classifier; it describes an encoder")
        self.classifier = classifier.eval()
        self.name = name
        self.labels: tuple[str, ...] = spec.labels if spec else ()
        self.multiple = bool(spec and spec.multiple)
        self.max_tokens = min(max_tokens, classifier.spec.max_positions)
        self.device = classifier.embedding.weight.device
        pieces.no_padding()
        pieces.enable_truncation(self.max_tokens)
        self.pieces = pieces

    def logits(self, texts: Sequence[str], *, tokens_at_once: int = 8192) -> npt.NDArray[np.float32]:
        """Logits float32 `[N, C]`, in the order of `texts`; what lies beyond `max_tokens` is not read."""
        # A word piece is rarely over 32 characters: what lies beyond cannot be read, so it is not tokenised either.
        ids = [e.ids for e in self.pieces.encode_batch([well_formed(text[: self.max_tokens * 32]) for text in texts])]
        if not all(ids):
            raise Fault("a text without any token cannot be classified; give the tokenizer a post-processor, or text")
        logits_NC = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        for batch in batches(list(map(len, ids)), tokens_at_once):
            tokens_BT, positions_BT = pad([ids[i] for i in batch])
            with torch.inference_mode():
                logits_NC[batch] = (
                    self.classifier(tokens_BT.to(self.device), positions_BT.to(self.device)).cpu().numpy()
                )
        return logits_NC

    def classify(self, texts: Sequence[str], *, tokens_at_once: int = 8192) -> npt.NDArray[np.float32]:
        """Probabilities float32 `[N, C]` of `labels`, in the order of `texts`."""
        logits_NC = torch.from_numpy(self.logits(texts, tokens_at_once=tokens_at_once))
        p_NC: npt.NDArray[np.float32] = (logits_NC.sigmoid() if self.multiple else logits_NC.softmax(-1)).numpy()
        return p_NC


def load_classifier(name: str | Path, device: str | None = None, *, fetch: bool = True) -> TextClassifier:
    """A text classifier from a folder (or hub name) of safetensors + config.json + tokenizer.json, in fp32."""
    from openbook.lm.device import device_named
    from openbook.lm.weights.checkpoint import open_checkpoint
    from openbook.lm.weights.pull import locate

    target = device_named(device)
    checkpoint = open_checkpoint(locate(name, fetch=fetch))
    checkpoint.opened_by("load_classifier")
    spec = cast("ModelSpec", checkpoint.spec)
    pieces, max_tokens = pieces_of(checkpoint, spec), longest_text(checkpoint.path, spec)
    with torch.device("meta"):
        classifier = Classifier(spec)
    classifier.load_state_dict(dict(checkpoint.state(torch.float32)), assign=True)
    classifier.to(target)
    return TextClassifier(classifier, pieces, checkpoint.name, max_tokens)
