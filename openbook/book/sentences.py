"""Where sentences end, in English and in Chinese, and where a too long stretch may be cut.

Everything here works on offsets into one text and never copies or changes it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

Span = tuple[int, int]


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# Possessive (`++`) after a look-behind: a run of a million dots is looked at once, not once from each dot.
_END = re.compile(
    r"(?<![.!?])[.!?]++[\"'”’»)\]]*+(?=\s)"  # Latin: needs a space after it, so 3.14 and file.txt stay whole
    r"|[。！？；︒﹒﹗﹖｡]+[”’」』）》】〉\"']*"  # Chinese and Japanese: no space needed
    r"|(?<!…)…++[”’」』）》】〉]*+(?=[\s\u2e80-\u9fff])"
    r"|\n(?=[ \t]*(?:[-*+•|]|\d{1,3}[.)]|[a-zA-Z][.)])\s)"  # a list item or a table row begins
)
_ALWAYS_INSIDE = _words("""
    mr mrs ms dr prof rev hon st sgt capt lt col gen maj sen rep gov pres messrs mme mlle fr e.g i.e viz cf vs v
    approx ca resp incl esp
""")
_BEFORE_NUMBER = _words("""
    no nos nr fig figs vol vols p pp sec sect ch chap art arts eq eqs par para ref refs tab ver jan feb mar apr
    jun jul aug sep sept oct nov dec
""")
_OFTEN_LAST = _words("""
    inc ltd co corp bros jr sr ph.d m.d b.a m.a a.m p.m etc al ave blvd rd dept univ assn
""")
_ITEM_NUMBER = re.compile(r"(?:^|\n)[ \t]*\d{1,3}$")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]$")
_WORD_BEFORE = re.compile(r"[^\s(\[\"'“‘]+$")
_NEXT_WORD = re.compile(r"\s*[\"'“‘(\[]*(\w+)")
_STARTERS = _words("""
    the a an in on at of for from by with it its he she they we i you his her their our this that these those
    there but and as if when while after before since although however because so then to no not is was were are
""")


_LONGEST_CLUSTER = 64
"""Characters that may be looked through for the end of one visible character; text made to be silly is cut inside."""


def sentences(text: str, start: int, end: int) -> Iterator[Span]:
    """Spans of the sentences of `text[start:end]`, without the white space between them."""
    begin = start
    for match in _END.finditer(text, start, end):
        if match[0][0] == "." and not _ends_sentence(text, start, match, end):
            continue
        if match[0][0] in "!?" and _next_is_lower(text, match.end(), end):
            continue
        if span := trim(text, begin, match.end()):
            yield span
        begin = match.end()
    if span := trim(text, begin, end):
        yield span


def trim(text: str, start: int, end: int) -> Span | None:
    """The span without white space at either end; None if nothing is left."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def _next_is_lower(text: str, at: int, end: int) -> bool:
    follow = _NEXT_WORD.match(text, at, end)
    return bool(follow and follow[1][0].islower())


def _ends_sentence(text: str, start: int, match: re.Match[str], end: int) -> bool:
    """Whether a full stop (or dots) before white space closes a sentence."""
    follow = _NEXT_WORD.match(text, match.end(), end)
    following = follow[1] if follow else ""
    if following[:1].islower():
        return False
    if match[0].startswith(".."):
        return True
    if _ITEM_NUMBER.search(text[max(start, match.start() - 8) : match.start()]):
        return False
    # 24 characters hold any abbreviation; looking further back would cost quadratic time in text without spaces.
    before = _WORD_BEFORE.search(text[max(start, match.start() - 24) : match.start()])
    word = before[0].lower() if before else ""
    if word in _ALWAYS_INSIDE:
        return False
    if word in _BEFORE_NUMBER:
        return not following[:1].isdigit()
    if word in _OFTEN_LAST or (before and _INITIALS.match(before[0])):
        # "Apple Inc. The …" ends, "Apple Inc. CEO" does not; "the U.S. It …" ends, "J. K. Rowling" does not.
        single = len(word) == 1
        return not following or (not single and following.lower() in _STARTERS)
    return True


def cut_near(text: str, start: int, end: int, target: int, reach: int) -> int:
    """Where to cut `text[start:end]` (two or more characters) near `target`.

    Before a word if one begins within `reach` characters of the target, else between two characters that a reader
    sees as two: not before a combining mark or a variation selector, nor inside a joined emoji, if it can be helped.
    """
    target = min(max(target, start + 1), end - 1)
    for step in range(reach + 1):
        for at in (target - step, target + step):
            if start < at < end and text[at - 1].isspace() and not text[at].isspace():
                return at
    for step in range(min(end - start, _LONGEST_CLUSTER)):
        for at in (target - step, target + step):
            if start < at < end and not _joined(text, at):
                return at
    return target


def _joined(text: str, at: int) -> bool:
    here, before = text[at], text[at - 1]
    if here == "\u200d" or before == "\u200d":
        return True
    if unicodedata.category(here) in ("Mn", "Me", "Mc") or "\U0001f3fb" <= here <= "\U0001f3ff":
        return True
    flags = "\U0001f1e6", "\U0001f1ff"
    return flags[0] <= here <= flags[1] and flags[0] <= before <= flags[1] and (at < 2 or not _flag(text[at - 2]))


def _flag(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
