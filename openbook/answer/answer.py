"""An answer and why: what `ask` returns, prints, stores and shows.

Spans are character offsets, end exclusive: of tokens and citations into the answer, of sources into the document's
extracted text. `bits` are base 2, `necessity` and `sufficiency` natural logs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openbook.lm.decoding.draft import Reason
from openbook.mix.evidence import Evidence
from openbook.mix.source import Kind

Span = tuple[int, int]


@dataclass(frozen=True)
class Neighbour:
    """Where the book holds a token in a context like the answer's, with some characters before and after it.

    `span` are its characters in the document's text, `p` its part of the neighbours' distribution, `distance` the
    squared distance of the two contexts, in the total variance of the book's.
    """

    document: str
    line: int
    span: Span
    before: str
    text: str
    after: str
    p: float
    distance: float


@dataclass(frozen=True)
class Likely:
    """A token that could have come: its text by itself, its bytes, its natural log-probability under the mixture."""

    text: str
    bytes: tuple[int, ...]
    log_p: float


@dataclass(frozen=True)
class Token:
    """One token: its text (empty where it is only part of a character), probability, and who said it.

    `likeliest`: what could have come, the likeliest first, where `Settings.likeliest` asks for it.
    """

    text: str
    span: Span
    p: float
    bits: float | None
    responsibility: Mapping[str, float]
    certified: int | None = None
    neighbours: tuple[Neighbour, ...] = ()
    likeliest: tuple[Likely, ...] = ()


@dataclass(frozen=True)
class Member:
    """A passage of a branch that holds several. `left_out`: what the branch's natural log p of the answer loses when
    this passage is taken out of it and the answer is read again; None where nothing was answered."""

    document: str
    title: str
    heading: str | None
    page: int | None
    line: int
    span: Span
    text: str
    left_out: float | None = None


@dataclass(frozen=True)
class Source:
    """A source and its share in the whole answer. One of several passages has `members`, and the place of the one that
    does most for it.

    `prior` is from retrieval, `refined` after the question was read; `responsibility` is the mean over tokens, `bits`
    the part r_s(t) of each token's bits, so the sources' bits add up to the answer's.
    """

    id: str
    kind: Kind
    prior: float
    refined: float
    responsibility: float = 0.0
    bits: float | None = None
    necessity: float | None = None
    sufficiency: float | None = None
    document: str | None = None
    title: str | None = None
    heading: str | None = None
    page: int | None = None
    line: int | None = None
    span: Span | None = None
    text: str | None = None
    members: tuple[Member, ...] = ()


@dataclass(frozen=True)
class Citation:
    """A stretch of the answer, the passage that made the model write it, and the place there that carries its words.

    `member` says which passage of a branch that holds several.
    """

    span: Span
    source: str
    source_span: Span
    cited_text: str
    responsibility: float
    member: int | None = None


@dataclass(frozen=True)
class Answer:
    """See `docs/evidence.md`. `evidence` holds the arrays behind it; it is not stored with the JSON.

    `ended` says why nothing follows (`openbook.lm.decoding.draft`): "repetition" where repeats were withdrawn; None
    where nothing was written. An abstained answer has a text only where that was written before it was doubted.
    `others` are more answers to the same question, if several were asked for.
    """

    question: str
    text: str
    abstained: bool
    reason: str | None
    seed: int
    model: str
    book: Mapping[str, Any]
    settings: Mapping[str, Any]
    sources: tuple[Source, ...]
    tokens: tuple[Token, ...]
    citations: tuple[Citation, ...]
    timings: Mapping[str, float]
    ended: Reason | None = None
    evidence: Evidence | None = field(default=None, repr=False, compare=False)
    others: tuple[Answer, ...] = ()

    @property
    def mean_log_p(self) -> float:
        """Natural log p of a token, the mean over the answer, under the mixture."""
        return float(np.mean(np.log([max(token.p, 1e-300) for token in self.tokens]))) if self.tokens else -math.inf

    def to_dict(self) -> dict[str, Any]:
        """The JSON of INTERFACES: plain values only; an infinite necessity becomes null."""
        return {
            "question": self.question,
            "answer": self.text,
            "abstained": self.abstained,
            "reason": self.reason,
            "ended": self.ended,
            "seed": self.seed,
            "model": self.model,
            "book": dict(self.book),
            "settings": dict(self.settings),
            "sources": [source_dict(s) for s in self.sources],
            "tokens": [token_dict(t) for t in self.tokens],
            "citations": [_citation(c) for c in self.citations],
            "timings": plain(dict(self.timings)),
            **({"others": [_other(answer) for answer in self.others]} if self.others else {}),
        }

    def show(self) -> None:
        """Print the answer with its evidence to the terminal."""
        from rich.console import Console

        from openbook.answer.terminal import show

        show(self.to_dict(), Console())

    def save_html(self, path: str | Path) -> Path:
        """Write the evidence as one self-contained page; returns its path."""
        from openbook.answer.html import save_html

        return save_html(self.to_dict(), path)

    def save(self, path: str | Path) -> Path:
        """Write the answer with its evidence as the path's ending says: .md, .html, .svg, .png, .txt."""
        from openbook.answer.report.save import save

        return save(self.to_dict(), path)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from openbook.answer.report.notebook import notebook

        return notebook(self.to_dict())


_PLAIN = ("text", "span", "p", "bits", "responsibility", "certified")


def token_dict(token: Token) -> dict[str, Any]:
    """A token as JSON. Made for every token of a stream: `asdict` copies what is in it five times as long."""
    values: dict[str, Any] = {name: plain(getattr(token, name)) for name in _PLAIN}
    values["neighbours"] = [plain(asdict(each)) for each in token.neighbours]
    if token.likeliest:
        values["likeliest"] = [plain(asdict(each)) for each in token.likeliest]
    return values


# What only a passage or a stored answer has; a source of another kind leaves these out of its JSON.
_PLACE = ("document", "title", "heading", "page", "line", "span", "text")


def source_dict(source: Source) -> dict[str, Any]:
    """A source as JSON."""
    values: dict[str, Any] = plain(asdict(source))
    if not source.members:
        del values["members"]
    return values if source.kind in ("passage", "faq") else {k: v for k, v in values.items() if k not in _PLACE}


def _other(answer: Answer) -> dict[str, Any]:
    """What another answer to the question has of its own."""
    own = answer.to_dict()
    told = {key: own[key] for key in ("answer", "ended", "sources", "tokens", "citations")}
    return {**told, "mean_log_p": plain(answer.mean_log_p)}


def _citation(citation: Citation) -> dict[str, Any]:
    values: dict[str, Any] = plain(asdict(citation))
    if citation.member is None:
        del values["member"]
    return values


def plain(value: Any) -> Any:
    """JSON values: tuples become lists, numbers are rounded to what they mean, the infinite and undefined is null."""
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
