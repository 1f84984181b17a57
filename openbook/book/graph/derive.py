"""From what each document mentions to what the corpus says: names that are one, and what stands where.

All of it is a function of the set of documents, whatever the order in which they came: so a graph that was brought up
to date equals one that was made from scratch.

Aliases are joined by union-find on normal forms, an abbreviation only with what more than half of the documents that
say so take it for. A name is informative by how few passages have it,

    i(e) = log(P / P_e) / log(P)                       1: in one passage, 0: in all

Shapes: P passages, E entities, S sentences, D documents, R mentions, W words.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from openbook.book.graph.extract import KINDS, LONGEST_NAME, NAME, PHRASE, normal, singular
from openbook.book.graph.stored import Said

if TYPE_CHECKING:
    from scipy import sparse

Whole = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
_ASIDE = re.compile(r"\s*\([^()]*\)$")
_STEMMED = 5
"""Letters that are left of a word when an ending is taken off, at least."""


@dataclass(frozen=True)
class Places:
    """The passages of a version, in the order of their documents and places: ids, rows of the table, where they are."""

    ids: list[str]
    rows_P: Whole
    documents: list[str]
    starts_P: Whole
    ends_P: Whole
    headings: list[str]


class Tied(NamedTuple):
    """What a model said of two entities (numbers): `a` `what` `b`; sentences `first` to `last` say both."""

    a: int
    b: int
    first: int
    last: int
    what: str


@dataclass(frozen=True)
class Derived:
    """Names that are one, and what stands where.

    Entities are in the order of their normal forms; `names` finds one by any of its forms. `count_PE` are mentions of
    an entity in a passage, one a sentence, `said_SE` which sentences say it. `count_PW` are words of those mentions.
    `types` and `ties` are what a model said, where one was asked: of an entity what most documents say.
    """

    normals: list[str]
    shown: list[str]
    kinds_E: Whole
    names: dict[str, int]
    forms: dict[int, list[str]]
    count_PE: sparse.csr_matrix
    said_SE: sparse.csr_matrix
    spans_S2: Whole
    document_S: Whole
    passage_S: Whole
    about_D: Whole
    count_PW: sparse.csc_matrix
    words: dict[str, int]
    informative_E: Float
    mentions_R4: Whole
    types: dict[int, str]
    ties: list[Tied]


def derive(said: Sequence[Said], places: Places) -> Derived:
    """Everything global; `said` in the order of their ids, as `stored.read` gives them."""
    titles = [normal(_ASIDE.sub("", each.title[:LONGEST_NAME])) for each in said]
    kind_of, votes_of = _names(said, titles)
    listed = sorted(kind_of)
    at = {name: i for i, name in enumerate(listed)}
    root_N = _joined(listed, at, said, Counter({n: sum(v.values()) for n, v in votes_of.items()}))
    heads, entity_N = np.unique(root_N, return_inverse=True)
    forms: dict[int, list[str]] = defaultdict(list)
    for name, entity in zip(listed, entity_N.tolist(), strict=True):
        forms[entity].append(name)
    shown = [_shown(listed[head], votes_of) for head in heads.tolist()]
    kinds_E = np.array([min(kind_of[f] for f in forms[e]) for e in range(len(heads))], dtype=np.int64)
    return _matrices(said, titles, places, at, entity_N, [listed[h] for h in heads.tolist()], shown, kinds_E, forms)


def _names(said: Iterable[Said], titles: Iterable[str]) -> tuple[dict[str, int], dict[str, Counter[str]]]:
    """The kind of each normal form, what most documents take it for, and how many documents show it how."""
    kinds: Counter[tuple[str, int]] = Counter()
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for each in said:
        kinds.update(zip(each.normals, each.kinds_N.tolist(), strict=True))
        for name, shown in zip(each.normals, each.shown, strict=True):
            votes[name][shown] += 1
    named, phrase = KINDS.index(NAME), KINDS.index(PHRASE)
    every = [title for title in titles if title] + list(votes)
    return {name: named if kinds[name, named] >= kinds[name, phrase] else phrase for name in every}, votes


def _shown(name: str, votes: dict[str, Counter[str]]) -> str:
    found = votes.get(name)
    # A spelling all in capitals is a heading's or a transcript's, if there is another.
    return min(found, key=lambda s: (s.isupper() and len(s) > 5, -found[s], s)) if found else name


def _joined(listed: list[str], at: dict[str, int], said: Iterable[Said], documents: Counter[str]) -> Whole:
    """For each name the one that stands for it: of names that are the same, what most documents say."""
    meant: dict[str, Counter[str]] = defaultdict(Counter)
    for each in said:
        for short, long in each.aliases:
            if short in at and long in at:
                meant[short][long] += 1
    above = list(range(len(listed)))

    def root(i: int) -> int:
        while above[i] != i:
            above[i] = above[above[i]]
            i = above[i]
        return i

    for short in sorted(meant):
        long, count = max(meant[short].items(), key=lambda pair: (pair[1], pair[0]))
        if 2 * count > sum(meant[short].values()):
            above[root(at[short])] = root(at[long])
    best: dict[int, int] = {}
    for i, name in enumerate(listed):
        head = root(i)
        there = best.setdefault(head, i)
        if (documents[name], len(name)) > (documents[listed[there]], len(listed[there])):
            best[head] = i
    return np.array([best[root(i)] for i in range(len(listed))], dtype=np.int64)


def _matrices(
    said: Sequence[Said],
    titles: list[str],
    places: Places,
    at: dict[str, int],
    entity_N: Whole,
    normals: list[str],
    shown: list[str],
    kinds_E: Whole,
    forms: dict[int, list[str]],
) -> Derived:
    first = {document: i for i, document in reversed(list(enumerate(places.documents)))}
    count = Counter(places.documents)
    parts: list[Whole] = []
    spans: list[Whole] = []
    holders: list[Whole] = []
    owners: list[Whole] = []
    sentences = 0
    for number, each in enumerate(said):
        begin = first.get(each.key[0], 0)
        starts = places.starts_P[begin : begin + count[each.key[0]]]

        def passage_of(where: Whole, begin: int = begin, starts: Whole = starts) -> Whole:
            return begin + np.maximum(np.searchsorted(starts, where, side="right") - 1, 0)

        name_N = np.array([at[name] for name in each.normals], dtype=np.int64)
        R4 = each.mentions_R4
        parts.append(
            np.stack([R4[:, 0] + sentences, name_N[R4[:, 1]], passage_of(R4[:, 2]), R4[:, 2], R4[:, 3]], axis=1)
            if len(R4)
            else np.zeros((0, 5), np.int64)
        )
        spans.append(each.sentences_S2)
        holders.append(passage_of(each.sentences_S2[:, 0]))
        owners.append(np.full(len(each.sentences_S2), number))
        sentences += len(each.sentences_S2)
    mentions_R5 = np.concatenate([np.zeros((0, 5), np.int64), *parts])
    about_D = np.array([entity_N[at[t]] if t else -1 for t in titles], dtype=np.int64)
    extra = _abouts(said, titles, places, at, first, count)
    P, E = len(places.ids), len(normals)
    passage_T = np.concatenate([mentions_R5[:, 2], extra[:, 0]])
    name_T = np.concatenate([mentions_R5[:, 1], extra[:, 1]])
    count_PE = _counted(passage_T, entity_N[name_T], (P, E)).tocsr()
    said_SE = _counted(mentions_R5[:, 0], entity_N[mentions_R5[:, 1]], (sentences, E)).tocsr()
    said_SE.data[:] = 1
    words, word_NW = _words(list(at))
    count_PW = (_counted(passage_T, name_T, (P, len(at))).tocsr() @ word_NW).tocsc()
    passages_E = np.bincount(count_PE.indices, minlength=E)
    informative_E = np.log(max(P, 2) / np.maximum(passages_E, 1)) / np.log(max(P, 2))
    return Derived(
        normals=normals,
        shown=shown,
        kinds_E=kinds_E,
        names={name: int(entity_N[i]) for name, i in at.items()},
        forms=dict(forms),
        count_PE=count_PE,
        said_SE=said_SE,
        spans_S2=np.concatenate([np.zeros((0, 2), np.int64), *spans]),
        document_S=np.concatenate([np.zeros(0, np.int64), *owners]),
        passage_S=np.concatenate([np.zeros(0, np.int64), *holders]),
        about_D=about_D,
        count_PW=count_PW,
        words=words,
        informative_E=informative_E,
        mentions_R4=np.stack(
            [mentions_R5[:, 0], entity_N[mentions_R5[:, 1]], mentions_R5[:, 3], mentions_R5[:, 4]], axis=1
        ),
        types=_types(said, at, entity_N),
        ties=_ties(said, at, entity_N),
    )


def _types(said: Iterable[Said], at: dict[str, int], entity_N: Whole) -> dict[int, str]:
    votes: dict[int, Counter[str]] = defaultdict(Counter)
    for each in said:
        for name, kind in each.types.items():
            if name in at:
                votes[int(entity_N[at[name]])][kind] += 1
    return {entity: min(votes[entity], key=lambda t: (-votes[entity][t], t)) for entity in sorted(votes)}


def _ties(said: Iterable[Said], at: dict[str, int], entity_N: Whole) -> list[Tied]:
    found, sentences = list[Tied](), 0
    for each in said:
        for tie in each.ties:
            a, b = (int(entity_N[at[name]]) if name in at else -1 for name in (tie.a, tie.b))
            if a != b and min(a, b) >= 0:
                found.append(Tied(a, b, sentences + tie.first, sentences + tie.last, tie.what))
        sentences += len(each.sentences_S2)
    return found


def _abouts(
    said: Sequence[Said],
    titles: list[str],
    places: Places,
    at: dict[str, int],
    first: dict[str, int],
    count: Counter[str],
) -> Whole:
    """(passage, name): what passages are about without saying it: their document's title, and their section's."""
    found: list[tuple[int, int]] = []
    for each, title in zip(said, titles, strict=True):
        begin = first.get(each.key[0], 0)
        for passage in range(begin, begin + count[each.key[0]]):
            heading = normal(places.headings[passage][:LONGEST_NAME])
            found += [(passage, at[name]) for name in {title, heading} if name in at]
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


def _counted(row_T: Whole, column_T: Whole, shape: tuple[int, int]) -> Any:
    from scipy import sparse

    return sparse.coo_matrix((np.ones(len(row_T)), (row_T, column_T)), shape=shape)


def _words(names: Sequence[str]) -> tuple[dict[str, int], Any]:
    """The words that names are made of, and which name has which `[N, W]`."""
    words: dict[str, int] = {}
    pairs = [(i, words.setdefault(stem(word), len(words))) for i, name in enumerate(names) for word in name.split()]
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return words, _counted(table[:, 0], table[:, 1], (len(names), max(len(words), 1))).tocsr()


@lru_cache(1 << 17)
def stem(word: str) -> str:
    """A word without the commonest English endings: enough for a question's word to meet a passage's.

    >>> stem("founded"), stem("borders"), stem("king"), stem("publishing")
    ('found', 'border', 'king', 'publish')
    """
    word = singular(word)
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= _STEMMED - 1:
            return word[: -len(ending)]
    return word
