"""Laws of the two faces: no text of an answer becomes markup, script or an escape sequence; all of it is shown."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from sample_answer import KARLSHOLT, sample
from selectolax.lexbor import LexborHTMLParser

from openbook.answer import palette
from openbook.answer.html import embedded_json, render_html
from openbook.answer.page.pieces import UNSPACED
from openbook.answer.page.reading import read
from openbook.answer.page.values import clean
from openbook.answer.terminal import Stream, show
from openbook.cli.output import progress_bar

# --- Drawn answers: the same one told with hostile strings and with harmless ones of the same shape. ------------------

HOSTILE = (
    "</script><script>alert(1)</script>", "</script x", "<img src=x onerror=alert(1)>", '"><svg onload="alert(1)">',
    "' onfocus='alert(1)", "<!--<script>", "]]>&lt;&#60;", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J",
    "[bold red]x[/]", "{{ 7 * 7 }}", "\u2028\u2029", "\u202egpj.exe", "\ud800", "\x00", "__proto__", "彗星观测队",
    "قادت الدكتورة", "👩🏽‍🚀", "\r\n\tx\n",
)  # fmt: skip
hostile = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8)), max_size=4).map("".join)
bits = st.one_of(st.none(), st.floats(-3, 20))
share = st.floats(0, 1)


def tame(text: str) -> str:
    """A harmless string with the same characters printable, space, signs and of scripts without spaces."""

    def like(c: str) -> str:
        if c.isspace() or not clean(c):
            return c
        return "." if unicodedata.category(c).startswith("P") else "水" if UNSPACED.match(c) else "x"

    return "".join(map(like, text))


@dataclass(frozen=True)
class Drawn:
    """The choices of one answer, to be told with any `say`; `name` makes ids, which must stay distinct."""

    words: list[str]
    numbers: list[tuple[float | None, float, float]]
    strings: list[str]
    kinds: list[str]
    abstained: bool
    places: list[tuple[int, int, int]]

    def told(self, say: Callable[[str], str], name: Callable[[int], str]) -> dict[str, Any]:
        """The answer's dict."""
        text, tokens, sources = "", [], []
        said = [say(string) for string in self.strings]
        for (a, b, c), word in zip(self.numbers, self.words, strict=False):
            span = [len(text), len(text) + len(word)]
            text += say(word)
            shares = {name(i): (b if i % 2 else c) for i in range(len(self.kinds))}
            tokens.append(
                {"text": say(word), "span": span, "p": b, "bits": a, "responsibility": shares, "certified": 1}
            )
        for i, kind in enumerate(self.kinds):
            document, heading, body = (said[(i + k) % len(said)] for k in range(3))
            place = {"document": document, "heading": heading, "text": body, "span": [7, 7 + len(body)]}
            sources.append({"id": name(i), "kind": kind, "prior": 0.2, "responsibility": 0.3, **place})
        cites = [
            {"span": [min(a, len(text))] * 2, "source": name(s % len(self.kinds)), "source_span": [b, b + 5]}
            for a, b, s in self.places
        ]
        judged = [
            {"span": [0, min(a, len(text))], "verdict": said[s % len(said)], "source": name(s % len(self.kinds))}
            | {"bits": a / 3, "unsupported": [[min(b, len(text)), len(text)]]}
            for a, b, s in self.places
        ]
        return {
            "sentences": judged,
            "question": said[0], "answer": text, "abstained": self.abstained, "seed": 0,
            "reason": f"because {said[-1]}",  # never the text itself, which would be no text: tame strings are alike
            "model": said[0], "book": {"path": said[-1], "version": 7}, "settings": {said[0]: said[-1]},
            "sources": sources, "tokens": tokens, "citations": cites, "timings": {"retrieve_ms": 9.0},
        }  # fmt: skip


def plainly(i: int) -> str:
    return f"p{i}"


def wildly(i: int) -> str:
    return f"{HOSTILE[i]}{i}"


kinds = st.lists(st.sampled_from(["passage", "closed_book", "model"]), min_size=1, max_size=11)
answers = st.builds(
    Drawn,
    words=st.lists(hostile, max_size=8),
    numbers=st.lists(st.tuples(bits, share, share), min_size=8, max_size=8),
    strings=st.lists(hostile, min_size=1, max_size=5),
    kinds=kinds,
    abstained=st.booleans(),
    places=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30), st.integers(0, 10)), max_size=4),
)
few = settings(max_examples=120, deadline=None)


def skeleton(page: str) -> list[tuple[str, dict[str, str | None]]]:
    """Every element of the page with all its attributes, as an HTML5 parser sees it."""
    root = LexborHTMLParser(page).root
    assert root is not None
    return [(node.tag, dict(node.attributes)) for node in root.traverse()]


