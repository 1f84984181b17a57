"""Between finding and reading: a wider pool is looked at again, and the best of it are read.

    rank(z) = log π_z + e(z)          e: what a reranker says for the passage, natural logs

Another reranker is a function handed to the registry:

    @reranker("mine")
    def mine(reader: Reader, question: str, hits: Sequence[Hit]) -> Array: ...      # e `[N]`, in the order of the hits

Shapes: N passages of the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openbook.errors import Fault
from openbook.mix.source import Label
from openbook.mix.sources.branches import Branch
from openbook.mix.weights import Array, normalise

if TYPE_CHECKING:
    from openbook.book.retrieve import Hit
    from openbook.mix.reading import Reader

ROWS = 16
"""Passages that a question is read under at once: a pool may be wide, memory stays what it is."""
MOST = 256

Reranker = Callable[["Reader", str, Sequence["Hit"]], Array]


@dataclass(frozen=True)
class Rerank:
    """`pool` passages are found, and `by` a reranker the best of them chosen; `model` is a cross-encoder's folder."""

    pool: int = 30
    by: str = "likelihood"
    model: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.pool <= MOST:
            raise Fault(f"a pool of {self.pool} passages cannot be reranked; give 1 to {MOST}")
        if self.by not in _RERANKERS:
            raise Fault(f"no reranker is called {self.by!r}; there are {', '.join(rerankers())}, or give a folder")
        if (self.by == "cross-encoder") != (self.model is not None):
            raise Fault("a cross-encoder is given as its folder, and nothing else has one: --reranker FOLDER")

    def summary(self) -> dict[str, object]:
        """What an answer records, plain values."""
        return {"by": self.by, "pool": self.pool, "model": None if self.model is None else self.model.name}


@dataclass(frozen=True)
class _Registered:
    function: Reranker
    read_again: bool


_RERANKERS: dict[str, _Registered] = {}


def reranker(name: str, *, read_again: bool = False) -> Callable[[Reranker], Reranker]:
    """Register a reranker. `read_again`: what it says of a passage, the reading of the question will say again; so it
    chooses who is read and does not count in their prior, else it would count twice."""

    def register(function: Reranker) -> Reranker:
        _RERANKERS[name] = _Registered(function, read_again)
        return function

    return register


def rerankers() -> list[str]:
    """Names for `Rerank(by=…)`."""
    return sorted(_RERANKERS)


@reranker("likelihood", read_again=True)
def likelihood(reader: Reader, question: str, hits: Sequence[Hit]) -> Array:
    """β · log p(question | passage) under the model that answers (Sachan 2022, arXiv 2204.07496, with a prior)."""
    from openbook.mix.reading import passage_text

    asked = np.zeros(len(hits))
    for start in range(0, len(hits), ROWS):
        some = hits[start : start + ROWS]
        branches = [Branch(Label(f"p{i}", "passage"), h.passage.id, (passage_text(h),)) for i, h in enumerate(some)]
        asked[start : start + ROWS] = reader.branches(question, branches).question_log_p_S
    return reader.settings.beta * asked


@reranker("cross-encoder")
def cross_encoder(reader: Reader, question: str, hits: Sequence[Hit]) -> Array:
    """A score of the two read together, taken as log-odds: what such models are trained to give."""
    from openbook.mix.reading import passage_text

    return np.asarray(reader.cross_encoder(question, [passage_text(hit) for hit in hits]), dtype=np.float64)


def rerank(reader: Reader, question: str, hits: Sequence[Hit], keep: int) -> list[Hit]:
    """The `keep` best of the pool, with the prior they are read with (it sums to 1): in the order of the hits, or best
    first where they are to be joined in paths.

    Which they are does not depend on the order of the pool; equals part by the passage's id. Where nothing is to be
    chosen and nothing new would be said, the hits are as they were, to the bit. What is to be joined in paths is chosen
    by the likelihood of the question, if nothing else is asked for: of many passages there would be too many paths.
    """
    settings = reader.settings.rerank
    if settings is None and reader.settings.paths != "single":
        settings = Rerank(reader.settings.pool)
    if settings is None:
        return list(hits)
    registered = _RERANKERS[settings.by]
    if registered.read_again and len(hits) <= keep and reader.settings.paths == "single":
        return list(hits)
    said_N = registered.function(reader, question, hits)
    if said_N.shape != (len(hits),) or not np.isfinite(said_N).all():
        raise Fault(f"the reranker {settings.by!r} gave no score, or none that is a number, for some passage")
    log_prior_N = np.log(np.maximum([hit.prior for hit in hits], np.finfo(float).tiny))
    rank_N = log_prior_N + said_N
    best = sorted(range(len(hits)), key=lambda i: (-rank_N[i], hits[i].passage.id))[:keep]
    chosen = best if reader.settings.paths != "single" else sorted(best)
    prior = np.exp(normalise((log_prior_N if registered.read_again else rank_N)[chosen]))
    return [replace(hits[i], prior=float(p)) for i, p in zip(chosen, prior, strict=True)]
