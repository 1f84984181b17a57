"""Files of pairs: what is found in them, what is left out with its line, and that a document of pairs is read back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.book.documents import Unreadable
from openbook.book.faq.forms import form_of
from openbook.book.faq.pages import is_question
from openbook.book.faq.pairs import Draft, Problem, key, sort_out, stored, written
from openbook.book.faq.read import sorted_pairs

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
HOSTILE = st.lists(st.sampled_from(["Q: ", "A: ", "\n", "\r", "\0", " ", "why?", "\u202e", "你好", "\u2028", "a"])).map(
    "".join
)
DRAFTS = st.lists(st.tuples(st.lists(TEXT | HOSTILE, min_size=1, max_size=3), TEXT | HOSTILE), max_size=8)


def found(ending: str, text: str) -> list[tuple[tuple[str, ...], str]]:
    form = form_of(ending)
    assert form is not None
    return [(draft.questions, draft.answer) for draft in sort_out(form(text)).pairs]


def problems(ending: str, text: str) -> list[str]:
    form = form_of(ending)
    assert form is not None
    return [str(problem) for problem in sort_out(form(text)).problems]


@given(DRAFTS)
def test_a_document_of_pairs_is_read_back(drawn: list[tuple[list[str], str]]) -> None:
    made = sort_out(Draft(tuple(questions), answer, line) for line, (questions, answer) in enumerate(drawn, 1))
    text = written(made.pairs).text
    read = list(stored("d", "t", text))
    assert [(pair.questions, pair.answer) for pair in read] == [(d.questions, d.answer) for d in made.pairs]
    for pair in read:
        assert text[pair.answer_start : pair.answer_end] == pair.answer
        assert text[pair.start :].startswith(f"Q: {pair.questions[0]}")
        assert text[: pair.start].count("\n") + 1 == pair.line
    assert len(made.pairs) + len(made.problems) == len(drawn)


@given(st.text())
def test_any_text_may_be_read_as_pairs(text: str) -> None:
    for pair in stored("d", "t", text):
        assert pair.questions and pair.answer == text[pair.answer_start : pair.answer_end]


@given(st.text(), st.sampled_from([".csv", ".jsonl", ".md", ".html", ".json"]))
def test_any_text_may_be_in_a_file_of_pairs(text: str, ending: str) -> None:
    form = form_of(ending)
    assert form is not None
    try:
        made = sort_out(form(text))
    except Unreadable:
        return
    for one in [*made.pairs, *made.problems]:
        assert 1 <= one.line <= text.count("\n") + 1


@given(DRAFTS, st.sampled_from(",;\t"))
def test_rows_of_csv(drawn: list[tuple[list[str], str]], mark: str) -> None:
    """What Python writes as CSV is found again, but for line ends inside cells, which are all made one kind."""
    clean = [(q[0].replace("\r", " "), a.replace("\r", " ") if a.strip() else "") for q, a in drawn]
    file = io.StringIO()
    csv.writer(file, delimiter=mark, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(
        [("question", "answer"), *clean]
    )
    form = form_of(".csv")
    assert form is not None
    rows = [one for one in form(file.getvalue()) if isinstance(one, Draft)]
    assert [(row.questions[0], row.answer) for row in rows] == clean


def test_malformed_rows_are_told_by_their_lines_and_the_rest_is_read() -> None:
    text = (
        'question,answer\nHow?,So.\n,nobody asked\n"Two\nlines?","an ""answer"""\nonly a question\n'
        '"never closed, x\nWhat?,That.\nhow,SO\nWhy?,\n'
    )
    assert found(".csv", text) == [(("How?",), "So."), (("Two lines?",), 'an "answer"'), (("What?",), "That.")]
    assert problems(".csv", text) == [
        "line 3: the question is empty",
        "line 6: has 1 cell, 2 are needed; see the header",
        "line 7: a quotation mark is opened and not closed",
        "line 9: the same question and answer stand in line 2",
        "line 10: the question 'Why?' has no answer",
    ]


def test_a_quotation_mark_opens_a_cell_only_where_one_begins() -> None:
    inches = 'question,answer\nHow long is the 5" pipe?,Ten.\nAnd the 6" one?,"It is ""long"",\nand wide."\n'
    assert found(".csv", inches) == [
        (('How long is the 5" pipe?',), "Ten."),
        (('And the 6" one?',), 'It is "long",\nand wide.'),
    ]
    assert problems(".csv", inches) == []


def test_a_comma_in_a_text_is_no_end_of_a_cell_where_tabs_are() -> None:
    rows = "Hello, is it, say, free?\tYes, it is.\nWhy, then?\tWell, so.\n"
    assert found(".tsv", rows) == [(("Hello, is it, say, free?",), "Yes, it is."), (("Why, then?",), "Well, so.")]


def test_columns_are_known_by_their_names() -> None:
    text = "id;Answer;Question;Paraphrases\n1;Yes.;Is it?;Would it be?\n"
    assert found(".csv", text) == [(("Is it?", "Would it be?"), "Yes.")]
    assert found(".csv", "问题,答案\n如何重置？,按住按钮。\n") == [(("如何重置？",), "按住按钮。")]
    assert found(".tsv", "Is it?\tYes.\n") == [(("Is it?",), "Yes.")]


def test_the_same_question_may_have_several_answers() -> None:
    text = '{"question": "Why?", "answers": ["So.", "Because."]}\n'
    assert found(".jsonl", text) == [(("Why?",), "So."), (("Why?",), "Because.")]


