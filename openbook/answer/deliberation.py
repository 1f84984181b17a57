"""Members answer each for itself, and one of the answers is chosen: vote, minimum Bayes risk, debate.

* vote: the answer that most give in the same words (self-consistency, Wang 2022, arXiv 2203.11171).
* minimum Bayes risk: the answer whose mean F1 with all the others is highest (Kumar 2004; Bertsch 2023, arXiv
  2310.01387). Short answers that differ in a word support each other; a vote does not see that.
* debate: every member answers again, shown what the others said, so many rounds (Du 2023, arXiv 2305.14325).

Each counts the tokens that it takes: those that a model read (a prompt once, however many answers are drawn after it)
and those that it wrote. Any of these is only worth its tokens if it beats as many tokens of one member's
self-consistency, so `affordable` says which of one member's answers they buy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from openbook.answer.seats import Seat
from openbook.errors import Fault
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.hypotheses import Text
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.decoding.stops import Spelling
from openbook.lm.model import LanguageModel
from openbook.lm.remote import Remote
from openbook.mix.agreement import overlap, words

OTHERS = "Others answered: {said}. Give the best answer."
SHOWN = 300
"""Characters of another's answer that a member is shown."""


@dataclass
class Cost:
    """Tokens that models read and wrote."""

    read: int = 0
    written: int = 0

    @property
    def tokens(self) -> int:
        """All that went through a model."""
        return self.read + self.written

    def add(self, other: Cost) -> None:
        """Count another's too."""
        self.read += other.read
        self.written += other.written


@dataclass(frozen=True)
class Said:
    """What a member said, in which round; `tokens` it wrote, the end counted."""

    member: str
    text: str
    round: int = 0
    tokens: int = 0


@dataclass
class Deliberation:
    """Members asked one question; `sampling` of answers that are drawn (greedy: one a member)."""

    seats: Sequence[Seat]
    question: str
    passages: Sequence[str] = ()
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7))
    max_tokens: int = 64
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.seats or not self.question.strip():
            raise Fault("a deliberation needs a member and a question; give --member once or more, and ask something")
        self.cost = Cost()
        self.said: list[Said] = []

    def draw(self, count: int) -> list[Said]:
        """`count` answers of every member; the first of each is its greedy one."""
        for seat in self.seats:
            self._take(seat, self.question, count, 0)
        return self.said

    def debate(self, rounds: int = 2) -> list[Said]:
        """Every member's greedy answer, and again in view of the others'; returns those of the last round."""
        for round_ in range(rounds):
            before = {said.member: said for said in self.said}
            for seat in self.seats:
                others = [_shown(said.text) for name, said in before.items() if name != seat.name]
                shown = f"{self.question} {OTHERS.format(said='; '.join(others))}" if others else self.question
                self._take(seat, shown, 1, round_)
        return [said for said in self.said if said.round == rounds - 1]

    def _take(self, seat: Seat, question: str, count: int, round_: int) -> None:
        answers, cost = answers_of(
            seat, question, self.passages, count, sampling=self.sampling, max_tokens=self.max_tokens, stop=self.stop
        )
        self.cost.add(cost)
        self.said += [replace(said, round=round_) for said in answers]

    def to_dict(self, how: str, chosen: Said | None) -> dict[str, Any]:
        """Plain values, as `openbook committee --json` prints them."""
        return {
            "question": self.question,
            "answer": "" if chosen is None else chosen.text,
            "how": how,
            "seed": self.sampling.seed,
            "chosen": None if chosen is None else chosen.member,
            "answers": [{"member": s.member, "round": s.round, "text": s.text, "tokens": s.tokens} for s in self.said],
            "cost": {"read": self.cost.read, "written": self.cost.written},
        }


def vote(said: Sequence[Said]) -> Said | None:
    """What most said in the same words; of equally many, what was said first. Empty answers do not vote."""
    keys = [" ".join(words(each.text)) for each in said]
    counts = Counter(key for key in keys if key)
    if not counts:
        return None
    most = max(counts.values())
    return next(each for each, key in zip(said, keys, strict=True) if counts[key] == most)


