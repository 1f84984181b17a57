"""Laws of passages: exact places, in order, disjoint, nothing lost, never too long."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from openbook.book.documents import Document, Heading
from openbook.book.embedder import HashedWords
from openbook.book.passages import BYTES_A_TOKEN, MAX_CHARS, MAX_TOKENS, split
from openbook.book.readers.markdown import lines_of, markdown_headings, read_markdown
from openbook.book.sentences import sentences

COUNTER = HashedWords()
PARTS = st.sampled_from(
    [
        "Dr. Smith paid 3.14 dollars. ",
        "He left! ",
        "\n\n",
        "\n",
        "# Install\n",
        "## Linux\n\n",
        "彗星团队由莫里斯领导。",
        "“你好！”他说…",
        "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪🇫🇷",
        "e\u0301\u0302\u0303" * 5,
        "x" * 300,
        "supercalifragilistic ",
        "- item one\n- item two\n",
        "```\n# no heading\n```\n",
        "def f(x):\n    return x\n",
        "\t \u3000\u2028\xa0",
        "....",
        "a.b.c. ",
        "| a | b |\n",
        "\u200d\ufe0f",
        "กินข้าวแล้วหรือยัง" * 9,
        "𓀀𓁐𓂀" * 30,
    ]
)
TEXTS = st.one_of(st.lists(PARTS, max_size=60).map("".join), st.text(max_size=400))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS, st.sampled_from(["prose", "code", "lines"]), st.integers(8, 60))
@example("x" * 10_000, "prose", 8)
@example("好" * 3_000, "lines", 40)
@example("\u0301" * 5_000, "prose", 8)
@example("ก" * 3_000, "prose", 60)
@example("𓀀" * 3_000, "lines", 8)
@example("a\ud800" * 300, "prose", 8)
def test_passages_are_exact_ordered_complete_and_bounded(text: str, kind: str, limit: int) -> None:
    text = text.replace("\r", "\n")
    headings = tuple(markdown_headings(lines_of(text))) if kind == "prose" else ()
    document = Document("d", "t", text, headings=headings, kind=kind)  # type: ignore[arg-type]
    pieces = split(document, COUNTER, limit)
    covered, end = [], 0
    for piece in pieces:
        assert piece.text == text[piece.start : piece.end]
        assert piece.text.strip()
        assert piece.start >= end
        assert piece.line == text.count("\n", 0, piece.start) + 1
        assert len(piece.text) <= MAX_CHARS
        inked = re.sub(r"[ \t\n]+", " ", piece.text).encode("utf-8", "surrogatepass")
        assert len(inked) <= BYTES_A_TOKEN * limit
        covered.append(text[end : piece.start])
        end = piece.end
    assert not "".join([*covered, text[end:]]).strip()
    assert all(count <= limit for count in COUNTER.count_tokens([piece.text for piece in pieces]))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXTS, st.integers(8, 60))
def test_no_passage_runs_from_a_body_past_a_heading(text: str, limit: int) -> None:
    text = text.replace("\r", "\n")
    headings = tuple(markdown_headings(lines_of(text)))
    for piece in split(Document("d", "t", text, headings=headings), COUNTER, limit):
        inside = [h for h in headings if piece.start < h.start < piece.end]
        for heading in inside:
            above = [h for h in headings if h.start < heading.start and h.end > piece.start]
            body = set(range(piece.start, heading.start)) - {i for h in above for i in range(h.start, h.end)}
            assert not any(not text[i].isspace() for i in body)


def test_headings_make_a_path_and_pages_are_counted_from_one() -> None:
    found = read_markdown(b"# Install\n\nAll of it.\n\n## Linux\n\nOn Linux.\n\n## Mac\n\nOn a Mac.\n\n# Use\n\nSo.\n")
    pieces = split(Document("d", "t", found.text, headings=found.headings), COUNTER)
    assert [piece.heading for piece in pieces] == ["Install", "Install > Linux", "Install > Mac", "Use"]
    paged = Document("d", "t", "one.\n\n" + "two " * 100, page_starts=(0, 6))
    assert [piece.page for piece in split(paged, COUNTER, 40)] == [1, 2, 2]


def test_an_empty_heading_is_a_heading() -> None:
    document = Document("d", "t", "#\ntext", headings=(Heading(0, 1, 1, ""),))
    assert [piece.heading for piece in split(document, COUNTER)] == [None]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Dr. Smith met Mrs. Jones. They spoke.", 2),
        ("See e.g. Fig. 3 or No. 5 of it. No. That is all.", 3),
        ("J. K. Rowling wrote it. It sold.", 2),
        ("He lives in the U.S. The house is big.", 2),
        ("The U.S. Army came. It left.", 2),
        ("Pi is 3.14. See file.txt for more.", 2),
        ("Apple Inc. CEO Tim Cook spoke. Apple Inc. The firm.", 3),
        ("“Stop!” he said. “No.” Then he left.", 3),
        ("Is it? Yes! Fine.", 3),
        ("他说：“好。”然后走了。真的吗？是！", 4),
        ("等等……然后呢；不知道。", 3),
        ("1. First thing\n2. Second thing", 2),
        ("Wait... what is it? Nothing.", 2),
        ("", 0),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, count: int) -> None:
    found = [text[start:end] for start, end in sentences(text, 0, len(text))]
    assert len(found) == count, found


def test_paragraphs_are_kept_whole_where_they_fit() -> None:
    first, second = "One two three four five six. " * 3, "Seven eight nine ten eleven twelve. " * 3
    pieces = split(Document("d", "t", f"{first}\n\n{second}"), COUNTER, 30)
    assert [piece.text for piece in pieces] == [first.strip(), second.strip()]


def test_a_long_word_and_joined_emoji_are_cut_between_visible_characters() -> None:
    family = "👩‍👩‍👧‍👦"
    pieces = split(Document("d", "t", family * 40), COUNTER, 40)
    assert all(len(piece.text) % len(family) == 0 for piece in pieces)
    assert not any(piece.text[0] == "\u0301" for piece in split(Document("d", "t", "e\u0301" * 500), COUNTER, 30))


def test_a_word_of_any_length_is_cut_to_what_a_language_model_reads() -> None:
    """The encoder counts a run of Thai as one word piece; a language model has a token or more a character."""

    class Runs:
        def count_tokens(self, texts: Sequence[str]) -> list[int]:
            return [len(text.split()) for text in texts]

    thai = "การเดินทางของดาวหางที่ไม่มีใครเคยเห็นมาก่อน" * 100
    lengths = [len(piece.text) for piece in split(Document("d", "t", thai), Runs())]
    assert 400 <= max(lengths) <= BYTES_A_TOKEN * MAX_TOKENS // 3
    assert sum(lengths) == len(thai) and len(lengths) <= len(thai) // 350


def test_code_keeps_indentation_and_decorators() -> None:
    code = "import a, b, c, d, e\n\n\n"
    code += "@cached\ndef f():\n    return 1\n\n\nclass B:\n\n    def g(self):\n        return 2\n"
    pieces = split(Document("d", "t", code, kind="code"), COUNTER, 16)
    assert any(piece.text.startswith("@cached\ndef f()") for piece in pieces)
    assert any(piece.text.startswith("    def g") for piece in pieces)