@few
@given(answers)
def test_no_text_becomes_an_element_or_an_attribute(drawn: Drawn) -> None:
    """The page of hostile strings has the elements and attributes of the page of harmless ones, none besides."""
    page = render_html(drawn.told(str, wildly))
    page.encode()
    assert skeleton(page) == skeleton(render_html(drawn.told(tame, plainly)))


@few
@given(answers)
def test_the_page_holds_its_data_exactly_and_its_text_whole(drawn: Drawn) -> None:
    answer = drawn.told(str, wildly)
    tree = LexborHTMLParser(render_html(answer))
    assert json.loads(tree.css_first("#data").text()) == answer
    written = tree.css_first("#answer")
    if read(answer).draft:
        for sign in written.css("sup"):
            sign.decompose()
        assert written.text() == clean(answer["answer"])
    texts = [node.text() for node in tree.css(".passage .text")]
    assert texts == [clean(s["text"]) for s in answer["sources"] if clean(s["text"])]


def test_what_json_has_no_word_for_is_null() -> None:
    assert json.loads(embedded_json({"a": float("inf"), "b": [float("nan"), 1.5], "c": (2, "</")})) == {
        "a": None, "b": [None, 1.5], "c": [2, "</"],
    }  # fmt: skip


def test_the_policy_allows_this_script_and_this_style_and_nothing_else() -> None:
    tree = LexborHTMLParser(render_html(sample()))
    policy = tree.css_first("meta[http-equiv]").attributes["content"] or ""
    for node in (tree.css_first("style"), tree.css("script")[-1]):
        digest = base64.b64encode(hashlib.sha256(node.text().encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    page = render_html(sample())
    assert not re.search(r"""(src|href)=["'](?!#)|url\(|@import|style=|\son\w+=""", page)


fields = st.sampled_from(sorted(sample()["tokens"][0] | sample()["sources"][0]))
junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), hostile),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(fields, inner, max_size=6)),
    max_leaves=12,
)


@few
@given(st.dictionaries(st.sampled_from(sorted(sample())), st.one_of(junk, st.lists(junk, max_size=3))))
def test_any_json_at_all_can_be_shown(answer: dict[str, Any]) -> None:
    """A stored answer may have been edited: every field may be missing or of any type."""
    render_html(answer)
    show(answer, Console(file=io.StringIO(), width=60))
    assert "".join(piece.text for piece in read(answer).pieces) == read(answer).text


# --- The reading. -------------------------------------------------------------------------------------------------


def test_the_parts_of_a_character_are_one_piece() -> None:
    shares = {"p1": 1.0}
    answer = {
        "answer": "a彗b", "sources": [{"id": "p1", "kind": "passage"}],
        "tokens": [
            {"text": "a", "span": [0, 1], "bits": 0.0, "responsibility": shares},
            {"text": "", "span": [1, 1], "bits": 3.0, "responsibility": shares},
            {"text": "", "span": [1, 1], "bits": None, "responsibility": shares},
            {"text": "彗", "span": [1, 2], "bits": 1.5, "responsibility": shares},
            {"text": "b", "span": [2, 3], "bits": -1.0, "responsibility": shares},
        ],
    }  # fmt: skip
    pieces = read(answer).pieces
    assert [(p.text, list(p.tokens), p.bits, p.level) for p in pieces] == [
        ("a", [0], 0.0, 0), ("彗", [1, 2, 3], 4.5, 4), ("b", [4], -1.0, 0),
    ]  # fmt: skip


def test_marks_stand_at_the_cited_places() -> None:
    tree = LexborHTMLParser(render_html(sample()))
    cited = [c["cited_text"] for c in sorted(sample()["citations"], key=lambda c: (c["source"], c["source_span"]))]
    assert [mark.text() for mark in tree.css("mark")] == cited
    assert [sign.text() for sign in tree.css("sup")] == ["1", "1", "2", "2"]


def test_an_abstention_says_so_and_shows_what_was_found() -> None:
    answer = sample() | {"abstained": True, "answer": "", "tokens": [], "citations": [], "reason": "too far off"}
    text = LexborHTMLParser(render_html(answer)).css_first("main").text()
    assert "Not answered: too far off" in text and KARLSHOLT in text and "83 %" in text
    assert "Not answered: too far off" in printed(answer)


def test_an_answer_says_why_it_ended_early() -> None:
    for ended, words in (("repetition", "where it only repeated itself"), ("limit", "at the most tokens")):
        told = " ".join(printed(sample() | {"ended": ended}).split())
        assert f"ended {words}" in told and words in render_html(sample() | {"ended": ended})
    assert "ended" not in printed(sample() | {"ended": "end"}) + printed(sample())