def least_risk(said: Sequence[Said]) -> Said | None:
    """What agrees best with all the others by F1; of equals, what was said first."""
    split = [(each, words(each.text)) for each in said]
    split = [(each, its) for each, its in split if its]
    if not split:
        return None
    gains = [
        sum(overlap(its, other) for j, (_, other) in enumerate(split) if j != i) for i, (_, its) in enumerate(split)
    ]
    return split[gains.index(max(gains))][0]


def affordable(said: Sequence[Said], read: int, tokens: int) -> list[Said]:
    """As many of one member's answers, in order, as `tokens` buy after its prompt of `read` was read; at least one."""
    kept: list[Said] = []
    spent = read
    for each in said:
        spent += each.tokens
        if kept and spent > tokens:
            break
        kept.append(each)
    return kept


def answers_of(
    seat: Seat,
    question: str,
    passages: Sequence[str],
    count: int,
    *,
    sampling: Sampling,
    max_tokens: int,
    stop: Sequence[str] = (),
) -> tuple[list[Said], Cost]:
    """`count` answers of one member, the first greedy, the others drawn under `sampling`; and what they took."""
    ways = [replace(sampling, temperature=0.0), *(replace(sampling, seed=sampling.seed + n) for n in range(1, count))]
    if isinstance(seat.model, Remote):
        return _asked(seat, seat.model, question, passages, ways, max_tokens)
    prompt = seat.prompt(question, passages)
    with seat.alone():
        written = _written(seat.model, prompt, ways, max_tokens, (*stop, *seat.turn_ends))
    said = [Said(seat.name, text.strip(), tokens=tokens) for text, tokens in written]
    return said, Cost(len(prompt), sum(tokens for _, tokens in written))


def _asked(
    seat: Seat, remote: Remote, question: str, passages: Sequence[str], ways: Sequence[Sampling], max_tokens: int
) -> tuple[list[Said], Cost]:
    said, cost = [], Cost()
    for way in ways:
        messages = seat.messages(question, passages)
        reply = remote.chat(messages, temperature=way.temperature, seed=way.seed, max_tokens=max_tokens)
        said.append(Said(seat.name, reply.text.strip(), tokens=reply.written))
        cost.add(Cost(reply.read, reply.written))
    return said, cost


def _written(
    model: LanguageModel, prompt: Sequence[int], ways: Sequence[Sampling], max_tokens: int, stops: Sequence[str]
) -> list[tuple[str, int]]:
    """A text for each way of choosing, and its tokens: the prompt is read once, the texts are rows of one batch."""
    hypotheses = Text(model.runner, [prompt], max_tokens)
    drafts = [Draft(model.tokenizer.eos_ids, spelling=Spelling(model.tokenizer, stops)) for _ in ways]
    draws = [way.generator() for way in ways]
    tokens: list[list[int]] = [[] for _ in ways]
    alive = list(range(len(ways)))
    scores_RV = hypotheses.start().expand(len(ways), -1)
    parents = [0] * len(ways)
    while alive:
        chosen = [ways[i].pick(row, draws[i]) for i, row in zip(alive, scores_RV, strict=True)]
        for i, token in zip(alive, chosen, strict=True):
            tokens[i].append(token)
            drafts[i].add(token)
        on = [n for n, i in enumerate(alive) if drafts[i].reason is None and len(tokens[i]) < max_tokens]
        if on:
            scores_RV = hypotheses.step([parents[n] for n in on], [chosen[n] for n in on])
        alive, parents = [alive[n] for n in on], list(range(len(on)))
    return [(_spelled(model, row, stops), len(row)) for row in tokens]


def _spelled(model: LanguageModel, tokens: Sequence[int], stops: Sequence[str]) -> str:
    """The text up to a stop string."""
    spelling = Spelling(model.tokenizer, stops)
    text = "".join(piece for token in tokens if token not in model.tokenizer.eos_ids for piece in spelling.push(token))
    return text + "".join(spelling.flush())


def _shown(text: str) -> str:
    return " ".join(text.split())[:SHOWN] or "nothing"
