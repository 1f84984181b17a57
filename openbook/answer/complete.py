"""A text gone on with, the passage before it looked up anew every few tokens (In-Context RALM, Ram 2023).

Every token's evidence names the passage that was in force: the mixture has two sources, the text after that passage and
the text alone, and in the account each passage that was ever in force is a source of its own. Where it was not in force
its weight is 0 and its distribution the closed book's: so leaving a passage out is leaving its tokens to the model
alone, and what a passage would have written alone has the model's own words wherever another was in force.

Shapes: T tokens, S sources (the passages in their order, the closed book last).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from openbook.answer.account import cite, likeliest_of, token_of, trimmed
from openbook.answer.answer import Answer, Source, Token
from openbook.answer.ask import all_of, write
from openbook.book.documents import tidy
from openbook.book.embedder import Embedder
from openbook.book.store import Book
from openbook.errors import Fault
from openbook.lm.backends.threads import each_within
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.decoding.draft import Draft, Reason
from openbook.lm.decoding.repeats import Repeats, unrepeated
from openbook.lm.decoding.stops import Spelling, spelled
from openbook.lm.model import LanguageModel, load_model
from openbook.mix.decode import Step, generate
from openbook.mix.evidence import Evidence
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.prompt import Framing
from openbook.mix.reading import Reader, passage_cache
from openbook.mix.settings import Settings
from openbook.mix.source import Label
from openbook.mix.sources.branches import CLOSED_BOOK
from openbook.mix.sources.retrieved import Lookup, Retrieval, Retrieved, asking
from openbook.mix.weights import Array, log_prior

CLOSED = CLOSED_BOOK.label.id
OTHERS = ("answers", "beams", "lambda_knn", "paths", "rerank", "robust")
"""Settings of several passages or of other sources: not passed over in silence."""


class Placed(NamedTuple):
    """A step, and which of the passages used was in force when its token was chosen."""

    step: Step
    in_force: int | None


class ByPassage(Evidence):
    """The evidence of a text whose passage changes: a column a passage, and the closed book's last."""

    @cached_property
    def necessity_S(self) -> Array:
        """What the text loses where a passage's tokens are left to the model alone; of the closed book, where its share
        is left to the passage in force (infinite where none was)."""
        drops = [self.log_mix_T - self._without(s) for s in range(len(self.labels))]
        return np.array([drop.sum() for drop in drops])

    def _without(self, s: int) -> Array:
        kept_TS = np.delete(self.log_w_TS, s, axis=1)
        log_p_TS = np.delete(self.log_p_TS, s, axis=1)
        in_force_T = np.isfinite(self.log_w_TS[:, s])
        if s < len(self.labels) - 1:
            return np.where(in_force_T, self.log_p_TS[:, -1], self.log_mix_T)
        total_T = np.logaddexp.reduce(kept_TS, axis=1)
        with np.errstate(invalid="ignore"):
            rest_T = np.logaddexp.reduce(kept_TS + log_p_TS, axis=1) - total_T
        return np.where(np.isfinite(total_T), rest_T, -np.inf)


def complete(
    text: str,
    *,
    book: Book | None = None,
    model: LanguageModel | None = None,
    encoder: Embedder | None = None,
    retrieval: Retrieval | None = None,
    closed_share: float = 0.0,
    settings: Settings | None = None,
    kept: PrefixStore | None = None,
    on_token: Callable[[Token], None] | None = None,
) -> Answer:
    """Go on with a text; without a book, as the model alone does.

    Of the settings those of writing count: `sampling`, `max_tokens`, `stop`, `constraint`, `cut_repeats`.
    `closed_share` is the weight of the text alone beside the text after the passage. Raises `Fault` for an empty text,
    and for settings of several passages or other sources (`OTHERS`).
    """
    model = model or load_model()
    if kept is None and book is not None:
        kept = passage_cache(book, model)
    lookup = Lookup(model, book, encoder, retrieval or Retrieval(), kept)
    tokens = Completion(lookup, settings or Settings(), closed_share, book).stream(text)
    return all_of(tokens, on_token)


