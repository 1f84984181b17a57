"""A question answered from a book: search, read, mix, write, account."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

from openbook.answer.account import cite, sources_of, token_of, trimmed
from openbook.answer.answer import Answer, Token
from openbook.answer.reading import Reading, read
from openbook.answer.settings import Settings
from openbook.book.embedder import Embedder
from openbook.book.retrieve import find
from openbook.book.store import Book
from openbook.errors import Fault
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.model import LanguageModel
from openbook.mix.decode import Step, generate
from openbook.mix.evidence import Evidence

MEMORY_BYTES, DISK_BYTES = 2 << 30, 4 << 30


@dataclass
class Reader:
    """A book, a model and an encoder held ready for many questions.

    `kept` holds the keys and values of passages, in memory and in the book's folder `kv/`, where a passage's go when
    the passage goes.
    """

    book: Book
    model: LanguageModel
    encoder: Embedder | None = None
    settings: Settings = field(default_factory=Settings)
    kept: PrefixStore | None = None

    def __post_init__(self) -> None:
        if self.kept is None:
            self.kept = PrefixStore(MEMORY_BYTES, self.book.path / "kv" / self.model.fingerprint, DISK_BYTES)
        if self.encoder is None and self.book.count:
            self.encoder = self.book.encoder()

    def ask(self, question: str, on_token: Callable[[Token], None] | None = None) -> Answer:
        """The whole answer; `on_token` is called with each token as it is written."""
        tokens = self.stream(question)
        while True:
            try:
                token = next(tokens)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            if on_token is not None:
                on_token(token)

    def stream(self, question: str) -> Generator[Token, None, Answer]:
        """Tokens as they are written; the generator returns the whole answer."""
        question = question.strip()
        if not question:
            raise Fault("the question is empty; ask something, for example: openbook ask 'Who wrote this?'")
        clock = _Clock()
        hits = find(self.book, question, self.settings.pool, self.encoder, temperature=self.settings.prior_temperature)
        clock.mark("retrieve_ms")
        if not hits:
            return self._answer(question, None, [], [], clock, "nothing in the book matches the question")
        reading = read(self.model, question, hits, self.settings, self.kept)
        clock.mark("first_token_ms")
        if reason := self._reason_to_withhold(reading):
            return self._answer(question, reading, [], [], clock, reason)
        steps, tokens = yield from self._write(reading)
        clock.rate(len(steps))
        if self.kept is not None:
            self.kept.flush()
        return self._answer(question, reading, steps, tokens, clock, None)

    def _reason_to_withhold(self, reading: Reading) -> str | None:
        margin = self.settings.margin
        if margin is None or reading.lift_bits >= margin:
            return None
        return (
            f"no passage has enough to do with the question: the best makes it {reading.lift_bits:.1f} bits likelier "
            f"than the model alone does, {margin:.1f} are asked for"
        )

    def _write(self, reading: Reading) -> Generator[Token, None, tuple[list[Step], list[Token]]]:
        settings, tokenizer, mixture = self.settings, self.model.tokenizer, reading.mixture
        # Where the question may earn a passage weight, so may a bad one: up to the cap.
        reach = settings.cap if settings.beta > 0 else None
        pieces, end = tokenizer.stream(), 0
        steps: list[Step] = []
        tokens: list[Token] = []
        for step in generate(mixture, settings.sampling, tokenizer.eos_ids, settings.max_tokens, reach):
            text = pieces.push(step.token)
            token = token_of(step, text, end, mixture)
            end += len(text)
            steps.append(step)
            tokens.append(token)
            yield token
        if tokens and (rest := pieces.flush()):  # the last character was cut: what there is of it
            tokens[-1] = token_of(steps[-1], tokens[-1].text + rest, tokens[-1].span[0], mixture)
        return steps, tokens

    def _answer(
        self,
        question: str,
        reading: Reading | None,
        steps: list[Step],
        written: list[Token],
        clock: _Clock,
        withheld: str | None,
    ) -> Answer:
        settings = self.settings
        evidence = None
        if reading is not None and withheld is None:
            evidence = Evidence.of(reading.mixture.labels, reading.mixture.weights, steps)
        sources = sources_of(reading, evidence) if reading is not None else ()
        text, tokens = trimmed(written)
        return Answer(
            question=question,
            text=text,
            abstained=withheld is not None,
            reason=withheld,
            seed=settings.sampling.seed,
            model=self.model.name,
            book={"path": str(self.book.path), "version": self.book.version},
            settings=settings.summary(),
            sources=sources,
            tokens=tokens,
            citations=cite(text, tokens, sources),
            timings=clock.timings,
            evidence=evidence,
        )


def ask(
    question: str,
    *,
    book: Book,
    model: LanguageModel,
    settings: Settings | None = None,
    on_token: Callable[[Token], None] | None = None,
) -> Answer:
    """Answer a question from a book. For many questions make one `Reader`.

    Raises `Fault` for an empty question, an empty book, a question longer than the context.
    """
    return Reader(book, model, settings=settings or Settings()).ask(question, on_token)


def stream(question: str, *, book: Book, model: LanguageModel, settings: Settings | None = None) -> Iterator[Token]:
    """The tokens of an answer as they are written."""
    return Reader(book, model, settings=settings or Settings()).stream(question)


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
