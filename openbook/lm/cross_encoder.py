"""Pairs of texts to scores: an encoder that reads both at once and scores what it makes of the first token.

What a cross-encoder is trained for is told by its file: one logit is its score; of several, the last one less the mean
of the others (relevant is the last label by custom). (Nogueira 2019, arXiv 1901.04085.)

Shapes: B batch, T positions, N texts, V vocabulary, M model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from openbook.errors import Fault
from openbook.lm.classifier import TextClassifier, load_classifier
from openbook.lm.encoder import batches, pad
from openbook.lm.tokenizer import well_formed

if TYPE_CHECKING:
    from tokenizers import Tokenizer as WordPieces


class CrossEncoder:
    """A query and texts to scores, higher for what fits better; natural log-odds where it was trained as a classifier.

    The second text's tokens are of segment 1. They are embedded by rows of their own, `E[v] + type[1] − type[0]`,
    behind those of segment 0: so the encoder need not know of segments.
    """

    def __init__(self, classifier: TextClassifier) -> None:
        self.name, self._classifier, self.device = classifier.name, classifier.classifier, classifier.device
        self._pieces: WordPieces = classifier.pieces
        self._pieces.no_padding()
        self.max_tokens = classifier.max_tokens
        self._vocabulary = self._add_segment()

    def _add_segment(self) -> int:
        """Rows for tokens of segment 1; returns how many tokens there are without them, 0 if one row a token does."""
        module = self._classifier
        types, embedding = module.token_types, module.embedding
        if types is None or types.weight.shape[0] < 2:
            return 0
        with torch.no_grad():
            second_VM = embedding.weight + (types.weight[1] - types.weight[0])
        vocabulary, width = embedding.weight.shape
        module.embedding = torch.nn.Embedding(2 * vocabulary, width, _weight=torch.cat([embedding.weight, second_VM]))
        return vocabulary

    def __call__(self, query: str, texts: Sequence[str], *, tokens_at_once: int = 4096) -> npt.NDArray[np.float64]:
        """Scores `[N]`, in the order of `texts`; of a pair that is too long the text is cut.

        Raises `Fault` for a query that leaves no room for a text.
        """
        query = well_formed(query[: self.max_tokens * 32])  # a word piece is rarely longer
        self._pieces.no_truncation()
        asked = self._pieces.encode(query, add_special_tokens=False)
        if texts and len(asked.ids) > self.max_tokens // 2:
            raise Fault(f"the question is too long for {self.name}, which reads {self.max_tokens} tokens; shorten it")
        pairs = [(query, well_formed(text[: self.max_tokens * 32])) for text in texts]
        self._pieces.enable_truncation(self.max_tokens, strategy="only_second")
        encodings = self._pieces.encode_batch(pairs)
        ids = [
            [token + self._vocabulary * (segment == 1) for token, segment in zip(e.ids, e.type_ids, strict=True)]
            for e in encodings
        ]
        scores_N = np.zeros(len(texts))
        for batch in batches(list(map(len, ids)), tokens_at_once):
            tokens_BT, positions_BT = pad([ids[i] for i in batch])
            with torch.inference_mode():
                logits_BC = self._classifier(tokens_BT.to(self.device), positions_BT.to(self.device)).double().cpu()
            rest_B = logits_BC[:, :-1].mean(1) if logits_BC.shape[1] > 1 else torch.zeros(len(batch))
            scores_N[batch] = (logits_BC[:, -1] - rest_B).numpy()
        if not np.isfinite(scores_N).all():
            raise Fault(f"the numbers of {self.name} are not finite; its file is damaged: fetch it again")
        return scores_N


def load_cross_encoder(folder: str | Path, device: str | None = None) -> CrossEncoder:
    """A cross-encoder from a local folder of safetensors, config.json and tokenizer.json; nothing is fetched."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise Fault(f"{path} is no folder; a cross-encoder is one with model.safetensors, config.json, tokenizer.json")
    return CrossEncoder(load_classifier(path, device, fetch=False))
