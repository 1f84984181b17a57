"""Pairs folded into entries: one answer, with every question that it is known to answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openbook.book.faq.learn import Judgement, named
from openbook.book.faq.pairs import Pair, key
from openbook.book.sentences import sentences

MAX_SENTENCES, MAX_SENTENCE = 8, 500
"""Sentences of an answer that are compared with a question one by one, and characters of each."""
MAX_VARIANTS = 64
"""Questions of an entry that are compared: the first ones, and the last that were learned."""


@dataclass(frozen=True)
class Entry:
    """Pairs with the same answer. `questions` are theirs, then those whose answer was `learned` to be accepted;
    `rejected` are questions that it does not answer."""

    pairs: tuple[Pair, ...]
    questions: tuple[str, ...]
    rejected: tuple[str, ...] = ()

    @property
    def pair(self) -> Pair:
        """The first of its pairs: the one that is shown."""
        return self.pairs[0]

    @property
    def sentences(self) -> tuple[str, ...]:
        """The first sentences of its answer."""
        answer = self.pair.answer
        found = [answer[a:b][:MAX_SENTENCE] for a, b in _first(sentences(answer, 0, len(answer)), MAX_SENTENCES)]
        return tuple(found)


def _first(spans: Iterable[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    return [span for span, _ in zip(spans, range(count), strict=False)]


def fold(pairs: Sequence[Pair], judged: Iterable[Judgement] = ()) -> list[Entry]:
    """Entries in the order of their first pairs. Questions that differ in case, accents and punctuation are one."""
    by_answer: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_answer.setdefault(key(pair.answer), []).append(pair)
    judgements: dict[str, list[tuple[int, Judgement]]] = {}
    for number, one in enumerate(judged):
        judgements.setdefault(one.pair, []).append((number, one))
    return [_entry(tuple(group), judgements) for group in by_answer.values()]


def _entry(pairs: tuple[Pair, ...], judgements: dict[str, list[tuple[int, Judgement]]]) -> Entry:
    own = {key(question): question for pair in reversed(pairs) for question in reversed(pair.questions)}
    own = dict(reversed(own.items()))
    about: list[tuple[int, Judgement]] = []
    if judgements:
        names = [*(pair.id for pair in pairs), *map(named, own.values())]
        about = [one for name in dict.fromkeys(names) for one in judgements.get(name, ())]
    # The last word on a question counts, whatever the pair was called in it.
    last = {key(one.question): one for _, one in sorted(about, key=lambda one: one[0])}
    learned = {what: one.question for what, one in last.items() if one.accepted and what not in own}
    rejected = [one.question for what, one in last.items() if not one.accepted and what not in own]
    kept = [*list(own.values())[:MAX_VARIANTS], *list(learned.values())[-MAX_VARIANTS:]]
    return Entry(pairs, tuple(kept), tuple(rejected[-MAX_VARIANTS:]))
