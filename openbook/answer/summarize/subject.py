"""What a question is about, less how it asks: "Which guests discuss diversity in tech?" is about diversity.

Words that ask, that say how often or by how many, and that something is said at all, are left out; so are words that
documents say out of habit (`habits`): of interviews "guest", of podcasts "episode". Where nothing is left that was too
much, and they stay. English and Chinese; of other languages what is said out of habit goes.
"""

from __future__ import annotations

import re
from collections.abc import Container

from openbook.book.graph.derive import stem
from openbook.book.graph.languages import language_of, stop_words

LONGEST = 2_000
"""Characters of a question that are looked at."""
LEAST = 2
"""Words (characters of a script without spaces) that a subject has: of one alone a model says little."""
_FRAME = re.compile(
    r"\b(?:summar(?:y|ies|i[sz]e\w*)|sum up|overview|gist|outline|recap|overall|recurring|recurrent|across|throughout|"
    r"in general|general(?:ly)?|as a whole|main|themes?|topics?|points?|subjects?|take-?aways?|insights?|views?|"
    r"viewpoints?|perspectives?|opinions?|discuss\w*|mention\w*|describ\w*|express\w*|emphasi\w*|highlight\w*|"
    r"conversations?|talk(?:s|ing|ed)?|speak(?:s|ing)?|perceiv\w*|envision\w*|portray\w*|address\w*|focus(?:ed|es)? on|"
    r"often|frequent(?:ly)?|common(?:ly)?|typical(?:ly)?|usually|mostly|different|various|differences?|similarit\w+|"
    r"compare[ds]?|comparison|varied|variety|how many|range of|certain|particular(?:ly)?|specific(?:ally)?)\b"
    r"|总体|整体|主要|主题|要点|总结|概括|概述|归纳|综述|讨论|提到|观点|看法|意见|经常|常见|不同|哪些|有多少|什么|这些|文件|关于",
    re.IGNORECASE,
)
_ASKS = frozenset(
    """
    what which who whom whose where when why how do does did is are was were can could any there find some have has had
    say says said give list tell name me us you being been according regarding concerning
    """.split()  # noqa: SIM905 a list of words reads better as words
)
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\W_]+(?:['’.-](?=\w)[^\W_]+)*")
_UNIT = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")


def subject(question: str, habitual: Container[str] = ()) -> str:
    """The words of a question that say what it is about, in order; the question itself where there are none.

    `habitual` are words (stems) that documents say out of habit.

    >>> subject("Which guests discuss the impact of privacy laws on tech?", {"guest", "tech"})
    'impact privacy laws'
    """
    read = question[:LONGEST]
    stop = stop_words(language_of(read)) | _ASKS
    left = [w for w in _WORD.findall(_FRAME.sub(" ", read)) if w.casefold() not in stop]
    kept = [w for w in left if stem(w.casefold()) not in habitual]
    return " ".join(kept or left) or question


def telling(question: str, about: str) -> str:
    """What a model is asked how likely it is: the subject, or the question where the subject is a word alone."""
    return about if len(_UNIT.findall(about)) >= LEAST else question
