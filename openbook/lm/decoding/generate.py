"""A language model by itself: text in, tokens out, as they are written.

    for piece in generate(load_model(), "The capital of France is", max_tokens=20):
        print(piece.text, end="")

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from openbook.errors import Fault
from openbook.lm.decoding.beam import Beams, Found, beam_search
from openbook.lm.decoding.constrain import Constraint, Guide
from openbook.lm.decoding.draft import Draft, Reason
from openbook.lm.decoding.hypotheses import Hypotheses, Text
from openbook.lm.decoding.repeats import Repeats, unrepeated
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.decoding.stops import Spelling, check_stops, spelled
from openbook.lm.model import LanguageModel
from openbook.lm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """One token that was written: its text (empty within a character) and the model's own log p of it, natural."""

    token: int
    text: str
    log_p: float


class Writing(Iterator[Piece]):
    """A text as it is written: an iterator over its pieces, whose texts join to it.

    When it has ended, `reason` says why (`Draft`), and `fits` whether the text satisfies the constraint, if there was
    one: at the limit it may not. With `cut_repeats` it ends where it goes round in a circle, with "repetition"
    (`openbook.lm.decoding.repeats`); what is held to a form is left alone.
    """

    def __init__(
        self,
        hypotheses: Hypotheses,
        tokenizer: Tokenizer,
        *,
        sampling: Sampling | None = None,
        beams: Beams | None = None,
        max_tokens: int = 64,
        stop: Sequence[str] = (),
        guide: Guide | None = None,
        seen: Collection[int] = (),
        cut_repeats: bool = False,
    ) -> None:
        self.sampling, self.beams = sampling or Sampling(), beams
        check_together(self.sampling, beams, stop, guide)
        if max_tokens < 1:
            raise Fault(f"at most {max_tokens} tokens are asked for; it must be 1 or more")
        self.hypotheses, self.max_tokens = hypotheses, max_tokens
        self.reason: Reason | None = None
        self.fits: bool | None = None
        self._constrained = guide is not None
        self._repeats = Repeats() if cut_repeats and guide is None else None
        spelling = Spelling(tokenizer, stop) if beams and stop else None
        self._draft = Draft(tokenizer.eos_ids, seen=seen, guide=guide, spelling=spelling)
        self._pieces = self._spelled(Spelling(tokenizer, stop))

    def __next__(self) -> Piece:
        return next(self._pieces)

    def _spelled(self, spelling: Spelling) -> Iterator[Piece]:
        if self.beams is not None:
            chosen = self._searched(self.beams)
        else:
            chosen = choose(self.hypotheses, self._draft, self.sampling, self.max_tokens)
        pieces = spelled(chosen, lambda pair: pair[0], spelling)
        if self._repeats is not None:
            pieces = unrepeated(pieces, lambda pair: pair[0], self._repeats)
        for (token, log_p), text in pieces:
            yield Piece(token, text, log_p)
        if not self.beams:
            self._end("stop" if spelling.stopped else self._draft.reason, self._draft.fits)
        if self._repeats is not None and self._repeats.withdrawn:
            self.reason = "repetition"

    def _searched(self, beams: Beams) -> Iterator[tuple[int, float]]:
        penalty = self.sampling.repetition_penalty
        best: Found = beam_search(self.hypotheses, [self._draft], beams, self.max_tokens, penalty=penalty)[0][0]
        self._end(best.reason, best.fits)
        yield from zip(best.tokens, best.log_p, strict=False)  # an end token has a number and no text

    def _end(self, reason: Reason | None, fits: bool) -> None:
        self.reason = reason
        self.fits = fits if self._constrained else None


def generate(
    model: LanguageModel,
    prompt: str | Sequence[int],
    *,
    sampling: Sampling | None = None,
    beams: Beams | None = None,
    max_tokens: int = 64,
    stop: Sequence[str] = (),
    constraint: Constraint | None = None,
    cut_repeats: bool = False,
) -> Writing:
    """What the model writes after a prompt: text, taken as it is with a BOS where the model wants one, or tokens.

    For an answer to chat messages give `model.tokenizer.encode_chat(messages)`. Greedy unless `sampling` or `beams`
    say otherwise; the tokens of the prompt count for a repetition penalty. `cut_repeats` ends a text that goes round in
    a circle and withdraws what only repeats; off, what is written is the model's own to the last token. Raises `Fault`
    for what does not go together, and for a prompt longer than the context.
    """
    tokens = model.tokenizer.encode(prompt, special=True) if isinstance(prompt, str) else list(prompt)
    check_together(sampling or Sampling(), beams, stop, constraint)
    return Writing(
        Text(model.runner, [tokens], max_tokens),
        model.tokenizer,
        sampling=sampling,
        beams=beams,
        max_tokens=max_tokens,
        stop=stop,
        guide=None if constraint is None else model.guides.guide(constraint),
        seen=tokens,
        cut_repeats=cut_repeats,
    )


def choose(hypotheses: Hypotheses, draft: Draft, sampling: Sampling, limit: int) -> Iterator[tuple[int, float]]:
    """Tokens of one text, chosen one after the other, each with its log p; the end token is not among them."""
    generator = sampling.generator()
    scores_1V = hypotheses.start()
    for length in range(1, limit + 1):
        token = sampling.pick(draft.allow(scores_1V[0], sampling.repetition_penalty), generator)
        draft.add(token)
        if draft.reason == "end":
            return
        if draft.reason is None and length == limit:
            draft.reason = "limit"
        yield token, float(scores_1V[0].log_softmax(-1)[token])
        if draft.reason is not None:
            return
        scores_1V = hypotheses.step([0], [token])


def check_together(
    sampling: Sampling, beams: Beams | None, stop: Sequence[str], constraint: Constraint | Guide | None
) -> None:
    """Raise a `Fault` for ways of writing that contradict each other."""
    check_stops(stop)
    if beams is not None and sampling.temperature > 0:
        raise Fault(
            f"beams search for the likeliest text, a temperature of {sampling.temperature:g} draws one; "
            "give beams with temperature 0, or a temperature without beams"
        )
    if constraint is not None and stop:
        raise Fault("a stop string could cut what a schema or a regular expression demands; give one of them")
