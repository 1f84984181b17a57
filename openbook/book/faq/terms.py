"""The lexical side of an index: one field's terms as frozen postings, scored by adding a few short arrays up.

A query's score in each text is a sum over its terms of what the term weighs there, computed when the index is made
(eager scoring: Lù 2024, arXiv 2407.03618). Terms are kept as hashes: no word of a document is in the file.

Shapes: T terms, D texts of the field, P postings.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
K1, B = 1.2, 0.75


def hashed(terms: Iterable[str]) -> Counter[int]:
    """How often each term occurs, by 64 bits of its hash."""
    return Counter(
        {
            int.from_bytes(hashlib.blake2b(term.encode("utf-8", "replace"), digest_size=8).digest(), "little"): count
            for term, count in Counter(terms).items()
        }
    )


@dataclass(frozen=True)
class Terms:
    """Postings of a field. `cosine`: tf–idf at unit length instead of BM25.

    Scores are shares, so that they mean the same for any query: BM25 over the sum of the query's idf (a term that no
    text has counts as the rarest), or the cosine.
    """

    hashes_T: npt.NDArray[np.uint64]
    idf_T: Array
    starts_T: npt.NDArray[np.int64]
    texts_P: npt.NDArray[np.int32]
    weights_P: Array
    texts: int
    mean: float
    cosine: bool

    @classmethod
    def of(cls, counted: Sequence[Mapping[int, int]], cosine: bool = False) -> Terms:
        """The postings of texts, each given as the counts of its terms."""
        texts_P = np.repeat(np.arange(len(counted), dtype=np.int32), [len(one) for one in counted])
        keys_P = np.fromiter((key for one in counted for key in one), np.uint64, len(texts_P))
        counts_P = np.fromiter((count for one in counted for count in one.values()), np.float64, len(texts_P))
        order_P = np.lexsort((texts_P, keys_P))
        hashes_T, starts, df = np.unique(keys_P[order_P], return_index=True, return_counts=True)
        idf_T = np.log(1 + (len(counted) - df + 0.5) / (df + 0.5))
        lengths_D = np.bincount(texts_P, counts_P, minlength=len(counted))
        mean = float(lengths_D.mean()) if len(counted) else 0.0
        texts_P, counts_P = texts_P[order_P], counts_P[order_P]
        weights_P = np.repeat(idf_T, df) * _saturated(counts_P, lengths_D[texts_P], mean, cosine)
        if cosine:
            sizes_D = np.sqrt(np.bincount(texts_P, weights_P**2, minlength=len(counted)))
            weights_P = weights_P / np.maximum(sizes_D[texts_P], 1e-12)
        starts_T = np.append(starts, len(texts_P)).astype(np.int64)
        return cls(
            hashes_T, idf_T.astype(np.float32), starts_T, texts_P, weights_P.astype(np.float32), len(counted), mean,
            cosine,
        )  # fmt: skip

    @property
    def rarest(self) -> float:
        """The idf of a term that no text has."""
        return math.log(1 + (self.texts + 0.5) / 0.5)

    def scores(self, query: Mapping[int, int]) -> Array:
        """`[D]`: each text's share for a query."""
        scores_D, size = np.zeros(self.texts, np.float32), 0.0
        for place, weight in self._weighed(query):
            size += weight * weight if self.cosine else weight
            if place is not None:
                part = slice(self.starts_T[place], self.starts_T[place + 1])
                scores_D[self.texts_P[part]] += self.weights_P[part] * np.float32(weight if self.cosine else 1.0)
        return scores_D / np.float32(max(math.sqrt(size) if self.cosine else size, 1e-12))

    def score(self, query: Mapping[int, int], text: Mapping[int, int]) -> float:
        """The share of a text that need not be in the index, by the index's own statistics."""
        asked = {key: weight for key, (_, weight) in zip(query, self._weighed(query), strict=True)}
        own = {key: weight for key, (_, weight) in zip(text, self._weighed(text), strict=True)}
        both, length = asked.keys() & own.keys(), sum(text.values())
        if self.cosine:
            sizes = [math.sqrt(sum(w * w for w in weights.values())) for weights in (asked, own)]
            return sum(asked[key] * own[key] for key in both) / max(math.prod(sizes), 1e-12)
        total = sum(own[key] * float(_saturated(text[key], length, self.mean, False)) for key in both)
        return total / max(sum(asked.values()), 1e-12)

    def _weighed(self, query: Mapping[int, int]) -> list[tuple[int | None, float]]:
        """Each term's place (None: unknown) and its weight in the query."""
        idf: list[tuple[int | None, float]] = [
            (None, self.rarest) if p is None else (p, float(self.idf_T[p])) for p in self._places(query)
        ]
        if not self.cosine:
            return idf
        return [(p, weight * (1 + math.log(count))) for (p, weight), count in zip(idf, query.values(), strict=True)]

    def _places(self, query: Iterable[int]) -> list[int | None]:
        keys = np.fromiter(query, np.uint64)
        if not len(self.hashes_T):
            return [None] * len(keys)
        places = np.minimum(np.searchsorted(self.hashes_T, keys), len(self.hashes_T) - 1)
        known = self.hashes_T[places] == keys
        return [place if there else None for place, there in zip(places.tolist(), known.tolist(), strict=True)]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` makes it of again."""
        numbers = np.array([self.texts, self.mean, self.cosine], np.float64)
        names = ("hashes_T", "idf_T", "starts_T", "texts_P", "weights_P")
        return {**{name: getattr(self, name) for name in names}, "numbers": numbers}

    @classmethod
    def from_arrays(cls, found: Mapping[str, npt.NDArray[Any]]) -> Terms:
        """The postings of a file, checked: they may be anybody's."""
        texts, mean, cosine = found["numbers"].tolist()
        kinds = {"hashes_T": np.uint64, "idf_T": np.float32, "starts_T": np.int64, "texts_P": np.int32}
        arrays = {name: np.asarray(found[name], kind) for name, kind in {**kinds, "weights_P": np.float32}.items()}
        made = cls(**arrays, texts=int(texts), mean=float(mean), cosine=bool(cosine))
        T, P = len(made.hashes_T), len(made.texts_P)
        sound = (
            made.idf_T.shape == (T,)
            and made.starts_T.shape == (T + 1,)
            and made.weights_P.shape == (P,)
            and (T == 0 or (made.starts_T[0] == 0 and made.starts_T[-1] == P and (np.diff(made.starts_T) >= 0).all()))
            and (P == 0 or (made.texts_P.min() >= 0 and made.texts_P.max() < made.texts))
        )
        if not sound:
            raise ValueError("postings do not fit each other")
        return made


def _saturated(counts: Any, lengths: Any, mean: float, cosine: bool) -> Any:
    if cosine:
        return 1 + np.log(counts)
    return counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths / max(mean, 1e-12)))
