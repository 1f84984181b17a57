"""What documents say out of habit is found by counting, and what a question is about without how it asks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.answer.summarize.cover import apart, middle, weights
from openbook.answer.summarize.gather import COMMON, Asked, claims_of, gather
from openbook.answer.summarize.habits import NONE, habits
from openbook.answer.summarize.points import leans, worth
from openbook.answer.summarize.subject import subject, telling
from openbook.book.embedder import HashedWords
from openbook.book.passages import Passage
from openbook.book.store import open_book

GREETING = "Welcome back to the show, and thank you very much for listening to us today.\n"
HEADS = ("ADA VASS:", "[00:12:04] BEN:", "ADA VASS:", "ADA VASS:", "[00:31:59] BEN:", "BEN:", "BEN:", "[00:40:00] BEN:")


def talk(n: int) -> str:
    """A conversation whose sentences nobody else says; its second one goes on from the first, without a label."""
    said = [f"{w.capitalize()}{n} moss{n} drinks{n} through its leaf{n} in{n} spring{n}." for w in "abcdefgh"]
    said[0] += f" Winter{n} comes{n} late{n} and with it four{n} comets{n}."
    return GREETING + "".join(f"{head} {text}\n" for head, text in zip(HEADS, said, strict=True))


def passage(text: str, document: str) -> Passage:
    return Passage(document, document, document, "", text, 0, len(text), None, 1)


TALKS = [passage(talk(n), f"{n}.txt") for n in range(1, 8)]


def test_a_label_is_no_part_of_a_point_and_says_who_speaks():
    known = habits(TALKS)
    assert {"ada vass:", "[00:00:00] ben:"} <= known.labels
    said = {claim.text: claim for claim in claims_of(TALKS[0], known)}
    moss = next(c for text, c in said.items() if text.startswith("A1 moss1"))
    assert moss.label == "ADA VASS" and TALKS[0].text[moss.start : moss.end] == moss.text
    winter = next(c for text, c in said.items() if text.startswith("Winter1"))
    assert winter.label == "" and known.speaker(TALKS[0].text[: winter.start]) == "ADA VASS"
    assert known.broken("built over the river ADA VASS: No, it was not.") and not known.broken("built over the river")


def test_a_label_is_not_looked_for_within_words():
    known = habits([passage("A: Mosses have no roots.\nQ: Have they leaves?\n" * 3 + "王: 好。\n" * 3, "a.txt")])
    assert {"a:", "q:", "王:"} <= known.labels
    assert not known.broken("They measured the area: four hectares.")
    assert known.broken("They measured it. A: Four hectares.") and known.broken("他说了。王: 四公顷。")


def test_what_many_documents_say_in_the_same_words_is_nobodys_point():
    known = habits(TALKS)
    assert known.common(GREETING) == 1.0
    assert not any("Welcome" in claim.text for talk in TALKS for claim in claims_of(talk, known))
    assert any("Welcome" in claim.text for claim in claims_of(TALKS[0], NONE))
    assert habits(TALKS[:3]).common(GREETING) == 0.0  # three documents are no habit


@given(st.lists(st.tuples(st.text(max_size=80), st.sampled_from("abc")), max_size=6), st.text(max_size=80))
def test_any_text_has_habits(drawn, text):
    known = habits(passage(read, document) for read, document in drawn)
    assert 0 <= known.common(text) <= 1
    label, end = known.head(text)
    assert 0 <= end <= len(text) and (label or end == 0)
    known.broken(text), known.speaker(text)


def test_hostile_texts_take_little_time():
    for text in ("a" * 200_000, "a: " * 100_000, "[1:11] " * 50_000, ":" * 200_000, "\n: " * 50_000):
        habits([passage(text, "a.txt")]).common(text[:500])


@pytest.mark.parametrize(
    ("question", "about"),
    [
        ("Which guests discuss the topic of diversity and inclusion in tech?", "diversity inclusion"),
        ("What are the main themes?", "What are the main themes?"),
        ("How do guests generally perceive the impact of privacy laws?", "impact privacy laws"),
        ("讨论了哪些隐私问题", "了 隐私问题"),
        ("What do guests say about privacy?", "privacy"),
        ("", ""),
    ],
)
def test_the_subject_of_a_question(question, about):
    assert subject(question, {"guest", "tech"}) == about
    assert telling(question, about) == (about if len(about.split()) > 1 or not about.isascii() else question)


@given(st.text(max_size=200), st.sets(st.sampled_from(["guest", "tech", "a"])))
def test_any_question_has_a_subject(question, everywhere):
    about = subject(question, everywhere)
    assert about == question or (about and len(about) <= len(question) + 1)


@given(st.integers(0, 10_000), st.integers(2, 60), st.floats(1, 80))
def test_no_more_texts_count_than_asked(seed, count, wide):
    """The entropy of ρ is that of `wide` texts at most, and ρ falls with the cosine."""
    cosines = np.random.default_rng(seed).normal(size=count) / 3
    shares = weights(cosines, wide)
    assert shares.sum() == pytest.approx(1.0)
    assert np.exp(-(shares * np.log(np.maximum(shares, 1e-300))).sum()) <= max(wide, 1) * 1.01 + 1e-6
    assert (np.diff(shares[np.argsort(cosines)]) >= -1e-12).all()


def test_what_all_have_in_common_tells_nothing():
    generator = np.random.default_rng(0)
    common, own = generator.normal(size=16), generator.normal(size=(400, 16)) / 4
    vectors = (common + own).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    one = apart(vectors, middle(vectors))
    assert np.linalg.norm(one, axis=1) == pytest.approx(1.0, abs=1e-4)
    assert abs(float((one @ one.T)[~np.eye(400, dtype=bool)].mean())) < 0.1 < float((vectors @ vectors.T).mean())


def test_what_a_sentence_is_worth():
    texts = ["Bees feed whole valleys of the north.", "And bees feed whole valleys of the north."]
    ones = np.ones(2)
    assert not leans(texts[0]) and leans(texts[1]) and leans("这很重要") and not leans("Andrew keeps bees.")
    first, second = worth(texts, ones * 3, ones, ones, ones * 0)
    assert 0 < second < first
    assert (worth(texts, ones * -3, ones, ones, ones * 0) == 0).all()
    assert (worth(texts, ones, ones, ones, ones) == 0).all()


def test_a_passage_of_nothing_but_habits_is_not_read(tmp_path):
    (tmp_path / "talks").mkdir()
    for n in range(1, 6):
        (tmp_path / "talks" / f"{n}.md").write_text(f"# Greeting\n\n{GREETING * 40}\n\n# Talk\n\n{talk(n) * 3}")
    book, encoder = open_book(tmp_path / "book"), HashedWords()
    book.add(tmp_path / "talks", encoder=encoder)
    asked = Asked(book, "Welcome back to the show?", encoder, 8_000)
    read = [p.text for group in gather(asked, "passages") for p in group.passages]
    assert read and max(asked.habits.common(text) for text in read) < COMMON
    assert any(asked.habits.common(p.text) > 0.9 for p in book.passages())
