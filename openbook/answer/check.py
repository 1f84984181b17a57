"""A text from anywhere against a book: which passage carries each word, and which words nothing carries.

The arithmetic is that of an answer (`openbook.mix.evidence`), on a text that is given instead of written: every
sentence is a mixture of the passages found for it and the closed book, whose weights learn within it. A *word* is the
sum of its tokens. A word that says something is unsupported where neither the book nor the model foretells it:

    support(w) = min(bits(w), CREDIT) + PATIENCE · log2 p_mix(w) < LEAST  and  −log2 p_mix(w) > SURPRISE

with bits = log2 p_mix − log2 p_closed. A word that stays improbable is not excused by how improbable it was before.
What a sentence begins with nobody can foretell: of its first word's want of support only the share FIRST counts.

Shapes: S sources, T tokens of a sentence.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from openbook.answer.account import LEAST_BITS
from openbook.answer.answer import Citation, Source, Token, plain, source_dict
from openbook.answer.citations import best_span, says_something, words
from openbook.answer.given import Given, SentenceRead, read_given
from openbook.book.documents import tidy
from openbook.book.retrieve import Hit
from openbook.errors import Fault
from openbook.mix.evidence import Evidence
from openbook.mix.mixture import Weights
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK
from openbook.mix.weights import Array, log_prior

Span = tuple[int, int]
Verdict = Literal["supported", "partly", "unsupported", "common knowledge"]

LONGEST = 100_000
"""Characters of a text that is checked at once."""
LEAST, CREDIT, PATIENCE, FIRST, SURPRISE = -5.0, 3.0, 0.5, 0.5, 6.0
"""The line below which a word is unsupported; bits that may speak for it at most; what its improbability counts, and a
sentence's first word; bits up to which nothing is a surprise. Fitted in docs/check.md."""
ENOUGH = 5.0
"""Bits by which the book must make a sentence likelier to have said it; else the model says it anyway."""


@dataclass(frozen=True)
class Word:
    """A word that says something: its place, its bits over the closed book, log2 of its probability in the mixture."""

    span: Span
    bits: float
    log2_p: float
    first: bool = False

    @property
    def support(self) -> float:
        """How far the book, or the model, foretells it."""
        support = min(self.bits, CREDIT) + PATIENCE * self.log2_p
        return support * FIRST if self.first and support < 0 else support

    @property
    def unsupported(self) -> bool:
        """Whether neither foretells it."""
        return self.support < LEAST and -self.log2_p > SURPRISE


