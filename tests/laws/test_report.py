"""Laws of reports: whatever an answer says stays text, in Markdown, SVG and a notebook, and none of it is lost."""

from __future__ import annotations

import builtins
import re
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from sample_answer import sample
from selectolax.lexbor import LexborHTMLParser
from test_faces import Drawn, answers, few, plainly, tame, wildly

from openbook.answer.page.reading import read
from openbook.answer.page.values import clean
from openbook.answer.report.columns import columns
from openbook.answer.report.markdown import escape, markdown
from openbook.answer.report.notebook import BOX, notebook
from openbook.answer.report.plain import cited, plain
from openbook.answer.report.save import MEDIA, report, save
from openbook.answer.report.svg import WIDTH, _split, svg
from openbook.errors import Fault

SVG = "{http://www.w3.org/2000/svg}"
MARKS = [
    *"a1 .:/[]()!<>&`*_~#|\\-+=\n\t$^\"'é漢\u202e\0",
    *("http://x.y", "www.a.com", "a@b.com", "[^1]", "[^1]: ", "</td>", "&lt;", "<!--", "```", "~~", "# ", "- ", "---"),
    *("1. ", "1) ", "> ", "\n\n", "    ", "===", "<https://x.y>", "![x](y)", "\ud800"),
]
marked = st.lists(st.sampled_from(MARKS), max_size=14).map("".join) | st.text(max_size=30)


def seen(text: str) -> str:
    """Text as a reader sees it: white space is one space, what cannot be printed is not there."""
    plain_text = clean(text).replace("\ufffe", "").replace("\uffff", "").replace("\u2060", "").replace("\ufeff", "")
    return " ".join(plain_text.split())


def parsed(document: str) -> ElementTree.Element:
    return ElementTree.fromstring(document)  # noqa: S314  (ours: it declares no entities)


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)


@settings(max_examples=600)
@given(marked)
@example("* a")
@example("10) b")
@example("=====")
@example("<script>alert(1)</script>")
@example("[x](javascript:alert(1))")
@example("visit www.evil.example or https://evil.example, or mail me@evil.example")
def test_escaped_text_is_text(text: str) -> None:
    told = escape(text)
    assert not re.search(r"(?i)\n|(?<!\\)://|www\.|@\w", told)
    tree = LexborHTMLParser(rendered(told))
    assert {node.tag for node in tree.body.traverse()} <= {"body", "p"}
    assert seen(tree.body.text()) == seen(text)


@few
@given(answers)
def test_a_report_in_markdown_has_its_own_parts_and_no_others(drawn: Drawn) -> None:
    def parts(answer: dict[str, Any]) -> list[str]:
        lines = re.sub(r"\[\^\d+\]", "", re.sub(r"(?m)^\[\^\d+\]: ", "", markdown(answer)))
        return [node.tag for node in LexborHTMLParser(rendered(lines)).body.traverse()]

    wild = drawn.told(lambda s: s, wildly)
    allowed = ("body", "h2", "p", "strong", "em", "table", "thead", "tbody", "tr", "th", "td", "hr")
    assert {*parts(wild)} <= {*allowed}  # no links, no pictures
    told, notes = markdown(wild), len(cited(read(wild)))
    defined = re.findall(r"(?m)^\[\^(\d+)\]: ", told)
    used = re.findall(r"\[\^(\d+)\](?!:)", told)
    shown = notes if read(wild).draft else 0
    assert defined == [str(n) for n in range(1, notes + 1)] and used == defined[:shown]


def test_a_footnote_says_document_place_and_words() -> None:
    told = markdown(sample())
    assert "Ingrid Vass[^1]. It followed" in told
    assert (
        "[^1]: **notes/karlsholt\\.md**, line 12: “the team was led by Dr. Ingrid Vass” (97 % of these words)" in told
    )
    assert "kilometres[^2][^3], give or take 0.2 million[^4]." in told
    assert "| 2 | archive/bulletins/2019-autumn\\.pdf | page 3 | 20 % | 9.6 |" in told


def test_paragraphs_stay_paragraphs_and_an_abstention_says_so() -> None:
    answer = {"answer": "One.\n\n# Two\n- three", "question": "Q?"}
    assert markdown(answer).split("\n\n")[1:4] == ["One.", "\\# Two", "\\- three"]
    assert "**Not answered:** nothing fits." in markdown({"abstained": True, "reason": "nothing fits", "answer": ""})
    assert plain({"abstained": True, "reason": "nothing fits"}).startswith(
        "openbook does not answer this: nothing fits"
    )


@few
@given(answers)
def test_nothing_in_an_answer_becomes_an_element_of_the_picture(drawn: Drawn) -> None:
    wild, mild = (drawn.told(say, name) for say, name in ((lambda s: s, wildly), (tame, plainly)))
    root = parsed(svg(wild))
    allowed = {"svg", "title", "style", "g", "rect", "text", "line"}
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in allowed
        assert not any(name.startswith("on") or "href" in name or name == "style" for name in element.attrib)
    style = "".join(e.text or "" for e in root.iter(f"{SVG}style"))
    assert style == "".join(e.text or "" for e in parsed(svg(mild)).iter(f"{SVG}style"))
    assert "url" not in style and "@import" not in style


