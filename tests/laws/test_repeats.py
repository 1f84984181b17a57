"""A text that goes round in a circle ends there, and only what repeats is withdrawn; other texts are left alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoding import scripted

from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.constrain import Constraint
from openbook.lm.decoding.repeats import CERTAIN, ENOUGH, LONGEST, Repeats, unrepeated
from openbook.lm.model import LanguageModel

Piece = tuple[int, str]


def pieces(text: str) -> list[Piece]:
    """A text as tokens like those of a model: words with the space before them, signs, digits, line breaks."""
    return [(ord(t[-1]), t) for t in re.findall(r"[一-鿿]| ?[^\W\d一-鿿]+| ?\d| ?[^\w\s]|\n+|\s", text)]


def cut(written: Sequence[Piece]) -> tuple[str, Repeats, int]:
    """What stays of a text, and how many tokens were asked for."""
    asked = 0

    def source() -> Iterator[tuple[int, str]]:
        nonlocal asked
        for piece in written:
            asked += 1
            yield piece

    repeats = Repeats()
    kept = "".join(text for _, text in unrepeated(source(), lambda token: token, repeats))
    return kept, repeats, asked


def word(piece: Piece) -> object:
    token, text = piece
    return (text.strip().casefold() or ("\n" if "\n" in text else " ")) if text else token


def runs(words: Sequence[object]) -> dict[int, int]:
    """By definition: for each period how many tokens at the end equal those one period before."""
    found = {}
    for period in range(1, min(LONGEST, len(words) - 1) + 1):
        count = 0
        while count < len(words) - period and words[-1 - count] == words[-1 - count - period]:
            count += 1
        if count:
            found[period] = count
    return found


TEXTS = ["a", " a", "A", " b", " c", ".", "\n", "\n\n", " ", "", "é", "。"]
PIECES = st.tuples(st.integers(0, 2), st.sampled_from(TEXTS))
UNITS = st.lists(PIECES, min_size=1, max_size=40)


@st.composite
def texts(draw: st.DrawFn) -> list[Piece]:
    """Texts of which some go round in circles, one after the other and within each other."""
    written: list[Piece] = []
    for _ in range(draw(st.integers(1, 3))):
        written += draw(st.lists(PIECES, max_size=12))
        unit = draw(UNITS) * draw(st.integers(1, 3))
        written += (unit * 80)[: draw(st.integers(0, 3 * len(unit) + CERTAIN))]
    return written


@given(texts())
@settings(deadline=None)
def test_a_text_is_over_where_it_has_said_the_same_for_long_enough_and_nowhere_else(written: list[Piece]) -> None:
    repeats, words = Repeats(), [word(piece) for piece in written]
    stays = 0
    for place, piece in enumerate(written, 1):
        repeats.push(*piece)
        found = runs(words[:place])
        assert repeats.over == any(n >= max(2 * period, CERTAIN) for period, n in found.items())
        assert stays <= repeats.stays <= place == repeats.count  # what was given out stays
        # Held back is at most what repeats.
        assert repeats.stays >= place - max(found.values(), default=0)
        stays = repeats.stays
        if repeats.over:
            break
    else:
        repeats.end()
        assert stays <= repeats.stays <= len(written)
        found = runs(words)
        if not any(n >= max(period - 1, ENOUGH) for period, n in found.items()):
            assert repeats.stays == len(written)


@given(texts())
@settings(deadline=None)
def test_what_is_withdrawn_says_nothing_that_does_not_stand_before_it(written: list[Piece]) -> None:
    kept, repeats, asked = cut(written)
    words = [word(piece) for piece in written[:asked]]
    assert repeats.count == asked and "".join(text for _, text in written[: repeats.stays]) == kept
    assert repeats.over or asked == len(written)
    if repeats.withdrawn:
        # Every withdrawn token is, all the way, the one a period before: one period of all that stays says it all.
        assert any(
            n >= repeats.withdrawn and asked - n >= period and repeats.stays >= period
            for period, n in runs(words).items()
        )


@given(UNITS, st.lists(PIECES, max_size=20), st.integers(0, 30))
@settings(deadline=None)
def test_a_circle_is_found_whatever_stands_before_it(unit: list[Piece], head: list[Piece], more: int) -> None:
    endless = unit * (3 + CERTAIN + more)
    _, repeats, asked = cut(head + endless)
    assert repeats.over and asked <= len(head) + max(3 * len(unit), len(unit) + CERTAIN)
    assert repeats.stays <= len(head) + 2 * len(unit)


LEFT_ALONE = [
    "Ha ha ha ha ha ha ha ha ha ha ha ha ha!",
    "ha" + " ha" * 20,
    "It cost 1000000 pounds, or 1,000,000,000,000 lire.",
    "1/17 is 0.05882352941176470588235294117647",
    "| a | b | c | d | e |\n|---|---|---|---|---|\n| 1 | 0 | 0 | 0 | 0 |\n| 2 | 0 | 0 | 0 | 0 |",
    "for a:\n        for b:\n            for c:\n                for d:\n                    e()\n",
    "* The comet team was led by Vass.\n* The comet team was led by Lund.\n* The comet team was led by Maas.\n",
    "No, no, no, no. I said no.",
    "Yes. Yes. Yes.",
    "0 1 0 1 0 1 0 1\n1 0 1 0 1 0 1 0\n0 1 0 1 0 1 0 1\n",
    "London Bridge is falling down, falling down, falling down. London Bridge is falling down, my fair lady.",
]


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_what_people_write_is_left_alone(text: str) -> None:
    kept, repeats, _ = cut(pieces(text))
    assert kept == text == "".join(t for _, t in pieces(text)) and not repeats.over


CIRCLES = [
    ("", "The answer is:\n\n", "The answer is:\n\n"),
    ("It says that", " it is a sign of trust. It is a sign of trust.", "It says that it is a sign of trust."),
    ("Limits:\n\n", "* The search is limited to one beam.\n", "Limits:\n\n* The search is limited to one beam."),
    ("Models lie on disk.", " A model is stored in F/x.y.", "Models lie on disk. A model is stored in F/x.y."),
    ("A window", " that is a sliding window", "A window that is a sliding"),
    ("The layouts are: ", "cache_cache_1.", "The layouts are: cache_cache_1."),
    ("它是", "一个图书馆。", "它是一个图书馆。"),
    ("Said he:", ' "So it is." And again:', 'Said he: "So it is." And again: "So it is."'),
]  # fmt: skip


@pytest.mark.parametrize(("head", "unit", "stays"), CIRCLES)
def test_a_circle_is_left_after_a_whole_sentence_line_or_word(head: str, unit: str, stays: str) -> None:
    kept, repeats, _ = cut(pieces(head + unit * 30))
    assert repeats.over and kept.rstrip() == stays.rstrip()


def test_a_sentence_said_twice_is_said_once_where_the_text_ends_anyway() -> None:
    said = "To see what an answer is made of, you need to use the file of mixtures."
    assert cut(pieces(f"{said}\n\n{said}"))[0].rstrip() == said
    assert cut(pieces(f"{said} {said} To see"))[0] == said
    assert cut(pieces(f"{said} {said} Then look."))[0] == f"{said} {said} Then look."


def test_a_full_stop_and_a_line_break_in_one_token_end_a_line() -> None:
    unit = [(0, "The"), (1, " team"), (2, " won"), (3, ".\n")]
    assert cut(unit * 3)[0] == "The team won.\n"


def test_a_model_that_goes_round_in_a_circle_is_asked_no_more(tiny_model: LanguageModel) -> None:
    text = "A comet. It is a comet." + " It is a comet." * 14
    how = {"max_tokens": 300, "cut_repeats": True}
    for beams in (None, Beams(2)):
        script, writing = scripted(tiny_model.tokenizer, text, beams=beams, **how)
        assert "".join(piece.text for piece in writing) == "A comet. It is a comet."
        assert writing.reason == "repetition" and (beams or script.asked < 80)
    script, writing = scripted(tiny_model.tokenizer, text, max_tokens=300)  # off unless it is asked for
    assert "".join(piece.text for piece in writing) == text and writing.reason == "end"
    _, writing = scripted(tiny_model.tokenizer, text, stop=["comet. It"], **how)
    assert "".join(piece.text for piece in writing) == "A " and writing.reason == "stop"
    form = tiny_model.guides.guide(Constraint("regex", re.escape(text)))
    _, writing = scripted(tiny_model.tokenizer, text, guide=form, **how)
    assert "".join(piece.text for piece in writing) == text and writing.fits
