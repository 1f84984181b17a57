"""The graph of a book at its version: entities, the relations between them, and the sentences that make each.

A relation is two entities in one sentence, weighed by how much more often that is than by chance (pointwise mutual
information in bits, discounted where there is little to go by: Pantel and Lin 2002),

    w(a, b) = max(0, log2(n_ab S / (n_a n_b))) · n_ab / (n_ab + 1) · m / (m + 1),      m = min(n_a, n_b)

with n counted in the S sentences that say anything. What is no name must be said twice to be an entity of a relation.

Shapes: P passages, E entities, S sentences.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from openbook.book.graph.derive import Derived, Float, Places, Tied, Whole
from openbook.book.graph.extract import KINDS, NAME, extract, normal
from openbook.book.manifest import faults

if TYPE_CHECKING:
    from scipy import sparse

    from openbook.book.store import Book

MOST_RELATED = 32
"""Entities of one sentence that are related to each other: its most informative ones."""
MOST_SHARED = 200
"""Passages of an entity that is walked through: one that more have leads everywhere."""
MOST_SAID = 3
"""Mentions of an entity in a passage that count in a walk."""
VERBAL = ("ed", "ing", "ly")
"""How English words end that are mostly no things; one that stands alone relates nothing."""
COMMON = 0.1
"""A phrase in more than this share of the passages relates to everything, and so to nothing."""
WORDS = re.compile(r"\w+(?:['’.&/-]\w+)*")
MOST_WORDS = 8
"""Words of a name that are looked for in a question."""


@dataclass(frozen=True)
class Entity:
    """A name or key phrase. `number` is its place in `Graph.entities`; counts are of the version's sentences,
    passages and documents; `informative` is 1 for what one passage alone says, 0 for what all do; `type` is what a
    model called it, where one was asked."""

    number: int
    name: str
    kind: str
    forms: tuple[str, ...]
    sentences: int
    passages: int
    informative: float
    type: str = ""


@dataclass(frozen=True)
class Relation:
    """Two entities (numbers, the smaller first), the weight of what joins them, and in how many sentences it does."""

    a: int
    b: int
    weight: float
    sentences: int


@dataclass(frozen=True)
class Sentence:
    """A sentence and its place: characters `start:end` of the document's text."""

    document: str
    start: int
    end: int
    text: str
    passage: str


