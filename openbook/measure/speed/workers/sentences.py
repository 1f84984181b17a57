"""sentence-transformers: the same folder of weights, by its `encode`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer


def open(model: str, texts: Sequence[str], threads: int, dtype: str = "float32", batch: int = 32) -> Index:
    """The encoder in that precision, ready to embed these texts so many at a time."""
    torch.set_num_threads(threads)
    return Index(SentenceTransformer(model, device="cpu", model_kwargs={"dtype": getattr(torch, dtype)}), texts, batch)


class Index:
    """Texts embedded a second."""

    def __init__(self, model: Any, texts: Sequence[str], batch: int) -> None:
        self.model, self.texts, self.batch = model, texts, batch
        version = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
        self.facts = {"engine": version, "vectors": self.embed(texts[:8]).tolist()}

    def embed(self, texts: Sequence[str]) -> Any:
        """Unit vectors, as ours are."""
        return self.model.encode(list(texts), batch_size=self.batch, normalize_embeddings=True, show_progress_bar=False)

    def run(self) -> dict[str, Any]:
        """All texts."""
        began = time.perf_counter()
        self.embed(self.texts)
        return {"value": len(self.texts) / (time.perf_counter() - began)}
