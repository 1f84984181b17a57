"""Faithfulness of the evidence: do the numbers beside an answer say which passages it could not do without?

Each question is answered by the mixture. The truth is what the answer loses when a passage is left out and the mixture
is run again; scores are compared with it, and by what the answer loses without the passages they name. The same is done
of one prompt that holds all passages, which is what ContextCite explains (`openbook.measure.ablation`).

Shapes: T tokens of an answer, S sources, P passages among them (the first). Logs are natural.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from openbook.book.retrieve import Hit
from openbook.errors import Fault
from openbook.lm.decoding.draft import Draft
from openbook.measure.ablation import Ablations, Masks
from openbook.measure.grounding import Owed, owed, words_of_tokens
from openbook.measure.leaving_out import Apart, Cost, Together
from openbook.measure.ranks import kendall, order, pairs_in_order, spearman, top_agrees
from openbook.measure.squad import Question
from openbook.mix.decode import Step, generate
from openbook.mix.evidence import Evidence
from openbook.mix.mixture import Mixture
from openbook.mix.reading import Reader, Reading, branch_of
from openbook.mix.weights import Array

ABLATIONS = (32, 256)
DEEPEST = 3
"""So many of the highest scored passages are taken away at once, at most."""
FELT = 0.1
"""Nats: passages whose losses are nearer to each other than that are as necessary as each other."""
CHANCE, RETRIEVED, CITED = "by chance", "retrieval score", "ContextCite, {}"


@dataclass(frozen=True)
class Answered:
    """A question answered by the mixture: its tokens and their evidence."""

    question: str
    reading: Reading
    steps: tuple[Step, ...]

    @property
    def tokens(self) -> list[int]:
        """Of the answer."""
        return [step.token for step in self.steps]

    @property
    def hits(self) -> tuple[Hit, ...]:
        """The passages; where a branch holds several, its most believed one stands for all."""
        return self.reading.hits

    @cached_property
    def evidence(self) -> Evidence:
        """As `ask` gives it."""
        mixture = self.reading.mixture
        return Evidence.of(mixture.labels, mixture.weights, self.steps)

    @cached_property
    def ablations(self) -> Ablations:
        """Any choice of passages beside the closed book: arithmetic, nothing is run."""
        others = [True] * (len(self.evidence.labels) - len(self.hits))

        def read(masks_NP: Masks) -> Array:
            return np.array([self.evidence.log_p_with(np.array([*mask, *others])) for mask in masks_NP.tolist()])

        return Ablations(len(self.hits), len(self.steps), read)


Score = Callable[[Answered], Array]
"""How much an answer owes to each passage, `[P]`: the higher, the more."""
SCORES: dict[str, Score] = {}


def score(name: str) -> Callable[[Score], Score]:
    """Register a score that costs no pass of the model, for the table."""

    def register(function: Score) -> Score:
        SCORES[name] = function
        return function

    return register


@score("necessity")
def necessity(answered: Answered) -> Array:
    """What the answer loses without the passage, from the rows that wrote it."""
    return answered.evidence.necessity_S[: len(answered.hits)]


@score("responsibility")
def responsibility(answered: Answered) -> Array:
    """The mean over the tokens."""
    mean_S: Array = answered.evidence.responsibility_TS.mean(axis=0)
    return mean_S[: len(answered.hits)]


@score("bits")
def bits(answered: Answered) -> Array:
    """`Σ_t r_s(t) · bits(t)`."""
    bits_T = answered.evidence.bits_T
    added_S: Array = answered.evidence.responsibility_TS.T @ (
        np.zeros(len(answered.steps)) if bits_T is None else bits_T
    )
    return added_S[: len(answered.hits)]


@score("sufficiency")
def sufficiency(answered: Answered) -> Array:
    """How readily the passage alone would have written the answer."""
    return answered.evidence.sufficiency_S[: len(answered.hits)]


@score("Shapley value")
def shapley(answered: Answered) -> Array:
    """What the passage adds in the mean over all orders: for nothing, since any choice of passages is arithmetic."""
    return answered.ablations.shapley()


@score("refined prior")
def believed(answered: Answered) -> Array:
    """Retrieval's prior, refined by the question."""
    return answered.reading.mixture.weights.log_prior_S[: len(answered.hits)]


@score(RETRIEVED)
def retrieved(answered: Answered) -> Array:
    """What the passage was found with."""
    return np.array([hit.score for hit in answered.hits])


@dataclass(frozen=True)
class Judged:
    """A scoring beside what leaving passages out costs: rank agreements (`pairs`: in order, of those that differ by
    `FELT`), and the answer's loss in nats without the k highest scored passages, k = 1, 2, …"""

    spearman: float
    kendall: float
    top: float
    pairs: tuple[float, int]
    drops: tuple[float, ...]


def judge(ablations: Ablations, true_P: Array, scores_P: Array, chance: np.random.Generator) -> Judged:
    """The scores beside the truth, which is `ablations.leave_one_out()` or the same by other means."""
    first = order(scores_P, chance)
    drops = tuple(ablations.drop(first[:k]) for k in range(1, min(DEEPEST, len(first)) + 1))
    return Judged(
        spearman(scores_P, true_P),
        kendall(scores_P, true_P),
        top_agrees(scores_P, true_P),
        pairs_in_order(scores_P, true_P, FELT),
        drops,
    )


