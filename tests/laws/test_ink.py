"""A word has one ink, in every face and also while it is written; what it is made of stays what it was."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from openbook.answer.page.pieces import goes_on, inked
from openbook.answer.page.reading import read
from openbook.answer.palette import level
from openbook.answer.terminal import Stream, show

SOURCES = [{"id": "p1", "kind": "passage"}, {"id": "p2", "kind": "passage"}, {"id": "closed", "kind": "closed_book"}]


def told(parts: list[tuple[str, float | None, str]]) -> dict[str, Any]:
    """An answer of these parts, each with its bits and who wrote it."""
    text, tokens = "", []
    for word, bits, by in parts:
        span = [len(text), len(text) + len(word)]
        tokens.append({"text": word, "span": span, "bits": bits, "responsibility": {by: 1.0}})
        text += word
    return {"answer": text, "tokens": tokens, "sources": SOURCES}


def levels(*parts: tuple[str, float | None, str]) -> list[int]:
    return [piece.level for piece in read(told(list(parts))).pieces]


def test_as_the_page_has_it() -> None:
    """The examples of web/test/reading.test.ts."""
    parts = [(" Ing", 3.0, "p1"), ("rid", 1.5, "p2"), (".", 0.1, "closed"), (" so", 0.1, "closed"), ("中", 2.0, "p1")]
    made = read(told([*parts, ("文", 0.0, "p1")])).pieces
    assert [piece.level for piece in made] == [level(4.5), level(4.5), 0, 0, level(2), 0]
    assert [piece.source.key for piece in made[:2] if piece.source] == ["p1", "p1"]
    dots = levels(("a", 0.0, "p1"), (".", 0.6, "p1"), (" b", 1.0, "p1"), (".", 0.6, "p1"))
    assert dots == [0, 0, level(1), level(0.6)]
    assert levels(("out", -4.0, "p1"), ("side", 9.0, "p2")) == [level(5), level(5)]
    assert levels(("mem", 9.0, "closed"), ("ory", 0.0, "p1")) == [0, 0]  # the model's own, whatever ends it


parts = st.lists(
    st.tuples(
        st.sampled_from([" in", "grid", "-", ".", " ", "\n", "水", "ไทย", " (", "a ", "x", "e\u0301"]),
        st.none() | st.sampled_from([-3.0, 0.0, 0.4, 0.7, 3.0, 9.0]),
        st.sampled_from(["p1", "p2", "closed"]),
    ),
    max_size=12,
)


@given(parts)
def test_a_word_has_one_ink_and_stays_what_it_is(parts: list[tuple[str, float | None, str]]) -> None:
    made = read(told(parts)).pieces
    assert "".join(piece.text for piece in made) == "".join(word for word, _, _ in parts)
    assert [piece.bits for piece in made] == [bits for _, bits, _ in parts]
    assert list(inked(made)) == list(made)  # and once is enough
    for one, other in pairwise(made):
        if goes_on(one, other):
            assert one.level == other.level
            assert not one.level or one.source is other.source


@given(parts)
def test_what_streams_has_the_ink_of_what_is_shown(parts: list[tuple[str, float | None, str]]) -> None:
    def console() -> Console:
        return Console(
            file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor", legacy_windows=False
        )

    parts = [("so ", 0.0, "closed"), *[(word.replace("\n", " "), bits, by) for word, bits, by in parts]]
    answer, live, shown = told(parts), console(), console()
    stream = Stream(live, SOURCES)
    for token in answer["tokens"]:
        stream.token(token["text"], token["responsibility"], token["bits"])
    stream.finish(answer)
    show(answer, shown)
    streamed, printed = (to.file.getvalue().split("\n")[0].rstrip() for to in (live, shown))  # type: ignore[attr-defined]
    assert _marked(streamed) == _marked(printed)


def _marked(line: str) -> list[tuple[str, str]]:
    """Every character that is none of a style, and not blank, with the style that it stands in."""
    found, style, at = [], "", 0
    while at < len(line):
        if line[at] == "\x1b":
            end = line.index("m", at)
            style, at = line[at : end + 1], end + 1
            style = "" if style == "\x1b[0m" else style
            continue
        if not line[at].isspace():
            found.append((line[at], style))
        at += 1
    return found