@few
@given(answers)
def test_the_picture_has_every_word_and_a_column_a_token(drawn: Drawn) -> None:
    answer = drawn.told(lambda s: s, wildly)
    root, reading = parsed(svg(answer)), read(answer)
    if not reading.draft:
        return
    said = "".join(e.text or "" for e in root.iter(f"{SVG}text") if e.get("class") == "ink")
    kept = re.sub(r"\s|[\ufffd-\uffff]", "", clean(reading.text))
    assert kept in re.sub(r"\s|[\ufffd-\uffff]", "", said)
    assert len(list(root.iter(f"{SVG}g"))) == len(answer["tokens"])
    for element in root.iter(f"{SVG}rect"):
        x, wide, high = (float(element.get(name) or 0) for name in ("x", "width", "height"))
        assert x >= 0 and wide >= 0 and high >= 0 and x + wide <= WIDTH + 0.01


@given(marked)
def test_words_join_to_their_line(text: str) -> None:
    assert "".join(_split(text)) == text


@few
@given(answers)
def test_columns_are_whole(drawn: Drawn) -> None:
    answer = drawn.told(lambda s: s, plainly)
    made = columns(answer, read(answer))
    assert len(made) == len(answer["tokens"])
    for column in made:
        assert 0 < column.height <= 1 + 1e-9 and sum(share for _, share in column.shares) <= 1 + 1e-9


@few
@given(answers)
def test_nothing_in_an_answer_becomes_an_element_of_the_notebook(drawn: Drawn) -> None:
    tree = LexborHTMLParser(notebook(drawn.told(lambda s: s, wildly)))
    allowed = {"div", "style", "p", "span", "sup", "i", "b", "small", "details", "summary", "mark"}
    inside = [node for node in tree.css(f".{BOX} *") if node.is_element_node]
    assert {node.tag for node in inside} <= allowed
    for node in inside:
        assert set(node.attributes) <= {"class", "style", "title", "dir", "role", "aria-label"}
        assert "url" not in (node.attributes.get("style") or "") and "/" not in (node.attributes.get("style") or "")
    mild = LexborHTMLParser(notebook(drawn.told(tame, plainly)))
    assert tree.css_first("style").text() == mild.css_first("style").text()


def test_styles_of_a_notebook_reach_nothing_else() -> None:
    style = LexborHTMLParser(notebook(sample())).css_first("style").text()
    for rule in style.split("}")[:-1]:
        assert all(selector.startswith(f".{BOX}") for selector in rule.split("{")[0].split(","))


def test_a_notebook_shows_words_sources_and_the_marked_place() -> None:
    tree = LexborHTMLParser(notebook(sample()))
    assert (
        tree.css_first("p.a").text().startswith("The comet team at Karlsholt was led by Dr. Ingrid Vass1. It followed")
    )
    assert [mark.text() for mark in tree.css("mark")][1] == "the team was led by Dr. Ingrid Vass"
    assert len(tree.css("div.b > span")) == len(sample()["tokens"])


junk = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda s: st.lists(s, max_size=3))


@few
@given(st.dictionaries(st.sampled_from(sorted(sample())), junk), st.sampled_from(sorted(MEDIA.keys() - {"png"})))
def test_any_json_at_all_can_be_reported(answer: dict[str, Any], kind: str) -> None:
    assert report(answer, kind) or not read(answer).text.strip()


def test_a_long_answer_is_drawn_in_rows_and_in_time() -> None:
    answer = sample()
    row = answer["tokens"]
    text = answer["answer"]
    answer["answer"] = text * 60
    answer["tokens"] = [
        {**token, "span": [at + len(text) * n for at in token["span"]]} for n in range(60) for token in row
    ]
    root = parsed(svg(answer))
    assert len(list(root.iter(f"{SVG}g"))) == 60 * len(row)
    assert float(root.get("height") or 0) > 1_000
    answer["answer"] = answer["question"] = "x" * 20_000  # one word: its parts are found in one pass
    drawn = [e.text or "" for e in parsed(svg(answer)).iter(f"{SVG}text") if e.get("class") == "ink"]
    assert sum(map(len, drawn)) >= 20_000 and max(map(len, drawn)) < 200


def test_the_ending_says_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in MEDIA.keys() - {"png"}:
        assert save(sample(), tmp_path / f"why.{kind}").read_bytes() == report(sample(), kind)
    with pytest.raises(Fault, match="has no ending"):
        save(sample(), tmp_path / "why.docx")
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "vl_convert":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(Fault, match="needs vl-convert"):
        save(sample(), tmp_path / "why.png")
    assert not (tmp_path / "why.png").exists()


def test_a_png_has_the_size_of_the_picture_twice() -> None:
    pytest.importorskip("vl_convert", reason="vl-convert is not installed")
    data = report(sample(), "png")
    wide, high = struct.unpack(">II", data[16:24])
    drawn = parsed(svg(sample()))
    assert (wide, high) == (2 * float(drawn.get("width") or 0), 2 * float(drawn.get("height") or 0))
