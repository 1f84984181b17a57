"""A question answered from a book: search, read, mix, write, account."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from typing import TypeVar

from openbook.answer.account import cite, likeliest_of, sources_of, token_of, trimmed
from openbook.answer.answer import Answer, Token
from openbook.answer.citations import says_something, words
from openbook.answer.neighbours import with_neighbours
from openbook.book.documents import tidy
from openbook.book.embedder import Embedder
from openbook.book.store import Book
from openbook.errors import Fault
from openbook.lm.backends.threads import each_within
from openbook.lm.decoding.draft import Draft, Reason
from openbook.lm.decoding.repeats import Repeats, unrepeated
from openbook.lm.decoding.stops import Spelling, spelled
from openbook.lm.model import LanguageModel, load_model
from openbook.mix.beam import Written, search
from openbook.mix.decode import Step, generate
from openbook.mix.diverse import SPARE, distinct, diverse
from openbook.mix.evidence import Evidence
from openbook.mix.paths import LeftOut, leave_out
from openbook.mix.reading import Reader, Reading
from openbook.mix.settings import Settings

Made = TypeVar("Made")


def tokens_of(
    reader: Reader, question: str, on_reading: Callable[[Reading], None] | None = None
) -> Generator[Token, None, Answer]:
    """The tokens of an answer as they are written; the generator returns the whole answer.

    `on_reading` is told who will speak, once the question is read and before the first token.
    """
    return _Writing(reader, question, on_reading).stream()


def write(reader: Reader, question: str, on_token: Callable[[Token], None] | None = None) -> Answer:
    """The whole answer to a question; `on_token` is called with each token as it is written."""
    return all_of(tokens_of(reader, question), on_token)


def all_of(tokens: Generator[Token, None, Made], on_token: Callable[[Token], None] | None = None) -> Made:
    """What the generator returns, once its tokens are written; `on_token` is called with each."""
    while True:
        try:
            token = next(tokens)
        except StopIteration as end:
            made: Made = end.value
            return made
        if on_token is not None:
            on_token(token)


def ask(
    question: str,
    *,
    book: Book,
    model: LanguageModel | None = None,
    encoder: Embedder | None = None,
    settings: Settings | None = None,
    on_token: Callable[[Token], None] | None = None,
) -> Answer:
    """Answer a question from a book, with the default model and the book's encoder unless others are given.

    For many questions make one `Reader` and `write` with it. Raises `Fault` for an empty question, an empty book, a
    question longer than the context.
    """
    return write(Reader(book, model or load_model(), encoder, settings or Settings()), question, on_token)


def stream(
    question: str,
    *,
    book: Book,
    model: LanguageModel | None = None,
    encoder: Embedder | None = None,
    settings: Settings | None = None,
) -> Iterator[Token]:
    """The tokens of an answer as they are written; as `ask` otherwise."""
    return tokens_of(Reader(book, model or load_model(), encoder, settings or Settings()), question)


class _Writing:
    """One question on its way to an answer."""

    def __init__(self, reader: Reader, question: str, on_reading: Callable[[Reading], None] | None = None) -> None:
        self.reader = reader
        self.on_reading = on_reading
        self.question = tidy(question).strip()
        if not self.question:
            raise Fault("the question is empty; ask something, for example: openbook ask 'Who wrote this?'")
        self.clock = _Clock()
        self.ended: Reason | None = None
        self.repeats = Repeats()
        self.others: list[Written] = []

    def stream(self) -> Generator[Token, None, Answer]:
        """Tokens as they are written; the generator returns the whole answer."""
        return each_within(self.reader.model.runner.alone, self._stream())

    def _stream(self) -> Generator[Token, None, Answer]:
        reader, clock = self.reader, self.clock
        hits = reader.find(self.question)
        clock.mark("retrieve_ms")
        if not hits:
            return self._answer(None, [], [], "nothing in the book matches the question")
        reading = reader.begin(self.question, hits)
        clock.mark("first_token_ms")
        if self.on_reading is not None:
            self.on_reading(reading)
        try:
            if reason := self._reason_to_withhold(reading):
                return self._answer(reading, [], [], reason)
            steps, tokens = yield from self._write(reading)
            if reason := self._nothing_stands(tokens):
                return self._answer(reading, [], [], reason)
            if not steps:
                return self._answer(reading, [], [], "the model ended its answer before the first word")
            # The first token was ready with the reading; each later one, and the end token, took a step.
            written = max(len(steps), self.repeats.count)  # also what was withdrawn
            clock.rate(min(written, reader.settings.max_tokens - 1))
            clock.timings["steps"] = reading.tally.steps
            if reading.speculation is not None:
                clock.timings |= {"proposed": reading.tally.proposed, "accepted": reading.tally.accepted}
            answer = self._answer(reading, steps, tokens, self._reason_to_doubt(reading, steps))
            return replace(answer, others=self._others(reading, answer)) if self.others else answer
        finally:  # also where nobody wanted the rest
            if reader.kept is not None:
                reader.kept.flush()

    def _reason_to_withhold(self, reading: Reading) -> str | None:
        margin = self.reader.settings.margin
        if margin is None or reading.lift_bits >= margin:
            return None
        return (
            f"no passage has enough to do with the question: the best makes it {reading.lift_bits:.1f} bits likelier "
            f"than the model alone does, {margin:.1f} are asked for"
        )

    def _nothing_stands(self, tokens: list[Token]) -> str | None:
        """Why a robust answer is withheld: it was cut before it said anything."""
        bad = self.reader.settings.robust
        if self.ended != "robust" or any(map(says_something, words("".join(token.text for token in tokens)))):
            return None
        return (
            f"not one word of an answer withstands {bad} bad passage{'s' if bad != 1 else ''} among those found: "
            f"too few of them say the same"
        )

    def _reason_to_doubt(self, reading: Reading, steps: list[Step]) -> str | None:
        """The margin again, of an answer that went round in a circle: what stays of it may be an empty phrase.

        Other answers with few bits may be right: a model that knows the answer itself needs no passage for it.
        """
        margin = self.reader.settings.margin
        if margin is None or not self.repeats.withdrawn:
            return None
        bits_T = Evidence.of(reading.mixture.labels, reading.mixture.weights, steps).bits_T
        if bits_T is None or (bits := float(bits_T.sum())) >= margin:
            return None
        return (
            f"the model said the same over and over, and little of it comes from the book: the passages make it "
            f"{bits:.1f} bits likelier than the model alone does, {margin:.1f} are asked for"
        )

    def _write(self, reading: Reading) -> Generator[Token, None, tuple[list[Step], list[Token]]]:
        """Each token as soon as its text is sure, and in the end the steps they come from."""
        tokenizer, end = self.reader.model.tokenizer, 0
        steps: list[Step] = []
        tokens: list[Token] = []
        spelling = Spelling(tokenizer, self._stops)
        pieces = spelled(self._steps(reading), lambda step: step.token, spelling)
        if self.reader.settings.cut_repeats and self.reader.settings.constraint is None:
            pieces = unrepeated(pieces, lambda step: step.token, self.repeats)
        for step, text in pieces:
            token = token_of(step, text, end, reading.mixture)
            tokens.append(replace(token, likeliest=likeliest_of(step, tokenizer)) if step.likeliest else token)
            steps.append(step)
            end += len(text)
            yield tokens[-1]
        if self.repeats.withdrawn:
            self.ended = "repetition"
        elif spelling.stopped:
            self.ended = "stop"
        return steps, tokens

    def _leave_out(self, reading: Reading, steps: list[Step], evidence: Evidence) -> LeftOut:
        """What each passage of a branch that holds several does there, and what it took to find out."""
        tokens, log_p_S = [step.token for step in steps], evidence.sufficiency_S
        found = leave_out(self.reader, self.question, reading.paths, tokens, log_p_S)
        if found.rows:
            cost = {"left_out_rows": found.rows, "left_out_forwards": found.forwards, "left_out_read": found.prefilled}
            self.clock.timings |= cost
        return found

    @property
    def _stops(self) -> tuple[str, ...]:
        """Strings that end the answer; one held to a form ends where the form does."""
        settings = self.reader.settings
        ends = () if settings.constraint is not None else self.reader.model.tokenizer.turn_ends
        return (*settings.stop, *ends)

    def _steps(self, reading: Reading) -> Iterator[Step]:
        """The chosen tokens: one by one, or those of the best beam once it is found."""
        settings, model, mixture = self.reader.settings, self.reader.model, reading.mixture
        guide = None if settings.constraint is None else model.guides.guide(settings.constraint)
        penalty, even = settings.sampling.repetition_penalty, -math.log(model.spec.vocabulary)
        draft = Draft(model.tokenizer.eos_ids, zero=even, guide=guide)
        if settings.answers > 1:
            draft.spelling = Spelling(model.tokenizer, self._stops) if self._stops else None
            groups = settings.answers + SPARE
            best, *self.others = diverse(mixture, draft, groups, settings.max_tokens, penalty=penalty)
            fits, self.ended = best.fits, best.reason
            yield from best.steps
        elif settings.beams is None:
            fixed = settings.certifiable
            guesses = reading.speculation
            limit = settings.max_tokens
            yield from generate(
                mixture, settings.sampling, draft, limit,
                fixed_prior=fixed, speculation=guesses, robust=settings.robust, likeliest=settings.likeliest,
            )  # fmt: skip
            fits, self.ended = draft.fits, draft.reason
        else:
            draft.spelling = Spelling(model.tokenizer, self._stops) if self._stops else None
            best = search(mixture, settings.beams, draft, settings.max_tokens, penalty=penalty)[0]
            fits, self.ended = best.fits, best.reason
            yield from best.steps
        if settings.constraint is not None and not fits:
            raise Fault(
                f"the answer is not whole after {settings.max_tokens} tokens: it does not satisfy the "
                f"{settings.constraint.name} yet; allow more tokens, or demand less"
            )

    def _others(self, reading: Reading, first: Answer) -> tuple[Answer, ...]:
        """The other answers that were found, where their words differ from those of all before; the likeliest first."""
        told = [_Told(self.reader, self.question, one).answer(reading) for one in self.others if one.fits]
        answers = [first, *(answer for answer in told if answer is not None)]
        kept = distinct([answer.text for answer in answers], self.reader.settings.answers)
        others = [answers[i] for i in kept if i][: self.reader.settings.answers - 1]
        return tuple(sorted(others, key=lambda answer: -answer.mean_log_p))

    def _answer(self, reading: Reading | None, steps: list[Step], written: list[Token], withheld: str | None) -> Answer:
        reader = self.reader
        evidence, left_out = None, LeftOut(())
        if reading is not None and steps:
            evidence = Evidence.of(reading.mixture.labels, reading.mixture.weights, steps)
            left_out = self._leave_out(reading, steps, evidence)
            written = with_neighbours(written, steps, reading, reader.book)
        sources = sources_of(reading, evidence, left_out.drops) if reading is not None else ()
        # White space around an answer is nothing, unless the answer's form was demanded.
        free = reader.settings.constraint is None
        text, tokens = trimmed(written) if free else ("".join(t.text for t in written), tuple(written))
        return Answer(
            question=self.question,
            text=text,
            abstained=withheld is not None,
            reason=withheld,
            seed=reader.settings.sampling.seed,
            model=reader.model.name,
            book={"path": str(reader.book.path), "version": reader.book.version},
            settings=reader.settings.summary(),
            sources=sources,
            tokens=tokens,
            citations=cite(text, tokens, sources) if withheld is None else (),
            timings=self.clock.timings,
            ended=self.ended,
            evidence=evidence,
        )


class _Told(_Writing):
    """An answer that was found beside the first: its tokens are there, and are accounted for as the first's are."""

    def __init__(self, reader: Reader, question: str, found: Written) -> None:
        super().__init__(reader, question)
        self.found = found

    def _steps(self, reading: Reading) -> Iterator[Step]:
        self.ended = self.found.reason
        yield from self.found.steps

    def answer(self, reading: Reading) -> Answer | None:
        """None where it says nothing."""
        steps, tokens = all_of(self._write(reading))
        return self._answer(reading, steps, tokens, None) if steps else None


class _Clock:
    """Timings of one question: milliseconds since it was asked, tokens a second since the first one."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}
        self._began = self._latest = time.perf_counter()

    def mark(self, name: str) -> None:
        self._latest = time.perf_counter()
        self.timings[name] = 1e3 * (self._latest - self._began)

    def rate(self, count: int) -> None:
        seconds = time.perf_counter() - self._latest
        self.timings["tokens_per_second"] = count / seconds if seconds > 0 else 0.0
