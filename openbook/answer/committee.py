"""One answer written by several members together, and which of them each piece of it comes from.

    p(y) = Σ_s w_s p_s(y),        w_s ∝ prior × what s gave to the text so far      (τ = 1: Bayesian)

Members with one vocabulary choose token by token, any others byte by byte. A *piece* is a token, or the bytes of a
word. Its responsibilities are those of all its bytes together, w_s Π p_s / Σ, which under τ = 1 is exact: it is the
weight that each member has after the piece.

Shapes: S rows (a member, or a member under one of several passages).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from openbook.answer.account import trimmed
from openbook.answer.answer import Token
from openbook.answer.seats import Passage, Seat, local
from openbook.errors import Fault
from openbook.lm.backends.threads import each_within
from openbook.lm.decoding.bytewise import END
from openbook.lm.decoding.draft import Draft, Reason
from openbook.lm.decoding.repeats import Repeats, unrepeated
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.decoding.stops import Speller, Spelling, spelled
from openbook.mix.decode import Step, generate
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.source import Label, Source
from openbook.mix.sources.member import ByteText, BytewiseMember, Members, common_vocabulary
from openbook.mix.weights import Array, normalise

How = Literal["auto", "tokens", "bytes"]
BYTES = 4
"""Bytes that an answer may have for each token that it may have."""


@dataclass(frozen=True)
class Piece:
    """A token, or a word's bytes: natural logs over the S rows. `bounds` is log of the least and the most that the
    mixture may give it, under these weights, where members do not tell all they know."""

    text: str
    log_p: float
    log_p_S: Array
    log_w_S: Array
    bounds: tuple[float, float]

    @property
    def share_S(self) -> Array:
        """Each row's responsibility."""
        share_S: Array = np.exp(self.log_w_S + self.log_p_S - np.logaddexp.reduce(self.log_w_S + self.log_p_S))
        return share_S


