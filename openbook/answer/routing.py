"""Which way a question is best answered: by its form, by what retrieval finds for it, by the pairs on file.

What is looked at is few and can be shown: words that ask for the whole, names, how facts hang on each other, each
counted and weighed (a multinomial logistic model, fitted in docs/summarize.md). Two ways need more than form: a stored
answer is taken only where the book's pairs reach the threshold they calibrated for themselves, and the closed book is
all that is left where no passage makes the question likelier.

Another way of telling is a function handed to the registry: `@clue("mine")`, of the question alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openbook.answer.answer import plain

Way = Literal["passages", "graph", "global", "faq", "closed"]
WAYS: tuple[Way, ...] = ("passages", "graph", "global", "faq", "closed")
CLEAR = 0.6
"""Confidence from which on another way than passages is taken."""

Clue = Callable[[str], float]
_CLUES: dict[str, Clue] = {}


def clue(name: str) -> Callable[[Clue], Clue]:
    """Register something to count in a question; one without a weight in `WEIGHTS` decides nothing."""

    def register(function: Clue) -> Clue:
        _CLUES[name] = function
        return function

    return register


def clues(question: str) -> dict[str, float]:
    """What is counted in a question, by name."""
    return {name: function(question) for name, function in _CLUES.items()}


def _counter(pattern: str, most: int, flags: re.RegexFlag = re.IGNORECASE) -> Clue:
    found = re.compile(pattern, flags)
    return lambda question: float(min(most, len(found.findall(question[:LONGEST]))))


LONGEST = 2_000
"""Characters of a question that are looked at."""
_WHOLE = (
    r"\b(?:overall|themes?|recurring|recurrent|across|throughout|trends?|patterns?|"
    r"take-?aways?|in general|generally|as a whole|main (?:points?|ideas?|topics?|arguments?|findings?|subjects?)|"
    r"all (?:the |these |my )?(?:documents?|notes|files|texts?|books?|episodes?|chapters?|meetings?))\b"
    r"|总体|整体|主要|主题|趋势|要点"
)
_SAID = (
    r"\b(?:discuss\w*|mention\w*|describ\w*|express\w*|emphasi\w*|highlight\w*|perspectives?|opinions?|viewpoints?|"
    r"views|insights?|anecdotes?|stories|examples|conversations?|challenges|topics?|attitudes?|approaches|concerns|"
    r"talk(?:s|ing|ed)? about|speak(?:s|ing)?|perceiv\w*|envision\w*|portray\w*|address\w*)\b|讨论|提到|观点|看法|意见"
)
_OFTEN = (
    r"\b(?:often|frequent(?:ly)?|common(?:ly)?|typical(?:ly)?|usually|mostly|different|various|differences?|"
    r"similarit\w+|compare[ds]?|comparison|varied|variety|how many|range of)\b|经常|常见|不同|哪些|有多少"
)
_MANY = (
    r"^(?:are there|do (?:any |the )?\w+s\b|which \w+s\b|what (?:are|\w+s (?:do|are|did|have))\b"
    r"|how do (?:the )?\w+s\b)"
)
_NAMES = (
    r"(?<!^)(?<![.?!]\s)(?<!\w)(?:[A-Z][\w’'&.-]*\w|[A-Z]{2,})"
    r"(?:\s+(?:of|the|and|de|van|von)\s+[A-Z][\w’'-]+|\s+[A-Z][\w’'-]+)*"
    r"|[\"“«《][^\"”»》]{2,60}[\"”»》]|\b\d{3,4}\b"
)
_LINKS = (
    r"(?<!^)\b(?:who|whom|whose|which|that|where|when)\b|\bof the\b|\bof\b|\bby the\b|\bwith the\b|['’]s\b"
    r"|\bthe same\b|\bin the (?:same )?\w+ (?:where|that|which|of)\b|的"
)
_SUM_UP = r"\b(?:summar(?:y|ies|i[sz]e\w*)|sum up|overview|gist|outline|recap)\b|总结|概括|概述|归纳|综述"
clue("asks to sum up")(_counter(_SUM_UP, 1))
clue("asks for the whole")(_counter(_WHOLE, 3))
clue("asks what is said")(_counter(_SAID, 3))
clue("asks how often or what all")(_counter(_OFTEN, 2))
clue("asks for many")(_counter(_MANY, 1))
clue("names")(_counter(_NAMES, 4, re.NOFLAG))
clue("facts that hang on facts")(_counter(_LINKS, 6))


@clue("length")
def _length(question: str) -> float:
    """Words, in tens; characters of a script without spaces count half."""
    wide = len(re.findall(r"[\u3040-\u30ff\u3400-\u9fff]", question[:LONGEST]))
    return min(4.0, (len(re.findall(r"[^\W\u3040-\u30ff\u3400-\u9fff]+", question[:LONGEST])) + wide / 2) / 10)


@clue("every question")
def _every(question: str) -> float:
    return 1.0


WEIGHTS: dict[str, tuple[float, float]] = {
    "asks to sum up": (1.53, 4.35),
    "asks for the whole": (-0.98, 1.96),
    "asks what is said": (-0.06, 3.10),
    "asks how often or what all": (-0.85, 0.44),
    "asks for many": (-0.74, 2.02),
    "names": (1.11, -1.74),
    "facts that hang on facts": (1.75, 0.43),
    "length": (0.31, -0.08),
    "every question": (-3.50, -1.48),
}
"""Of each clue what it says for graph and for global, in nats against passages."""


_WHY = {
    "passages": "it asks for one thing",
    "graph": "it hangs one fact on another",
    "global": "it asks about all of it",
    "closed": "the book hardly has it: this is the model's memory alone, and may be invented",
}


@dataclass(frozen=True)
class Route:
    """The way a question is to go, how sure that is (among the ways that were weighed), and why."""

    way: Way
    confidence: float
    why: str
    shares: Mapping[str, float] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)
    asked: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON: beside an answer's own fields."""
        told: dict[str, Any] = plain(
            {"way": self.way, "confidence": self.confidence, "why": self.why, "asked": self.asked,
             "shares": dict(self.shares), "clues": dict(self.seen)}
        )  # fmt: skip
        return told