@pytest.mark.parametrize(
    "value",
    [
        [{"question": "Why?", "answer": "So."}],
        {"faq": {"items": [{"q": "Why?", "a": "So."}]}},
        {"Why?": "So."},
        {"mainEntity": [{"@type": "Question", "name": "Why?", "acceptedAnswer": {"text": "So."}}]},
    ],
)
def test_json_of_several_shapes(value: object) -> None:
    assert found(".json", json.dumps(value)) == [(("Why?",), "So.")]


def test_lines_of_json() -> None:
    text = '[\n {"question": "a?", "answer": "x"},\n {"question": "", "answer": "y"},\n {"question": "c?"}\n]'
    assert found(".json", text) == [(("a?",), "x")]
    assert problems(".jsonl", '{"question": "a?", "answer": "x"}\n{"a": \n') == [
        "line 2: is no JSON: Expecting value in line 2"
    ]


def test_markdown() -> None:
    page = """# Help

## How do I reset it?

Hold the button.

### In detail
Ten seconds.

## Prices

Not an answer.

**What does it cost?**

Ten francs.

1. **Is there a discount?**
   No.

Q: May I return it?
Q: returns
A: Yes, within a month.
Keep the box.

<details><summary>Folded away</summary>

Inside.
</details>

After it.

## 如何重置密码

A: 点击这里。
A: 或者那里。

```
## Is this a question?
```
"""
    assert found(".md", page) == [
        (("How do I reset it?",), "Hold the button.\n\nIn detail\nTen seconds."),
        (("What does it cost?",), "Ten francs."),
        (("Is there a discount?",), "   No.".strip()),
        (("May I return it?", "returns"), "Yes, within a month.\nKeep the box."),
        (("Folded away",), "Inside."),
        (("如何重置密码",), "点击这里。\n A: 或者那里。\n\n```\n## Is this a question?\n```"),
    ]


def test_html() -> None:
    page = """<html><head><title>x</title><script>var q = "Is this?"</script></head><body><h1>FAQ</h1>
    <details><summary>Is it <b>free</b>?</summary><p>Yes.</p><p>Really.</p></details><p>Not an answer.</p>
    <dl><dt>Shipping</dt><dd>Two days.</dd><dt>Returns</dt><dd>A month.</dd></dl>
    <h3><button>How do I get it?</button></h3><div hidden>Buy <i>it</i>:<ul><li>here<li>there</ul></div>
    <p><strong>Why is that so?</strong></p><p>Because.</p></body></html>"""
    assert found(".html", page) == [
        (("Is it free?",), "Yes.\n\nReally."),
        (("Shipping",), "Two days."),
        (("Returns",), "A month."),
        (("How do I get it?",), "Buy it:\n\nhere\nthere"),
        (("Why is that so?",), "Because."),
    ]


def test_what_a_page_tells_machines_is_taken_before_what_it_shows() -> None:
    told = {
        "@context": "https://schema.org",
        "@type": "FAQPage",
        "mainEntity": [
            {"@type": "Question", "name": "Why?", "acceptedAnswer": {"@type": "Answer", "text": "<p>So.</p>"}}
        ],
    }
    page = f'<body><script type="application/ld+json">{json.dumps(told)}</script><h2>Is it?</h2><p>Yes.</p></body>'
    assert found(".html", page) == [(("Why?",), "So.")]
    assert found(".html", page.replace('"mainEntity"', "{")) == [(("Is it?",), "Yes.")]


@pytest.mark.parametrize(
    "text", ["Why?", "how do I pay", "Is it free", "如何付款", "可以退货吗", "كيف أدفع؟", "3. What is it?"]
)
def test_questions_by_their_form(text: str) -> None:
    assert is_question(text)


@pytest.mark.parametrize("text", ["", "Prices", "What we do.", "Is it", "How to: pay", "a" * 400 + "?", "安装。"])
def test_what_is_no_question(text: str) -> None:
    assert not is_question(text)


def test_right_to_left_and_accents_do_not_hide_what_is_the_same() -> None:
    assert key("Où est-ce ?") == key("ou EST ce")
    assert key("كَيْفَ") == key("\u202bكيف\u202c")
    assert key("???") == "???"


def test_bounds() -> None:
    drafts = [Draft(("q" * 1_001,), "a", 1), Draft(("q",), "a" * 20_001, 2), Draft(("q",) * 3, "a", 3)]
    made = sort_out([*drafts, Problem(4, "so")])
    assert [p.line for p in made.problems] == [1, 2, 4]
    assert made.pairs == [Draft(("q",), "a", 3)]


def test_a_file_of_no_pairs_says_what_is_wanted() -> None:
    with pytest.raises(Unreadable, match=r"x\.md: holds no questions with answers"):
        sorted_pairs(b"# Title\n\nText.\n", Path("x.md"))
    with pytest.raises(Unreadable, match=r"x\.pdf: is of no form in which pairs are read; these are: .*\.csv"):
        sorted_pairs(b"", Path("x.pdf"))
    with pytest.raises(Unreadable, match=r"holds no whole pair: line 1: the question is empty"):
        sorted_pairs(b",x\n", Path("x.csv"))
    with pytest.raises(Unreadable, match=r"nests its JSON too deep|is no JSON"):
        sorted_pairs(b"[" * 200_000, Path("x.json"))


def test_hostile_files_take_little_time() -> None:
    """Each is a case in which a careless pattern or loop needs time that grows with the square."""
    quotes = ('"a\n' * 20_000).encode()
    with pytest.raises(Unreadable):
        sorted_pairs(quotes, Path("x.csv"))
    for text in ("**" * 50_000, "<summary" * 20_000, "Q" * 100_000, "<details>" * 1_500, "?" * 100_000):
        for ending in (".md", ".html"):
            with pytest.raises(Unreadable):
                sorted_pairs(text.encode(), Path("x" + ending))
