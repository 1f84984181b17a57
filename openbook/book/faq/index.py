"""Entries made comparable with a question: what a question and an entry have in common, in six numbers.

| feature | lexical or dense | of the question with |
|---|---|---|
| `words` | BM25 as a share | the entry's most similar question |
| `words_pair` | BM25 as a share | all its questions and its answer as one text |
| `parts` | tf–idf cosine of three and four characters | its most similar question |
| `meaning` | cosine of vectors | its most similar question |
| `meaning_answer` | cosine | the answer's most similar sentence |
| `meaning_pair` | cosine | its questions' mean and its answer's sentences' mean, added |

Shapes: N entries, V their questions, S sentences of their answers, R rejected questions, M width, K features, C
candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.book.embedder import Embedder
from openbook.book.faq.entries import Entry
from openbook.book.faq.terms import Array, Terms, hashed
from openbook.book.faq.words import parts, words

FEATURES = ("words", "words_pair", "parts", "meaning", "meaning_answer", "meaning_pair")
ANSWER = FEATURES.index("meaning_answer")
CANDIDATES = 512
"""Entries whose answers are compared sentence by sentence: the best by everything else."""
QUESTIONS_WEIGH = 3
"""Questions of an entry up to which their mean counts the more in `meaning_pair`, where the answer counts once."""
DOUBLE, AGREE, VERY, WORDINGS = 0.9, 0.6, 0.97, 4
"""Of questions that two sources store in other words (`Index.doubles`)."""
HELD_BACK = 30.0
"""What a whole of cosine costs an entry by which a question is nearer to one it was rejected for than to its own."""


@dataclass(frozen=True)
class Asked:
    """A question in the terms of an index."""

    vector_M: Array
    words: Mapping[int, int]
    parts: Mapping[int, int]

    @classmethod
    def of(cls, text: str, vector_M: Array) -> Asked:
        """A text and its vector, of unit length."""
        return cls(vector_M, hashed(words(text)), hashed(parts(text)))


@dataclass(frozen=True)
class Found:
    """Candidates for a question: entries `[C]`, their features `[C, K]`, what each is held back by `[C]`."""

    entries_C: npt.NDArray[np.int64]
    features_CK: Array
    held_C: Array

    def scores(self, weights_K: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """`[C]`."""
        scores_C: npt.NDArray[np.float64] = self.features_CK @ weights_K - self.held_C
        return scores_C


@dataclass(frozen=True)
class Index:
    """Frozen arrays. `questions_N1`, `sentences_N1`, `rejected_N1` say where each entry's begin, and the end."""

    questions_N1: npt.NDArray[np.int64]
    sentences_N1: npt.NDArray[np.int64]
    rejected_N1: npt.NDArray[np.int64]
    questions_VM: Array
    sentences_SM: Array
    rejected_RM: Array
    pairs_NM: Array
    words: Terms
    words_pair: Terms
    parts: Terms

    @classmethod
    def of(cls, entries: Sequence[Entry], vectors: Mapping[str, Array], width: int) -> Index:
        """The index of some entries; `vectors` has a unit vector for each of their `texts_of`."""

        def rows(of_each: Sequence[Sequence[str]]) -> tuple[npt.NDArray[np.int64], Array]:
            starts = np.cumsum([0, *map(len, of_each)]).astype(np.int64)
            found = [vectors[text] for texts in of_each for text in texts]
            return starts, np.array(found, np.float32).reshape(-1, width)

        questions_N1, questions_VM = rows([entry.questions for entry in entries])
        sentences_N1, sentences_SM = rows([entry.sentences for entry in entries])
        rejected_N1, rejected_RM = rows([entry.rejected for entry in entries])
        asked = [hashed(words(question)) for entry in entries for question in entry.questions]
        return cls(
            questions_N1, sentences_N1, rejected_N1, questions_VM, sentences_SM, rejected_RM,
            _pairs(
                _means(questions_VM, questions_N1), _means(sentences_SM, sentences_N1), np.diff(questions_N1)
            ),
            Terms.of(asked),
            Terms.of([_all_words(entry.questions, entry.pair.answer) for entry in entries]),
            Terms.of([hashed(parts(q)) for entry in entries for q in entry.questions], cosine=True),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.pairs_NM)

    def find(self, asked: Asked, weights_K: npt.NDArray[np.float64], count: int = CANDIDATES) -> Found:
        """The candidates for a question, in no order: all, or the `count` best by what costs little."""
        N = len(self)
        starts_N = self.questions_N1[:-1]
        cosines_V = self.questions_VM @ asked.vector_M
        features_NK = np.zeros((N, len(FEATURES)), np.float32)
        if N:
            by_question = (self.words.scores(asked.words), self.parts.scores(asked.parts), cosines_V)
            for column, scores_V in zip((0, 2, 3), by_question, strict=True):
                features_NK[:, column] = np.maximum.reduceat(scores_V, starts_N)
            features_NK[:, 1] = self.words_pair.scores(asked.words)
            features_NK[:, 5] = self.pairs_NM @ asked.vector_M
        held_N = self._held_back(asked, features_NK[:, 3])
        entries_C = np.arange(N)
        if count < N:
            partial_N = features_NK @ weights_K - held_N
            entries_C = np.sort(np.argpartition(-partial_N, count - 1)[:count])
        features_CK = features_NK[entries_C]
        features_CK[:, ANSWER] = self._by_sentence(asked.vector_M, entries_C)
        return Found(entries_C, features_CK, held_N[entries_C])

    def _by_sentence(self, vector_M: Array, entries_C: npt.NDArray[np.int64]) -> Array:
        """The best cosine with a sentence of each entry's answer; every entry has one."""
        counts_C = (self.sentences_N1[1:] - self.sentences_N1[:-1])[entries_C]
        starts_C = np.cumsum(counts_C) - counts_C
        rows = np.repeat(self.sentences_N1[entries_C] - starts_C, counts_C) + np.arange(counts_C.sum())
        if not len(rows):
            return np.zeros(len(entries_C), np.float32)
        best_C: Array = np.maximum.reduceat(self.sentences_SM[rows] @ vector_M, starts_C)
        return best_C

    def _held_back(self, asked: Asked, own_N: Array) -> Array:
        held_N = np.zeros(len(self), np.float32)
        counts_N = np.diff(self.rejected_N1)
        some = np.flatnonzero(counts_N)
        if len(some):
            nearest = np.maximum.reduceat(self.rejected_RM @ asked.vector_M, self.rejected_N1[some])
            held_N[some] = HELD_BACK * np.maximum(nearest - own_N[some], 0)
        return held_N

    def doubles(self, at: int, others_C: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of some entries `[C]` ask what entry number `at` asks, in other words, and are answered alike.

        Each question of either has one of the other at a cosine of `DOUBLE`, and their answers' means have one of
        `AGREE`; or of `VERY`, whatever the answers. Entries with more than `WORDINGS` questions are told apart by them.
        """
        own_VM, own_M = self._asks(at), self._says(at)
        found = np.zeros(len(others_C), bool)
        if len(own_VM) > WORDINGS:
            return found
        for c, other in enumerate(others_C.tolist()):
            asks_VM = self._asks(other)
            if other == at or len(asks_VM) > WORDINGS:
                found[c] = other == at
                continue
            like_VV = own_VM @ asks_VM.T
            near = float(min(like_VV.max(0).min(), like_VV.max(1).min()))
            found[c] = near >= VERY or (near >= DOUBLE and float(own_M @ self._says(other)) >= AGREE)
        return found

    def _asks(self, at: int) -> Array:
        rows: Array = self.questions_VM[self.questions_N1[at] : self.questions_N1[at + 1]]
        return rows

    def _says(self, at: int) -> Array:
        return _mean(self.sentences_SM[self.sentences_N1[at] : self.sentences_N1[at + 1]])

    def without(
        self, asked: Asked, entry: Entry, at: int, question: int | None = None, sentence: int | None = None
    ) -> Array:
        """The features `[K]` of entry number `at` as if it had not one of its questions or sentences: what a question
        made of that is compared with. Counted anew from the entry's texts."""
        questions = [q for i, q in enumerate(entry.questions) if i != question]
        said = [s for i, s in enumerate(entry.sentences) if i != sentence]
        q_VM, s_SM = (
            rows[starts[at] : starts[at + 1]]
            for rows, starts in ((self.questions_VM, self.questions_N1), (self.sentences_SM, self.sentences_N1))
        )
        q_VM = q_VM if question is None else np.delete(q_VM, question, 0)
        s_SM = s_SM if sentence is None else np.delete(s_SM, sentence, 0)
        answer = entry.pair.answer if sentence is None else "\n".join(said)
        pair_M = _pairs(_mean(q_VM)[None], _mean(s_SM)[None], np.array([len(q_VM)]))[0]
        return np.array(
            [
                max((self.words.score(asked.words, hashed(words(q))) for q in questions), default=0.0),
                self.words_pair.score(asked.words, _all_words(questions, answer)),
                max((self.parts.score(asked.parts, hashed(parts(q))) for q in questions), default=0.0),
                _best(q_VM, asked.vector_M),
                _best(s_SM, asked.vector_M),
                float(pair_M @ asked.vector_M),
            ],
            np.float32,
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` makes it of again."""
        terms = {name: getattr(self, name).arrays() for name in ("words", "words_pair", "parts")}
        flat = {f"{name}.{part}": array for name, arrays in terms.items() for part, array in arrays.items()}
        return {**{name: getattr(self, name) for name in _ARRAYS}, **flat}

    @classmethod
    def from_arrays(cls, found: Mapping[str, npt.NDArray[Any]], entries: int, width: int) -> Index:
        """The index of a file, checked against the entries that it is of; `ValueError` where it does not fit."""
        terms = [
            Terms.from_arrays({k.split(".", 1)[1]: v for k, v in found.items() if k.startswith(name + ".")})
            for name in ("words", "words_pair", "parts")
        ]
        kinds = [np.int64 if name.endswith("N1") else np.float32 for name in _ARRAYS]
        arrays = [np.asarray(found[name], kind) for name, kind in zip(_ARRAYS, kinds, strict=True)]
        if not all(np.isfinite(array).all() for array in arrays):
            raise ValueError("an index has numbers that are none")
        made = cls(*arrays, *terms)  # type: ignore[arg-type]
        places = ((made.questions_N1, made.questions_VM), (made.sentences_N1, made.sentences_SM))
        for starts, rows in (*places, (made.rejected_N1, made.rejected_RM)):
            tiled = starts.shape == (entries + 1,) and starts[0] == 0 and starts[-1] == len(rows)
            if not (tiled and (np.diff(starts) >= 0).all() and rows.shape[1:] == (width,)):
                raise ValueError("an index does not fit its entries")
        if (np.diff(made.questions_N1) < 1).any() or (np.diff(made.sentences_N1) < 1).any():
            raise ValueError("an entry has no question or no answer")
        texts = (made.words.texts, made.parts.texts, made.words_pair.texts)
        if made.pairs_NM.shape != (entries, width) or texts != (len(made.questions_VM),) * 2 + (entries,):
            raise ValueError("an index does not fit its entries")
        return made


_ARRAYS = (
    "questions_N1", "sentences_N1", "rejected_N1", "questions_VM", "sentences_SM", "rejected_RM", "pairs_NM",
)  # fmt: skip


def texts_of(entries: Iterable[Entry]) -> list[str]:
    """Every text of some entries that an index has a vector of, once each."""
    return list(dict.fromkeys(t for e in entries for t in (*e.questions, *e.sentences, *e.rejected)))


def embedded(texts: Sequence[str], encoder: Embedder) -> dict[str, Array]:
    """The vector of each text."""
    if not texts:
        return {}
    return dict(zip(texts, np.asarray(encoder.embed(texts), np.float32), strict=True))


def unit(rows_NM: Array) -> Array:
    """Rows at unit length; those of zeros as they are."""
    made: Array = rows_NM / np.maximum(np.linalg.norm(rows_NM, axis=1, keepdims=True), 1e-12)
    return made.astype(np.float32)


def _all_words(questions: Sequence[str], answer: str) -> Counter[int]:
    total = hashed(words(answer))
    for question in questions:
        total.update(hashed(words(question)))
    return total


def _means(rows: Array, starts_N1: npt.NDArray[np.int64]) -> Array:
    """The mean of each entry's rows, at unit length."""
    if len(starts_N1) < 2:
        return np.zeros((0, rows.shape[1]), np.float32)
    return unit(np.add.reduceat(rows, starts_N1[:-1], axis=0))


def _pairs(questions_NM: Array, sentences_NM: Array, counts_N: npt.NDArray[np.int64]) -> Array:
    """Where each entry's pair lies: its answer, and its questions `QUESTIONS_WEIGH` times as heavy, if so many."""
    return unit(questions_NM * np.minimum(counts_N, QUESTIONS_WEIGH)[:, None] + sentences_NM)


def _mean(rows: Array) -> Array:
    return unit(rows.sum(0, keepdims=True))[0] if len(rows) else np.zeros(rows.shape[1], np.float32)


def _best(rows: Array, vector_M: Array) -> float:
    return float((rows @ vector_M).max()) if len(rows) else 0.0