def ask_again(
    reader: Reader, question: str, retrieval: Retrieval, on_token: Callable[[Token], None] | None = None
) -> Answer:
    """Answer a question from one passage at a time, looked up anew while the answer is written.

    With the question and the answer's last tokens; by the prompt, and from the kept passages, of `ask`. Withheld where
    `ask` withholds, by its reading of the question. Raises `Fault` as `complete`.
    """
    settings = reader.settings
    if settings.margin is not None:
        hits = reader.find(question)
        if not hits or reader.begin(question, hits).lift_bits < settings.margin:
            return write(reader, question, on_token)
    frame, begun = asking(Framing(reader.model.tokenizer, settings.prompt), question)
    lookup = Lookup(reader.model, reader.book, reader.encoder, retrieval, reader.kept, frame)
    stops = (*settings.stop, *(reader.model.tokenizer.turn_ends if settings.constraint is None else ()))
    completion = Completion(lookup, replace(settings, stop=stops), settings.closed_share, reader.book, begun=begun)
    return all_of(completion.stream(question), on_token)


def as_recorded(reader: Reader, text: str, how: Mapping[str, Any]) -> Answer:
    """The same again, by what `Answer.settings["retrieval"]` records; `Fault` where that is not whole."""
    try:
        retrieval = Retrieval(**{f.name: how[f.name] for f in fields(Retrieval)})
        asked, share = how["asked"], float(how["closed_share"])
        if type(asked) is not bool or not 0 <= share < 1:
            raise ValueError(f"asked is {asked!r} and the closed book's share {share}")
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise Fault(f"how this answer's passages were looked up cannot be read back: {error}") from error
    if asked:
        return ask_again(reader, text, retrieval)
    parts: dict[str, Any] = {"book": reader.book, "model": reader.model, "encoder": reader.encoder, "kept": reader.kept}
    return complete(text, **parts, retrieval=retrieval, closed_share=share, settings=reader.settings)


@dataclass
class Completion:
    """One text on its way. `begun`: its tokens, if they are not the text's own, as under a question's prompt; then
    white space around what is written is nothing."""

    lookup: Lookup
    settings: Settings
    closed_share: float = 0.0
    book: Book | None = None
    timings: dict[str, float] = field(default_factory=dict)
    ended: Reason | None = None
    begun: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name in OTHERS:
            if getattr(self.settings, name) != getattr(Settings(), name):
                raise Fault(f"{name} has no meaning where one passage at a time is read, token by token; leave it out")
        log_prior(np.zeros(1), self.closed_share)  # refuses what is no share

    def stream(self, text: str) -> Generator[Token, None, Answer]:
        """Tokens as they are written; the generator returns the whole."""
        return each_within(self.lookup.model.runner.alone, self._stream(text))

    def _stream(self, text: str) -> Generator[Token, None, Answer]:
        text, settings, model = tidy(text), self.settings, self.lookup.model
        began = time.perf_counter()
        begun = model.tokenizer.encode(text) if self.begun is None else self.begun
        source = Retrieved(self.lookup, begun, settings.max_tokens)
        weights = Weights(log_prior(np.zeros(1), self.closed_share))
        mixture = Mixture([source], weights)
        first = time.perf_counter()
        repeats, spelling = Repeats(), Spelling(model.tokenizer, settings.stop)
        pieces: Iterator[tuple[Placed, str]] = spelled(self._placed(mixture, source), _token, spelling)
        if settings.cut_repeats and settings.constraint is None:
            pieces = unrepeated(pieces, _token, repeats)
        written: list[Placed] = []
        tokens: list[Token] = []
        end = 0
        for placed, piece in pieces:
            token = _named(token_of(placed.step, piece, end, mixture), placed.in_force)
            told = likeliest_of(placed.step, model.tokenizer)
            tokens.append(replace(token, likeliest=told) if told else token)
            written.append(placed)
            end += len(piece)
            yield tokens[-1]
        if repeats.withdrawn or spelling.stopped:
            self.ended = "repetition" if repeats.withdrawn else "stop"
        seconds = time.perf_counter() - first
        self.timings = {
            "first_token_ms": 1e3 * (first - began),
            "tokens_per_second": max(len(written) - 1, 0) / seconds if seconds > 0 else 0.0,
            "lookups": 1 + max(len(written) - 1, 0) // self.lookup.retrieval.stride,
            "rereads": source.rereads,
            "prompt_tokens": source.read,
            "cached_tokens": source.found,
        }
        if self.lookup.store is not None:
            self.lookup.store.flush()
        return self._answer(text, source, weights, written, tokens)

    def _placed(self, mixture: Mixture, source: Retrieved) -> Iterator[Placed]:
        settings, model = self.settings, self.lookup.model
        guide = None if settings.constraint is None else model.guides.guide(settings.constraint)
        draft = Draft(model.tokenizer.eos_ids, zero=-float(np.log(model.spec.vocabulary)), guide=guide)
        for step in generate(mixture, settings.sampling, draft, settings.max_tokens, likeliest=settings.likeliest):
            yield Placed(step, source.in_force)
        self.ended = draft.reason

    def _answer(
        self, text: str, source: Retrieved, weights: Weights, written: Sequence[Placed], tokens: Sequence[Token]
    ) -> Answer:
        """The account: whatever was written, and each passage's part in it."""
        evidence = evidence_of(written, len(source.used), weights)
        sources = tuple(_sources(source, evidence))
        none = {label.id: 0.0 for label in evidence.labels}
        tokens = [replace(token, responsibility={**none, **token.responsibility}) for token in tokens]
        whole = "".join(token.text for token in tokens)
        if self.begun is not None and self.settings.constraint is None:
            whole, tokens = trimmed(tokens)
        book, settings = self.book, self.settings
        how = {**self.lookup.retrieval.summary(), "closed_share": self.closed_share, "asked": self.begun is not None}
        return Answer(
            question=text,
            text=whole,
            abstained=False,
            reason=None,
            seed=settings.sampling.seed,
            model=self.lookup.model.name,
            book={"path": str(book.path), "version": book.version} if book else {"path": None, "version": None},
            settings={**settings.summary(), "retrieval": how},
            sources=sources,
            tokens=tuple(tokens),
            citations=cite(whole, tokens, sources),
            timings=self.timings,
            ended=self.ended,
            evidence=evidence,
        )