def test_a_text_that_is_no_answer_is_shown_as_one_that_is_not() -> None:
    """It was streamed before it was doubted: then it stands above what is said of it."""
    answer = sample() | {"abstained": True, "reason": "said over and over", "citations": []}
    beginning = answer["answer"].split()[0]
    shown, streamed = printed(answer), printed(answer, stream=True)
    assert shown.index("Not answered") < shown.index("would have written") < shown.rindex(beginning)
    assert streamed.index(beginning) < streamed.index("Not answered: said over and over") < streamed.index("Above:")
    assert "What the model would have written:" in render_html(answer)


# --- The palette. -------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", [*palette.HUES, palette.OWN], ids=lambda c: str(c.name))
def test_colours_keep_their_contrast(colour: palette.Colour) -> None:
    """3:1 for lines, 4.5:1 for text, on the grounds of page.css and of any terminal."""
    assert (
        contrast(colour.light, "#ffffff") >= 3 and min(contrast(colour.text, g) for g in ("#ffffff", "#f5f6f8")) >= 4.5
    )
    assert min(contrast(colour.dark, ground) for ground in ("#15171b", "#1d2025", "#23272d")) >= 4.5
    assert min(contrast(colour.either, ground) for ground in ("#ffffff", "#000000")) >= 3


# --- The terminal. ------------------------------------------------------------------------------------------------


def printed(answer: dict[str, Any], stream: bool = False, **console: Any) -> str:
    """What `show` or `Stream` prints; without more, to no terminal."""
    out = io.StringIO()
    to = Console(**({"file": out, "width": 72, "force_terminal": False, "legacy_windows": False} | console))
    if not stream:
        show(answer, to)
        return out.getvalue()
    live = Stream(to, answer["sources"])
    for token in answer["tokens"]:
        live.token(token["text"], token["responsibility"], token["bits"])
    live.finish(answer)
    return out.getvalue()


# Bold, dim, underline, not bold, one of our colours.
OURS = re.compile(r"\x1b\[(0|(1|2|4|7|22|38;2;\d+;\d+;\d+)(;(1|2|4|7|22|38;2;\d+;\d+;\d+))*)m")


@few
@given(answers, st.booleans(), st.sampled_from([24, 60, 80, 120]))
def test_no_text_reaches_the_terminal_as_a_command(drawn: Drawn, stream: bool, width: int) -> None:
    answer = drawn.told(str, wildly)
    plain = printed(answer, stream, width=width)
    coloured = printed(answer, stream, width=width, force_terminal=True, color_system="truecolor")
    assert clean(plain) == plain and clean(OURS.sub("", coloured)) == OURS.sub("", coloured)


def test_lines_fit_the_terminal_and_end_without_spaces() -> None:
    for width in (40, 60, 80, 120):
        for stream in (False, True):
            for line in printed(sample(), stream, width=width).splitlines():
                assert cell_len(line) <= min(width, 100) and line == line.rstrip()


def test_what_streams_reads_like_what_is_shown() -> None:
    """The same words; the shown ones have signs."""
    streamed = printed(sample(), True).split("\n\n")[0]
    shown = printed(sample()).split("\n\n")[1]
    assert streamed.split() == re.sub(r"\[\d+\]", "", shown).split()


def test_without_colour_nothing_is_said_by_colour() -> None:
    plain = printed(sample())
    assert "Ingrid Vass[1]." in plain and "[[the team was led by" in plain and "\x1b" not in plain
    no_colour = printed(sample(), force_terminal=True, no_color=True, color_system="truecolor")
    assert "Vass[1]" in no_colour and "38;2" not in no_colour
    assert "¹" in printed(sample(), force_terminal=True, color_system="truecolor")


def test_braces_stand_around_what_nothing_carries_and_the_text_keeps_its_own() -> None:
    """A word of several tokens is one doubt; braces of the text itself are left alone."""
    words, at, tokens = ["a", "}}{{", " b", "c", " d", " e"], 0, []
    for word in words:
        tokens.append({"text": word, "span": [at, at + len(word)]})
        at += len(word)
    places = [[6, 7], [7, 8], [11, 12]]  # b, c and e
    sentence = {"span": [0, at], "verdict": "partly", "unsupported": places}
    said = printed({"answer": "".join(words), "tokens": tokens, "sentences": [sentence]})
    assert said.splitlines()[0] == "a}}{{ {{bc}} d {{e}}"


def test_a_name_in_the_progress_bar_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file called `[/x].md` is a file like others: it must not end `add`."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Terminal())
    for name in ("[/x].md", "[bold", *HOSTILE):
        with progress_bar() as tell:
            assert tell is not None
            tell(0, 2, name)