@dataclass
class Together:
    """A committee at work on one question: `stream` writes, the rest says what came of it.

    `book`: path and version of that which the passages are from. Raises `Fault` where members cannot be mixed as asked.
    """

    seats: Sequence[Seat]
    question: str
    passages: Sequence[Passage] = ()
    how: How = "auto"
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 64
    stop: Sequence[str] = ()
    book: Mapping[str, Any] = field(default_factory=lambda: {"path": None, "version": None})

    def __post_init__(self) -> None:
        if not self.seats:
            raise Fault("a committee needs a member; give --member once or more")
        if not self.question.strip():
            raise Fault("the question is empty; ask something")
        names = [seat.name for seat in self.seats]
        if len(set(names)) < len(names):
            raise Fault(f"two members have one name: {', '.join(names)}; give each its own")
        self.pieces: list[Piece] = []
        self.sources: list[Source] = []
        self.reason: Reason | None = None
        self.bytewise = self.how == "bytes" or (self.how == "auto" and not self._one_vocabulary())
        passages: list[Passage | None] = [*self.passages] or [None]
        self.rows = [(seat, passage) for seat in self.seats for passage in passages]
        priors = [1.0 if passage is None else passage.prior for _, passage in self.rows]
        self.weights = Weights(normalise(np.log(priors)), tau=1.0)
        self.labels = [_label(seat, passage) for seat, passage in self.rows]

    def _one_vocabulary(self) -> bool:
        try:
            common_vocabulary([local(seat) for seat in self.seats])
        except Fault:
            return False
        return True

    def stream(self) -> Generator[Piece, None, None]:
        """The pieces of the answer as soon as they are sure."""
        return each_within(self._alone, self._stream())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with ExitStack() as all_:
            for seat in self.seats:
                all_.enter_context(seat.alone())
            yield

    def _stream(self) -> Generator[Piece, None, None]:
        self.sources = self._sources()
        mixture = Mixture(self.sources, self.weights)
        text: Speller = ByteText() if self.bytewise else local(self.seats[0]).tokenizer
        draft = Draft({END} if self.bytewise else local(self.seats[0]).tokenizer.eos_ids)
        ends = {end for seat in self.seats for end in seat.turn_ends}
        spelling = Spelling(text, [*self.stop, *sorted(ends)])
        bounded = ((step, _bounds(mixture, step)) for step in generate(mixture, self.sampling, draft, self._limit))
        pieces = joined(spelled(bounded, lambda pair: pair[0].token, spelling), words=self.bytewise)
        repeats = Repeats()
        for piece, _ in unrepeated(((piece, piece.text) for piece in pieces), lambda _: 0, repeats):
            self.pieces.append(piece)
            yield piece
        self.reason = "repetition" if repeats.withdrawn else "stop" if spelling.stopped else draft.reason

    @property
    def _limit(self) -> int:
        return self.max_tokens * (BYTES if self.bytewise else 1)

    def _sources(self) -> list[Source]:
        read = [() if passage is None else (passage.text,) for _, passage in self.rows]
        if self.bytewise:
            return [
                seat.bytewise(self.question, passages, label, self._limit)
                for (seat, _), passages, label in zip(self.rows, read, self.labels, strict=True)
            ]
        width = common_vocabulary([local(seat) for seat in self.seats])
        prompts = [seat.prompt(self.question, passages) for (seat, _), passages in zip(self.rows, read, strict=True)]
        models = [local(seat) for seat, _ in self.rows]
        return [  # rows of one model are one batch
            Members(models[rows.start], prompts[rows], self.labels[rows], self._limit, width=width)
            for rows in _runs(models)
        ]

    @property
    def text(self) -> str:
        """The answer, without the white space around it."""
        return "".join(piece.text for piece in self.pieces).strip()

    def cost(self) -> dict[str, int]:
        """Tokens that models ran: those of prompts, and those of the answer in every row (of a server: requests)."""
        bytewise = [source.bytewise.tokens for source in self.sources if isinstance(source, BytewiseMember)]
        batches = [source for source in self.sources if isinstance(source, Members)]
        read = sum(rows.read for rows in bytewise) + sum(batch.read for batch in batches)
        return {"read": read, "written": sum(rows.written for rows in bytewise) + sum(b.written for b in batches)}

    def bounds(self) -> list[tuple[float, float]]:
        """Of every piece (`Piece.bounds`)."""
        return [piece.bounds for piece in self.pieces]

    def by_seat(self, share_S: Array) -> Array:
        """Shares of rows as shares of members."""
        share_M: Array = share_S.reshape(len(self.seats), -1).sum(axis=1)
        return share_M

    def bits(self) -> dict[str, Any]:
        """What the answer costs in bits: under the mixture, under each row, and what law 8 allows the mixture."""
        log_p_S = np.sum([piece.log_p_S for piece in self.pieces], axis=0) + np.zeros(len(self.rows))
        bits_S = -log_p_S / np.log(2)
        best = int(np.argmin(bits_S))
        allowed = bits_S[best] - self.weights.log_prior_S[best] / np.log(2)
        mixture = -sum(piece.log_p for piece in self.pieces) / np.log(2)
        by_row = {label.id: float(bits) for label, bits in zip(self.labels, bits_S, strict=True)}
        return {"mixture": float(mixture), "members": by_row, "best": self.labels[best].id, "allowed": float(allowed)}

    def to_dict(self) -> dict[str, Any]:
        """The JSON of an answer (`Answer.to_dict`) whose sources are the rows, and what is a committee's own."""
        text, tokens = trimmed(self._tokens())
        how = "bytes" if self.bytewise else "tokens"
        return {
            "question": self.question,
            "answer": text,
            "abstained": not text,
            "reason": None if text else "the members ended their answer before the first word",
            "ended": self.reason,
            "seed": self.sampling.seed,
            "model": " + ".join(seat.name for seat in self.seats),
            "book": dict(self.book),
            "settings": {"how": how, "max_tokens": self.max_tokens, "temperature": self.sampling.temperature},
            "sources": self._rows(),
            "tokens": [
                {**asdict(token), "span": [*token.span], "lower": math.exp(low), "upper": math.exp(high)}
                for token, (low, high) in zip(tokens, self.bounds(), strict=True)
            ],
            "citations": [],
            "how": how,
            "bits": self.bits(),
            "cost": self.cost(),
            "untold": max((math.exp(high) - math.exp(low) for low, high in self.bounds()), default=0.0),
        }

    def _rows(self) -> list[dict[str, Any]]:
        shares = np.array([piece.share_S for piece in self.pieces] or [np.exp(self.weights.log_prior_S)])
        last = shares[-1]
        return [
            {
                "id": label.id,
                "kind": label.kind,
                "title": seat.name,
                "document": None if passage is None else passage.document,
                "page": None if passage is None else passage.page,
                "line": None if passage is None else passage.line,
                "model": seat.model.name,
                "address": seat.address,
                "system": seat.system,
                "passage": None if passage is None else passage.id,
                "prior": float(np.exp(log_prior)),
                "weight": float(weight),
                "responsibility": float(share),
            }
            for (seat, passage), label, log_prior, weight, share in zip(
                self.rows, self.labels, self.weights.log_prior_S, last, shares.mean(axis=0), strict=True
            )
        ]

    def _tokens(self) -> list[Token]:
        made, end = [], 0
        for piece in self.pieces:
            start, end = end, end + len(piece.text)
            shares = {label.id: float(share) for label, share in zip(self.labels, piece.share_S, strict=True)}
            made.append(Token(piece.text, (start, end), float(np.exp(piece.log_p)), None, shares))
        return made