def by_form(question: str) -> Route:
    """The way that a question's form speaks for: passages, graph or global. It costs microseconds."""
    seen = clues(question)
    score = {"passages": 0.0, "graph": 0.0, "global": 0.0}
    for name, value in seen.items():
        graph, whole = WEIGHTS.get(name, (0.0, 0.0))
        score["graph"] += graph * value
        score["global"] += whole * value
    top = max(score.values())
    total = sum(math.exp(s - top) for s in score.values())
    shares = {way: math.exp(s - top) / total for way, s in score.items()}
    way = max(shares, key=lambda name: shares[name])
    spoke = sorted(((WEIGHTS.get(n, (0, 0))[way == "global"] * v, n) for n, v in seen.items() if v), reverse=True)
    for_it = [name for gain, name in spoke if gain > 0 and name not in ("every question", "length")][:2]
    told = _WHY[way] + (f" ({', '.join(for_it)})" if for_it and way != "passages" else "")
    return Route(way, shares[way], told, shares, seen)  # type: ignore[arg-type]


READ: dict[str, tuple[float, float, float]] = {
    "every question": (0.80, 0.98, 2.00),
    "lift": (0.18, -0.77, -1.10),
    "documents": (0.01, 1.77, 1.31),
    "said in one": (-1.87, -1.89, -1.63),
}
"""Of each of `measures` what it says for graph, global and closed, in nats against passages, beside the form (fitted in
docs/summarize.md)."""
CERTAIN = 0.8
"""Confidence from which on the closed book answers alone: where it should not have, nothing is found at all."""
LIKELY = ("passages", "graph", "global", "closed")


def measures(lift_bits: float, spread: float, said: float) -> dict[str, float]:
    """What a look into the book measured (`openbook.answer.looked`), as it is weighed: the lift in tens of bits, the
    logarithm of the documents that count, the share of the question's words in one passage."""
    return {
        "lift": max(-1.0, min(3.0, lift_bits / 10)),
        "documents": math.log(max(1.0, spread)),
        "said in one": max(0.0, min(1.0, said)),
    }


def _read(formed: Route, seen: Mapping[str, float]) -> Route:
    """A form's shares after a look into the book. The closed book begins with as much as the likelier of its rivals; it
    answers where it is `CERTAIN`, else the other three are weighed against each other."""
    score = {way: math.log(max(formed.shares[way], 1e-12)) for way in LIKELY[:3]}
    score["closed"] = max(score["passages"], score["graph"])
    for name, value in {"every question": 1.0, **seen}.items():
        for way, weight in zip(LIKELY[1:], READ.get(name, (0.0, 0.0, 0.0)), strict=True):
            score[way] += weight * value
    top = max(score.values())
    total = sum(math.exp(each - top) for each in score.values())
    shares = {way: math.exp(each - top) / total for way, each in score.items()}
    rest = {way: share / (1 - shares["closed"] + 1e-12) for way, share in shares.items() if way != "closed"}
    way = "closed" if shares["closed"] >= CERTAIN else max(rest, key=lambda name: rest[name])
    found = (
        f"the best passage makes it {10 * seen['lift']:.1f} bits likelier and has {seen['said in one']:.0%} of its "
        f"words, {math.exp(seen['documents']):.1f} documents count"
    )
    told = formed.why if way == formed.way else _WHY[way]
    sure = shares["closed"] if way == "closed" else rest[way]
    return Route(way, sure, f"{told}; {found}", shares, {**formed.seen, **seen})  # type: ignore[arg-type]


def route(question: str, *, faq: tuple[float, float] | None = None, lift_bits: float | None = None,
          margin: float | None = None, spread: float | None = None, said: float | None = None,
          clear: float = CLEAR) -> Route:  # fmt: skip
    """The way to answer a question.

    `faq`: confidence of the best stored answer and the threshold calibrated for it; `lift_bits`: by how much the best
    passage makes the question likelier, and the `margin` that is asked of it; `spread`: how many documents count among
    the passages found; `said`: the share of the question's words that the best of them has (`looked.look` measures all
    of these). What is not known is not looked at. Passages unless something else is clear.
    """
    question = question[:LONGEST]
    if faq is not None and faq[0] >= faq[1]:
        return Route(
            "faq", faq[0], f"a stored answer fits with a confidence of {faq[0]:.2f}, {faq[1]:.2f} is asked for"
        )
    formed = by_form(question)
    if lift_bits is not None and spread is not None and said is not None:
        formed = _read(formed, measures(lift_bits, spread, said))
    elif formed.way != "global" and lift_bits is not None and margin is not None and lift_bits < margin:
        why = f"no passage makes it {margin:.1f} bits likelier; the best does {lift_bits:.1f}"
        return Route("closed", 1.0, why, formed.shares, formed.seen)
    if formed.way != "passages" and formed.confidence < clear:
        why = f"passages, for {formed.way} is not clear: {formed.why}"
        return Route("passages", formed.shares["passages"], why, formed.shares, formed.seen)
    return formed