class Graph:
    """What a version of a book says about what; made by `open_graph`. `made` names all that it was made of."""

    def __init__(self, book: Book, documents: list[str], derived: Derived, places: Places, made: str = "") -> None:
        self.book, self.made = book, made
        self.places = places
        self.documents = documents
        self.derived = derived

    def __repr__(self) -> str:
        return f"Graph({str(self.book.path)!r}, version={self.book.version}, entities={len(self)})"

    def __len__(self) -> int:
        return len(self.derived.normals)

    @cached_property
    def sentences_E(self) -> Whole:
        """How many sentences say each entity."""
        return np.bincount(self.derived.said_SE.indices, minlength=len(self)).astype(np.int64)

    @cached_property
    def passages_E(self) -> Whole:
        """How many passages say each entity, or are about it."""
        return np.bincount(self.derived.count_PE.indices, minlength=len(self)).astype(np.int64)

    @cached_property
    def leads_E(self) -> npt.NDArray[np.bool_]:
        """Which entities lead from passage to passage: names; a phrase says of what kind something is, not which."""
        leads_E: npt.NDArray[np.bool_] = self.derived.kinds_E == KINDS.index(NAME)
        return leads_E

    @cached_property
    def number_of(self) -> dict[str, int]:
        """The number of each passage, by its id."""
        return {id: number for number, id in enumerate(self.places.ids)}

    @cached_property
    def steps(self) -> tuple[Any, Any]:
        """Where a walk at random goes: `[P, E]` from entities to passages, `[E, P]` from passages to entities; each
        column sums to 1, or to 0 where no step leads on."""
        from scipy import sparse

        leads_E = self.leads_E & (self.passages_E <= MOST_SHARED)
        weight_PE = self.derived.count_PE.minimum(MOST_SAID) @ sparse.diags(self.derived.informative_E * leads_E)
        out_P, out_E = (np.asarray(weight_PE.sum(axis=axis)).ravel() for axis in (1, 0))
        from_E = weight_PE @ sparse.diags(1 / np.maximum(out_E, 1e-12))
        from_P = weight_PE.T @ sparse.diags(1 / np.maximum(out_P, 1e-12))
        return from_E.tocsr(), from_P.tocsr()

    @cached_property
    def lengths_P(self) -> Float:
        """How much each passage says, in mean passages."""
        said_P = np.asarray(self.derived.count_PW.sum(axis=1), dtype=np.float64).ravel()
        return said_P / max(float(said_P.mean()) if len(said_P) else 0.0, 1e-9)

    def entity(self, number: int) -> Entity:
        """The entity with a number."""
        d = self.derived
        return Entity(
            number=number,
            name=d.shown[number],
            kind=KINDS[d.kinds_E[number]],
            forms=tuple(d.forms[number]),
            sentences=int(self.sentences_E[number]),
            passages=int(self.passages_E[number]),
            informative=float(d.informative_E[number]),
            type=d.types.get(number, ""),
        )

    def find(self, name: str) -> Entity | None:
        """The entity of this name, in any of its forms."""
        number = self.derived.names.get(normal(name))
        return None if number is None else self.entity(number)

    def mentioned(self, text: str) -> list[int]:
        """The entities that a text names: by what is seen of names in it, and by the names that the graph knows."""
        names = self.derived.names
        found = {names[n.normal] for n in extract(text).names if n.normal in names}
        words = [normal(word) for word in WORDS.findall(text)]
        for at in range(len(words)):
            for length in range(1, MOST_WORDS + 1):
                number = names.get(" ".join(words[at : at + length]))
                if number is not None and (length > 1 or KINDS[self.derived.kinds_E[number]] == NAME):
                    found.add(number)
        return sorted(found)

    @cached_property
    def related_E(self) -> npt.NDArray[np.bool_]:
        """Which entities may have relations: names, and phrases said twice and not everywhere."""
        passages = max(1, len(self.places.ids))
        several_E = np.array([" " in name for name in self.derived.normals], dtype=bool)
        nouns_E = ~np.array([name.endswith(VERBAL) for name in self.derived.normals], dtype=bool)
        useful_E = (self.sentences_E >= 2) & (self.passages_E <= max(2, COMMON * passages))
        related_E: npt.NDArray[np.bool_] = (self.sentences_E > 0) & (self.leads_E | (useful_E & (several_E | nouns_E)))
        return related_E

    @cached_property
    def weights_EE(self) -> sparse.csr_matrix:
        """The weight of each relation, symmetric; empty for entities without one."""
        from scipy import sparse

        pairs_EE = sparse.triu(self._together_EE, k=1).tocoo()
        n_E, n_ab = self.sentences_E.astype(float), pairs_EE.data
        total = max(1, int((np.diff(self.derived.said_SE.indptr) > 0).sum()))
        n_a, n_b = n_E[pairs_EE.row], n_E[pairs_EE.col]
        least = np.minimum(n_a, n_b)
        bits = np.maximum(0.0, np.log2(n_ab * total / (n_a * n_b)))
        pairs_EE.data = bits * n_ab / (n_ab + 1) * least / (least + 1)
        pairs_EE.eliminate_zeros()
        return (pairs_EE + pairs_EE.T).tocsr()

    @cached_property
    def _together_EE(self) -> Any:
        """In how many sentences two entities stand together, of each sentence's most informative ones."""
        from scipy import sparse

        said = self.derived.said_SE.tocoo()
        kept = self.related_E[said.col]
        row, col = said.row[kept], said.col[kept]
        order = np.lexsort((col, -self.derived.informative_E[col], row))
        row, col = row[order], col[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        row, col = row[rank < MOST_RELATED], col[rank < MOST_RELATED]
        few_SE = sparse.csr_matrix((np.ones(len(row)), (row, col)), shape=said.shape)
        return few_SE.T @ few_SE + self._apart_EE

    @property
    def _apart_EE(self) -> Any:
        """Relations that a model told of names in different sentences, each once for the sentences it is tied to."""
        from scipy import sparse

        apart = {(t.a, t.b, t.first, t.last) for t in self.derived.ties if t.first < t.last}
        pairs = np.array([(a, b) for a, b, _, _ in sorted(apart)], dtype=np.int64).reshape(-1, 2)
        pairs = np.concatenate([pairs, pairs[:, ::-1]])
        shape = (len(self), len(self))
        return sparse.coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=shape).tocsr()

    @cached_property
    def signature_E(self) -> npt.NDArray[np.uint64]:
        """What stands with each entity and how often, in 64 bits: changes of documents that do not say it leave it.

        Σ_b n_ab h(b) + n_a h(a), with h a hash of the normal form.
        """
        h_E = np.frombuffer(
            b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in self.derived.normals), np.uint64
        )
        together = self._together_EE.tocoo()
        signature_E = self.sentences_E.astype(np.uint64) * h_E
        np.add.at(signature_E, together.row, together.data.astype(np.uint64) * h_E[together.col])
        return signature_E

    @cached_property
    def strength_E(self) -> Float:
        """The weight of all relations of each entity."""
        return np.asarray(self.weights_EE.sum(axis=1), dtype=np.float64).ravel()

    def relations(self, number: int | None = None, most: int | None = None) -> list[Relation]:
        """The relations of an entity, or all there are, the weightiest first."""
        if number is None:
            from scipy import sparse

            found = sparse.triu(self.weights_EE, k=1).tocoo()
            rows, cols, weights = found.row, found.col, found.data
        else:
            part = self.weights_EE[[number]].tocoo()
            rows, cols, weights = np.minimum(part.col, number), np.maximum(part.col, number), part.data
        order = np.lexsort((cols, rows, -weights))[:most]
        together = self._together_EE
        return [Relation(int(rows[i]), int(cols[i]), float(weights[i]), int(together[rows[i], cols[i]])) for i in order]

    @cached_property
    def _told(self) -> dict[tuple[int, int], list[Tied]]:
        told: dict[tuple[int, int], list[Tied]] = defaultdict(list)
        for tied in self.derived.ties:
            told[min(tied.a, tied.b), max(tied.a, tied.b)].append(tied)
        return told

    def told(self, a: int, b: int) -> list[Tied]:
        """What a model said of the relation between two entities, each with the sentences that it is tied to."""
        return self._told.get((min(a, b), max(a, b)), [])

    def sentences_of(self, *numbers: int) -> list[int]:
        """The sentences (numbers) that say all of these entities: of two, what makes their relation."""
        return sorted(set.intersection(*(set(self._sentences(number).tolist()) for number in numbers)))

    def _sentences(self, number: int) -> Whole:
        columns = self._said_ES
        found: Whole = columns.indices[columns.indptr[number] : columns.indptr[number + 1]].astype(np.int64)
        return found

    @cached_property
    def _said_ES(self) -> Any:
        return self.derived.said_SE.tocsc()

    @cached_property
    def passages_of_E(self) -> Any:
        """`count_PE` by column: which passages have an entity."""
        return self.derived.count_PE.tocsc()

    def sentences(self, numbers: Sequence[int]) -> list[Sentence]:
        """These sentences with their text and place, in the order asked for."""
        wanted = sorted({self.documents[self.derived.document_S[n]] for n in numbers})
        texts = {row["id"]: row for row in _documents(self.book, wanted)}
        found = []
        for n in numbers:
            row = texts[self.documents[self.derived.document_S[n]]]
            start, end = self.derived.spans_S2[n].tolist()
            passage = self.places.ids[self.derived.passage_S[n]]
            found.append(Sentence(row["name"], start, end, row["text"][start:end], passage))
        return found


def _documents(book: Book, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    from openbook.book.tables import quoted

    if not ids or book.documents_table is None:
        return
    with faults(book.path):
        where = f"id IN ({quoted(ids)})"
        yield from book.documents_table.scanner(columns=["id", "name", "text"], filter=where).to_table().to_pylist()


__all__ = ["Entity", "Float", "Graph", "Relation", "Sentence", "Tied"]
