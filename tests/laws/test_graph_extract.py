"""What a text names: a function of the text alone, at exact places, whatever the text is."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.book.graph import builtin
from openbook.book.graph.derive import Derived, Places, derive
from openbook.book.graph.extract import LONGEST_SENTENCE, extract, normal
from openbook.book.graph.languages import language_of
from openbook.book.graph.stored import line_of, read_line

WORDS = [
    "Kevin",
    "Scott",
    "Microsoft",
    "the",
    "of",
    "engine",
    "engines",
    "was",
    "(MS)",
    "“Deep Blue”",
    "人工智能",
    "مدينة",
]
TEXTS = st.lists(st.sampled_from([*WORDS, ".", ",", "\n", "\n\n", "SCOTT:", "3", "’s"]), max_size=60).map(" ".join)


def names(text: str) -> dict[str, str]:
    return {name.normal: name.kind for name in extract(text).names}


def graph_of(*texts: str) -> Derived:
    """What these documents together say, a passage each."""
    said = [read_line(line_of((f"{i:02x}", "00"), "", extract(text)).encode()) for i, text in enumerate(texts)]
    some = len(texts)
    ids = [f"{i:02x}" for i in range(some)]
    at = np.arange(some, dtype=np.int64)
    return derive(said, Places(ids, at, ids, at * 0, at * 0 + 10**9, [""] * some))


@given(TEXTS | st.text(max_size=300))
@settings(max_examples=150)
def test_mentions_are_where_they_say(text: str) -> None:
    found = extract(text)
    ends = [0]
    for start, end in found.sentences:
        assert ends[-1] <= start < end <= len(text)
        ends.append(end)
    for mention in found.mentions:
        first, last = found.sentences[mention.sentence]
        assert first <= mention.start < mention.end <= last
        shown = normal(text[mention.start : mention.end])
        name = found.names[mention.name].normal
        assert shown[:3] == name[:3] or name.split()[-1] == shown  # a plural folded, or a surname for the whole
    assert len({(m.sentence, m.name) for m in found.mentions}) == len(found.mentions)
    assert extract(text) == found


@given(TEXTS)
@settings(max_examples=50)
def test_what_is_stored_is_what_was_extracted(text: str) -> None:
    found = extract(text)
    said = read_line(line_of(("ab", "cd"), "Title", found).encode())
    assert [tuple(row) for row in said.mentions_R4.tolist()] == list(found.mentions)
    assert [tuple(row) for row in said.sentences_S2.tolist()] == list(found.sentences)
    assert said.normals == [name.normal for name in found.names]


def test_names_and_phrases() -> None:
    found = names(
        "Kevin Scott spoke at Microsoft. Scott's team trains large language models at the University of Bern."
    )
    assert found["kevin scott"] == "name" and "scott" not in found
    assert found["university of bern"] == "name" and found["large language model"] == "phrase"


def test_an_abbreviation_is_what_it_stands_for() -> None:
    found = extract("The World Health Organization (WHO) met. WHO was right.")
    assert found.aliases == (("who", "world health organization"),)
    derived = graph_of("The World Health Organization (WHO) met.", "A letter from WHO came.")
    assert derived.names["who"] == derived.names["world health organization"]


def test_one_document_alone_does_not_say_what_an_abbreviation_means() -> None:
    derived = graph_of("The Alpha Beta Club (ABC) met.", "The Amber Bird Circle (ABC) met.", "ABC rose.")
    assert len({derived.names[n] for n in ("abc", "alpha beta club", "amber bird circle")}) == 3


def test_cyclic_aliases_are_one_entity() -> None:
    said = []
    for i, (a, b) in enumerate([("aa qa", "bb qb"), ("bb qb", "cc qc"), ("cc qc", "aa qa")]):
        found = extract("Here Aa Qa and Bb Qb and Cc Qc stand. " * 2)
        line = line_of((f"{i:02x}", "00"), "", found)
        line = line.replace('"aliases":[]', f'"aliases":[["{a}","{b}"]]')
        said.append(read_line(line.encode()))
    ids, at = ["00", "01", "02"], np.arange(3)
    derived = derive(said, Places(ids, at, ids, at * 0, at * 0 + 99, [""] * 3))
    assert len({derived.names[name] for name in ("aa qa", "bb qb", "cc qc")}) == 1


@pytest.mark.parametrize(("text", "language"), [
    ("The team was led by a woman.", "en"), ("Die Gruppe wurde von einer Frau geführt.", "de"),
    ("研究人员在实验室里发现了新的方法。", "zh"),
    ("Команда была создана в Москве.", "ru"), ("وصل الفريق إلى المدينة", "ar"),
    ("הצוות הגיע אל העיר", "he"), ("", ""), ("12 345", ""),
])  # fmt: skip
def test_languages(text: str, language: str) -> None:
    assert language_of(text) == language


def test_scripts_may_be_mixed_and_run_from_right_to_left() -> None:
    text = "وصل فريق الباحثين إلى القاهرة مع OpenAI. 人工智能 and Maurice Thorn, הצוות הגדול."
    found = extract(text)
    shown = {text[m.start : m.end] for m in found.mentions}
    assert {"OpenAI", "Maurice Thorn"} <= shown
    assert any("فريق" in each for each in shown) and any("הצוות" in each for each in shown)


def test_chinese_without_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "dictionary", lambda: False)
    assert "人工智能" in names("我们的人工智能和方法")


def test_a_word_over_and_over() -> None:
    """A million of them are in docs/graph.md."""
    began = time.process_time()
    found = extract("buffalo " * 100_000)
    assert len(found.names) <= 1 + 2 and len(found.mentions) <= 3 * len(found.sentences)
    assert max(end - start for start, end in found.sentences) <= 2 * LONGEST_SENTENCE
    assert time.process_time() - began < 30  # linear: tenths of a second


def test_thousands_of_names_in_one_document() -> None:
    """Fifty thousand are in docs/graph.md."""
    text = " met ".join(f"Xa{i} Yb{i}" for i in range(5_000))
    derived = graph_of(text)
    assert len(derived.normals) >= 5_000


def test_nothing_but_signs() -> None:
    assert extract("… — !!! ??? ((((").names == () and extract("").mentions == ()