@dataclass(frozen=True)
class OnePrompt:
    """The same passages in one prompt: its own answer, its scores, and what `reading` them took, by scores' name."""

    answer: str
    tokens: int
    judged: Mapping[str, Judged]
    took: Mapping[str, Cost]


@dataclass(frozen=True)
class Outcome:
    """One question. `difference` is the largest between necessity and a run without the passage, in nats, `rerun` what
    those runs took; `words` what the answer's words are owed to."""

    question: str
    passages: tuple[str, ...]
    found: tuple[float, ...]
    answer: str
    tokens: int
    judged: Mapping[str, Judged]
    difference: float
    rerun: Cost
    words: tuple[Owed, ...]
    one_prompt: OnePrompt | None = None


def measure(
    reader: Reader, questions: Iterable[Question], counts: Sequence[int] = ABLATIONS, *, one_prompt: int = 0
) -> Iterator[Outcome | None]:
    """Every question; None of one that was not answered or has but one passage. `counts`: ablations for ContextCite.
    The first `one_prompt` are also explained as one prompt of all passages."""
    if reader.settings.lambda_knn:
        raise Fault("neighbours are not left out one by one; measure without them: lambda_knn 0")
    for number, question in enumerate(questions):
        with reader.model.runner.alone():
            answered = answer(reader, question.text)
            enough = answered is not None and len(answered.hits) > 1
            made = _outcome(reader, answered, counts, number < one_prompt, number) if answered and enough else None
        if reader.kept is not None:
            reader.kept.flush()
        yield made


def answer(reader: Reader, question: str) -> Answered | None:
    """The mixture's answer; None where there is none."""
    if not (hits := reader.find(question)):
        return None
    reading = reader.begin(question, hits)
    return Answered(question, reading, steps) if (steps := _write(reader, reading.mixture, reading)) else None


def _write(reader: Reader, mixture: Mixture, reading: Reading | None = None) -> tuple[Step, ...]:
    settings = reader.settings
    guesses = reading.speculation if reading is not None else None
    draft = Draft(reader.model.tokenizer.eos_ids)
    return tuple(generate(mixture, settings.sampling, draft, settings.max_tokens, speculation=guesses))


def _outcome(reader: Reader, answered: Answered, counts: Sequence[int], one_prompt: bool, number: int) -> Outcome:
    chance, reading = np.random.default_rng(number), answered.reading
    branches = [branch_of(*found) for found in zip(answered.evidence.labels, reading.paths, strict=False)]
    passages = tuple("\n\n".join(branch.passages) for branch in branches)
    apart = Apart(reader, answered.question, branches, reading.mixture.weights)
    again = Ablations(len(passages), len(answered.steps), lambda masks_NP: apart.log_p(masks_NP, answered.tokens))
    true_P = again.leave_one_out()
    scores = {name: of(answered) for name, of in SCORES.items()}
    scores |= {CITED.format(n): answered.ablations.context_cite(n) for n in counts}
    scores[CHANCE] = chance.random(len(passages))
    return Outcome(
        question=answered.question,
        passages=passages,
        found=tuple(hit.score for hit in answered.hits),
        answer=reader.model.tokenizer.decode(answered.tokens).strip(),
        tokens=len(answered.steps),
        judged={name: judge(answered.ablations, true_P, scores_P, chance) for name, scores_P in scores.items()},
        difference=float(np.abs(true_P - scores["necessity"]).max()),
        rerun=apart.cost,
        words=_owed(reader, answered, passages),
        one_prompt=_together(reader, answered, passages, counts, chance) if one_prompt else None,
    )


def _owed(reader: Reader, answered: Answered, passages: Sequence[str]) -> tuple[Owed, ...]:
    evidence = answered.evidence
    bits_T = np.zeros(len(answered.steps)) if evidence.bits_T is None else evidence.bits_T
    said = words_of_tokens(reader.model.tokenizer, answered.tokens)
    return tuple(owed(said, evidence.responsibility_TS[:, : len(passages)], bits_T, passages, answered.question))


def _together(
    reader: Reader, answered: Answered, passages: Sequence[str], counts: Sequence[int], chance: np.random.Generator
) -> OnePrompt | None:
    together = Together(reader, answered.question, passages)
    written = [step.token for step in _write(reader, together.mixture())]
    if not written:
        return None
    ablations = Ablations(len(passages), len(written), lambda masks_NP: together.log_p(masks_NP, written))
    scores, took = dict[str, Array](), dict[str, Cost]()
    for count in counts:
        scores[CITED.format(count)] = ablations.context_cite(count)
        took[CITED.format(count)] = Cost(together.cost.passes, together.cost.tokens)
    scores |= {RETRIEVED: retrieved(answered), CHANCE: chance.random(len(passages))}
    true_P = ablations.leave_one_out()
    judged = {name: judge(ablations, true_P, scores_P, chance) for name, scores_P in scores.items()}
    return OnePrompt(reader.model.tokenizer.decode(written).strip(), len(written), judged, took)