def joined(items: Iterable[tuple[tuple[Step, tuple[float, float]], str]], *, words: bool) -> Iterator[Piece]:
    """Steps with their texts as pieces: a token each (with those that only began its character), or a word each."""
    steps: list[tuple[Step, tuple[float, float]]] = []
    text = ""
    for item, more in items:
        if steps and (not words or (more[:1].isspace() and text.strip())) and text:
            yield _piece(steps, text)
            steps, text = [], ""
        steps.append(item)
        text += more
    if steps:
        yield _piece(steps, text)


def _piece(steps: Sequence[tuple[Step, tuple[float, float]]], text: str) -> Piece:
    log_p_S: Array = np.sum([step.log_p_S for step, _ in steps], axis=0)
    log_w_S = steps[0][0].log_w_S
    low, high = np.sum([bounds for _, bounds in steps], axis=0)
    return Piece(text, float(np.logaddexp.reduce(log_w_S + log_p_S)), log_p_S, log_w_S, (float(low), float(high)))


def _bounds(mixture: Mixture, step: Step) -> tuple[float, float]:
    """log of the least and the most the mixture gives a step's choice, over what members leave untold at this step."""
    low_S, high_S = step.log_p_S.copy(), step.log_p_S.copy()
    for s, source in enumerate(mixture.sources if len(mixture.sources) == len(low_S) else ()):
        if isinstance(source, BytewiseMember) and source.bytewise.unknown > 0:
            known = float(source.bytewise.log_known()[step.token])
            low_S[s], high_S[s] = known, float(np.logaddexp(known, np.log(source.bytewise.unknown)))
    said, low, high = (float(np.logaddexp.reduce(step.log_w_S + p_S)) for p_S in (step.log_p_S, low_S, high_S))
    return min(low, said), min(0.0, max(high, said))  # the mixture is fp32: its last digit may be off


def _label(seat: Seat, passage: Passage | None) -> Label:
    return Label(seat.name if passage is None else f"{seat.name}/{passage.id}", "model")


def _runs(models: Sequence[object]) -> list[slice]:
    """Neighbours of one model."""
    starts = [i for i, model in enumerate(models) if i == 0 or model is not models[i - 1]]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(models)], strict=True)]


def write_together(together: Together, on_piece: Callable[[Piece], None] | None = None) -> Together:
    """Write the whole answer; `on_piece` is called with each piece as it is written."""
    for piece in together.stream():
        if on_piece is not None:
            on_piece(piece)
    return together