def evidence_of(written: Sequence[Placed], passages: int, weights: Weights) -> ByPassage:
    """The evidence by passage, from that of the two sources that the mixture had."""
    labels = (*(Label(f"p{i + 1}", "passage") for i in range(passages)), CLOSED_BOOK.label)
    log_p_TS = np.empty((len(written), passages + 1))
    log_w_TS = np.full_like(log_p_TS, -np.inf)
    for t, (step, at) in enumerate(written):
        log_p_TS[t] = step.log_p_S[1]
        if at is None:  # both rows are the text alone
            log_w_TS[t, -1] = 0.0
        else:
            log_p_TS[t, at] = step.log_p_S[0]
            log_w_TS[t, [at, -1]] = step.log_w_S
    return ByPassage(labels, weights, log_p_TS, log_w_TS, tuple(placed.step.certified for placed in written))


def _token(placed: Placed) -> int:
    return placed.step.token


def _named(token: Token, in_force: int | None) -> Token:
    """The token with the responsibility of the retrieved row under the name of the passage in force."""
    share, closed = token.responsibility.values()
    if in_force is None:
        return replace(token, responsibility={CLOSED: share + closed})
    return replace(token, responsibility={f"p{in_force + 1}": share, CLOSED: closed})


def _sources(source: Retrieved, evidence: ByPassage) -> Iterator[Source]:
    """Each passage that was in force, then the closed book. `prior` is retrieval's, `refined` its tokens' part."""
    in_force_TS = np.exp(evidence.log_w_TS)
    for s, label in enumerate(evidence.labels):
        share_T = evidence.responsibility_TS[:, s]
        some = len(share_T) > 0
        refined = float(in_force_TS[:, s].mean()) if some else 0.0
        made = Source(
            label.id,
            label.kind,
            prior=source.used[s].prior if s < len(source.used) else refined,
            refined=refined,
            responsibility=float(share_T.mean()) if some else 0.0,
            bits=None if evidence.bits_T is None else float(share_T @ evidence.bits_T),
            necessity=float(evidence.necessity_S[s]),
            sufficiency=float(evidence.sufficiency_S[s]),
        )
        if s < len(source.used):
            p = source.used[s].passage
            made = replace(
                made, document=p.document, title=p.title, heading=p.heading, page=p.page, line=p.line,
                span=(p.start, p.end), text=p.text,
            )  # fmt: skip
        yield made