@dataclass(frozen=True)
class Sentence:
    """A sentence and what the book says of it. `source` is the passage that carried most, or the nearest one."""

    span: Span
    verdict: Verdict
    source: str | None
    bits: float
    unsupported: tuple[Span, ...]
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Check:
    """A text checked against a book. Spans are offsets into `text`, which is the text as the model reads it."""

    question: str | None
    text: str
    model: str
    book: Mapping[str, Any]
    settings: Mapping[str, Any]
    sources: tuple[Source, ...]
    tokens: tuple[Token, ...]
    citations: tuple[Citation, ...]
    sentences: tuple[Sentence, ...]
    timings: Mapping[str, float]

    @property
    def supported(self) -> bool:
        """Whether nothing in the text is unsupported."""
        return not any(sentence.unsupported for sentence in self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of an answer (`Answer.to_dict`), the text as its `answer`, and `sentences`."""
        return {
            "question": self.question,
            "answer": self.text,
            "model": self.model,
            "book": dict(self.book),
            "settings": dict(self.settings),
            "sources": [source_dict(source) for source in self.sources],
            "tokens": [plain(asdict(token)) for token in self.tokens],
            "citations": [plain(asdict(citation)) for citation in self.citations],
            "sentences": [plain({k: v for k, v in asdict(s).items() if k != "words"}) for s in self.sentences],
            "timings": plain(dict(self.timings)),
        }

    def save_html(self, path: str | Path) -> Path:
        """Write text, verdicts and evidence as one self-contained page; returns its path."""
        from openbook.answer.html import save_html

        return save_html(self.to_dict(), path)


def check(text: str, reader: Reader, question: str | None = None) -> Check:
    """Score a text that somebody else wrote against the reader's book, as an answer to `question` if one is given.

    Raises `Fault` for an empty text, one longer than `LONGEST` characters, an empty book.
    """
    began = time.perf_counter()
    if len(text) > LONGEST:
        raise Fault(
            f"the text has {len(text):,} characters; at most {LONGEST:,} are checked at once: check it in parts"
        )
    given = Given.of(reader.model.tokenizer, tidy(text).strip())
    if not given.text.strip():
        raise Fault("the text is empty; there is nothing to check")
    question = tidy(question).strip() if question else None
    with reader.model.runner.alone():
        read = list(read_given(reader, given, question or None))
    if reader.kept is not None:
        reader.kept.flush()
    judged = [Judged.of(one, given, reader.settings) for one in read]
    names = _named(judged)
    sources = _sources(judged, names, len(given.ids))
    by_id = {source.id: source for source in sources}
    made = [one.sentence(names) for one in judged]
    return Check(
        question=question or None,
        text=given.text,
        model=reader.model.name,
        book={"path": str(reader.book.path), "version": reader.book.version},
        settings=_settings(reader.settings),
        sources=sources,
        tokens=tuple(_tokens(given, judged, names)),
        citations=tuple(citation for one in judged if (citation := one.citation(given, names, by_id))),
        sentences=tuple(made),
        timings={"check_ms": 1e3 * (time.perf_counter() - began)},
    )


@dataclass(frozen=True)
class Judged:
    """A sentence under the passages that matter to it, most responsible first, and the closed book."""

    span: Span
    tokens: range
    hits: tuple[Hit, ...]
    evidence: Evidence
    words: tuple[Word, ...]

    @classmethod
    def of(cls, read: SentenceRead, given: Given, settings: Settings) -> Judged:
        """Keep the passages that a sentence's mixture believes in the end; then those that added bits to it."""
        believed_S = read.log_prior_S + read.log_p_TS[:, :-1].sum(0)
        kept = np.argsort(-believed_S, kind="stable")[: settings.passages].tolist()
        gained_S = _gained(mixed(read, kept, settings))[:-1]
        order = np.argsort(-gained_S, kind="stable").tolist()
        kept = [kept[i] for rank, i in enumerate(order) if rank == 0 or gained_S[i] >= LEAST_BITS]
        evidence = mixed(read, kept, settings)
        said = tuple(_words(read, given, evidence))
        return cls(read.span, read.tokens, tuple(read.hits[i] for i in kept), evidence, said)

    def sentence(self, names: Mapping[str, str]) -> Sentence:
        """The verdict."""
        bits = float((self.evidence.bits_T if self.evidence.bits_T is not None else np.zeros(1)).sum())
        doubted = [word for word in self.words if word.unsupported]
        carried = [word for word in self.words if word.bits >= LEAST_BITS and not word.unsupported]
        verdict: Verdict = "supported" if bits >= ENOUGH else "common knowledge"
        if doubted:
            verdict = "partly" if len(carried) > len(doubted) else "unsupported"
        source = names[self.hits[0].passage.id] if self.hits else None
        return Sentence(self.span, verdict, source, bits, tuple(_joined(self.words)), self.words)

    def citation(self, given: Given, names: Mapping[str, str], sources: Mapping[str, Source]) -> Citation | None:
        """The place in the passage that carried most, if that is a bit at least."""
        if not self.hits or _gained(self.evidence)[0] < LEAST_BITS:
            return None
        source = sources[names[self.hits[0].passage.id]]
        found = best_span(given.text[slice(*self.span)], source.text or "")
        if found is None or source.text is None or source.span is None:
            return None
        place = (source.span[0] + found[0], source.span[0] + found[1])
        share = float(self.evidence.responsibility_TS[:, 0].mean())
        return Citation(self.span, source.id, place, source.text[slice(*found)], share)


def mixed(read: SentenceRead, kept: Sequence[int], settings: Settings) -> Evidence:
    """The evidence of a sentence under some of its passages and the closed book."""
    weights = Weights(log_prior(read.log_prior_S[kept], settings.closed_share), settings.persistence, settings.cap)
    log_p_TS = read.log_p_TS[:, [*kept, -1]]
    so_far_TS = np.cumsum(log_p_TS, axis=0) - log_p_TS
    log_w_TS = np.array([weights.at(so_far_S) for so_far_S in so_far_TS]).reshape(log_p_TS.shape)
    labels = (*(Label(read.hits[i].passage.id, "passage") for i in kept), CLOSED_BOOK.label)
    return Evidence(labels, weights, log_p_TS, log_w_TS)


def _gained(evidence: Evidence) -> Array:
    """What each source added to the sentence, in bits: Σ_t r_s(t) · max(bits(t), 0)."""
    bits_T = np.zeros(len(evidence.log_mix_T)) if evidence.bits_T is None else evidence.bits_T
    gained_S: Array = np.maximum(bits_T, 0.0) @ evidence.responsibility_TS
    return gained_S


def _words(read: SentenceRead, given: Given, evidence: Evidence) -> Iterator[Word]:
    """The sentence's words that say something, each the sum of the tokens that begin in it."""
    bits_T = evidence.bits_T if evidence.bits_T is not None else np.zeros(len(read.tokens))
    begins = np.array([given.begins(token) for token in read.tokens])
    start = read.span[0]
    for word in words(given.text[slice(*read.span)]):
        inside_T = (begins >= start + word.start) & (begins < start + word.end)
        if says_something(word) and inside_T.any():
            log2_p = float(evidence.log_mix_T[inside_T].sum() / np.log(2))
            yield Word((start + word.start, start + word.end), float(bits_T[inside_T].sum()), log2_p, word.start == 0)


def _joined(said: Sequence[Word]) -> Iterator[Span]:
    """Runs of unsupported words with no other word that says something between them."""
    run: list[Word] = []
    for word in [*said, None]:
        if word is not None and word.unsupported:
            run.append(word)
        elif run:
            yield run[0].span[0], run[-1].span[1]
            run = []


def _named(judged: Sequence[Judged]) -> dict[str, str]:
    """Passages by what they added to the whole text, most first: p1, p2, …"""
    gained: dict[str, float] = {}
    for one in judged:
        for hit, bits in zip(one.hits, _gained(one.evidence), strict=False):
            gained[hit.passage.id] = gained.get(hit.passage.id, 0.0) + float(bits)
    order = sorted(gained, key=lambda key: -gained[key])
    return {key: f"p{rank}" for rank, key in enumerate(order, 1)}


def _sources(judged: Sequence[Judged], names: Mapping[str, str], count: int) -> tuple[Source, ...]:
    """Every passage that stands beside a sentence, and the closed book, with its share in the whole text."""
    made: dict[str, Source] = {}
    places = {hit.passage.id: hit.passage for one in judged for hit in one.hits}
    for key, name in names.items():
        p = places[key]
        made[name] = Source(
            name, "passage", prior=0.0, refined=0.0, bits=0.0, necessity=0.0, document=p.document, title=p.title,
            heading=p.heading, page=p.page, line=p.line, span=(p.start, p.end), text=p.text,
        )  # fmt: skip
    made[CLOSED_BOOK.label.id] = Source(*CLOSED_BOOK.label, prior=0.0, refined=0.0, bits=0.0, necessity=0.0)
    for one in judged:
        share_TS, bits_T = one.evidence.responsibility_TS, one.evidence.bits_T
        for s, label in enumerate(one.evidence.labels):
            name = names.get(label.id, label.id)
            was, tokens = made[name], len(one.tokens) / count
            made[name] = replace(
                was,
                prior=was.prior + tokens * float(np.exp(one.evidence.weights.log_prior_S[s])),
                refined=was.refined + tokens * float(np.exp(one.evidence.log_w_TS[:, s]).mean()),
                responsibility=was.responsibility + tokens * float(share_TS[:, s].mean()),
                bits=(was.bits or 0.0) + (0.0 if bits_T is None else float(share_TS[:, s] @ bits_T)),
                necessity=(was.necessity or 0.0) + float(one.evidence.necessity_S[s]),
            )
    return tuple(made.values())


def _tokens(given: Given, judged: Sequence[Judged], names: Mapping[str, str]) -> Iterator[Token]:
    """Tokens with their evidence; a source that a sentence was not read under has no share in its tokens."""
    for one in judged:
        ids = [names.get(label.id, label.id) for label in one.evidence.labels]
        for row, token in enumerate(one.tokens):
            span = given.spans[token]
            share_S = one.evidence.responsibility_TS[row].tolist()
            bits = None if one.evidence.bits_T is None else float(one.evidence.bits_T[row])
            p = float(np.exp(one.evidence.log_mix_T[row]))
            yield Token(given.text[slice(*span)], span, p, bits, dict(zip(ids, share_S, strict=True)))


def _settings(settings: Settings) -> dict[str, Any]:
    names = ("persistence", "passages", "prior_temperature", "closed_share", "cap")
    return {**{name: getattr(settings, name) for name in names}, "least_support": LEAST, "surprise": SURPRISE}
