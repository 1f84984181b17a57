"""An index of entries: what it scores is what the formulas say, also after it was written and read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.book.embedder import HashedWords
from openbook.book.faq.entries import Entry, fold
from openbook.book.faq.fit import PRIOR, fit, pseudo_questions
from openbook.book.faq.index import FEATURES, Asked, Index, embedded, texts_of
from openbook.book.faq.knowledge import Knowledge, knowledge_of
from openbook.book.faq.learn import Judgement, named
from openbook.book.faq.pairs import Pair, key
from openbook.book.faq.terms import K1, B, Terms, hashed
from openbook.book.faq.words import parts, stem, words

ENCODER = HashedWords()
WORD = st.sampled_from(
    ["reset", "router", "password", "light", "cable", "refund", "ship", "路由器", "重置", "كلمة", "invoice"]
)
SAID = st.lists(WORD, min_size=1, max_size=8).map(" ".join)
PAIRS = st.lists(
    st.tuples(st.lists(SAID, min_size=1, max_size=3), st.lists(SAID, min_size=1, max_size=3)), min_size=1, max_size=8
)


def pair(number: int, questions: list[str], answer: str) -> Pair:
    return Pair(f"d{number}.csv", "d", tuple(questions), answer, 0, 1, 0, 1, number + 1)


def entries_of(drawn: list[tuple[list[str], list[str]]]) -> list[Entry]:
    return fold([pair(i, questions, ". ".join(said) + ".") for i, (questions, said) in enumerate(drawn)])


def index_of(entries: list[Entry]) -> Index:
    return Index.of(entries, embedded(texts_of(entries), ENCODER), ENCODER.width)


def asked(text: str) -> Asked:
    return Asked.of(text, ENCODER.embed([text])[0])


@settings(max_examples=40, deadline=None)
@given(st.lists(SAID, min_size=1, max_size=6), SAID)
def test_bm25_is_the_formula(texts: list[str], query: str) -> None:
    counted = [Counter(words(text)) for text in texts]
    terms = Terms.of([hashed(words(text)) for text in texts])
    mean = sum(sum(one.values()) for one in counted) / len(texts)

    def idf(word: str) -> float:
        df = sum(word in one for one in counted)
        return math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))

    for row, one in enumerate(counted):
        length = sum(one.values())
        total = sum(
            idf(w) * one[w] * (K1 + 1) / (one[w] + K1 * (1 - B + B * length / mean))
            for w in set(words(query))
            if one[w]
        )
        wanted = total / sum(idf(w) for w in set(words(query)))
        assert terms.scores(hashed(words(query)))[row] == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        assert terms.score(hashed(words(query)), hashed(words(texts[row]))) == pytest.approx(wanted, rel=1e-4, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(SAID, min_size=1, max_size=6))
def test_the_cosine_of_parts_with_itself_is_one(texts: list[str]) -> None:
    terms = Terms.of([hashed(parts(text)) for text in texts], cosine=True)
    for row, text in enumerate(texts):
        scores = terms.scores(hashed(parts(text)))
        assert scores[row] == pytest.approx(1, abs=1e-4) and scores.max() <= 1 + 1e-4
        assert terms.score(hashed(parts(text)), hashed(parts(text))) == pytest.approx(1, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(PAIRS, SAID)
def test_features_of_arrays_are_those_of_the_texts(drawn: list[tuple[list[str], list[str]]], query: str) -> None:
    entries = entries_of(drawn)
    index, question = index_of(entries), asked(query)
    found = index.find(question, PRIOR)
    assert found.entries_C.tolist() == list(range(len(entries)))
    for at, entry in enumerate(entries):
        np.testing.assert_allclose(found.features_CK[at], index.without(question, entry, at), atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(PAIRS, SAID, st.integers(1, 8))
def test_fewer_candidates_are_the_best_by_what_costs_little(
    drawn: list[tuple[list[str], list[str]]], query: str, count: int
) -> None:
    index = index_of(entries_of(drawn))
    every, few = (index.find(asked(query), PRIOR, most) for most in (len(index), count))
    assert len(few.entries_C) == min(count, len(index))
    np.testing.assert_allclose(few.features_CK, every.features_CK[few.entries_C], atol=1e-6)
    cheap_C = every.features_CK @ np.where(np.arange(len(PRIOR)) == 4, 0, PRIOR)
    left = np.setdiff1d(every.entries_C, few.entries_C)
    assert not len(left) or cheap_C[left].max() <= cheap_C[few.entries_C].min() + 1e-4


@settings(max_examples=40, deadline=None)
@given(PAIRS, SAID, st.randoms())
def test_the_order_of_the_pairs_does_not_matter(
    drawn: list[tuple[list[str], list[str]]], query: str, chance: object
) -> None:
    entries = entries_of(drawn)
    turned = list(reversed(entries))
    one, other = (index_of(some).find(asked(query), PRIOR).scores(PRIOR) for some in (entries, turned))
    np.testing.assert_allclose(one, other[::-1], atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(PAIRS)
def test_an_index_is_read_back(drawn: list[tuple[list[str], list[str]]]) -> None:
    entries = entries_of(drawn)
    index = index_of(entries)
    again = Index.from_arrays(index.arrays(), len(entries), ENCODER.width)
    for name, array in index.arrays().items():
        np.testing.assert_array_equal(array, again.arrays()[name])
    with pytest.raises(ValueError, match="fit"):
        Index.from_arrays(index.arrays(), len(entries) + 1, ENCODER.width)
    broken = index.arrays() | {"words.texts_P": index.words.texts_P + 1_000_000}
    with pytest.raises(ValueError, match="fit"):
        Index.from_arrays(broken, len(entries), ENCODER.width)


def test_the_same_answer_is_one_entry_with_all_its_questions() -> None:
    pairs = [pair(0, ["How?", "how"], "So."), pair(1, ["Why?"], "Because."), pair(2, ["In what way?"], "SO!")]
    folded = fold(pairs)
    assert [entry.questions for entry in folded] == [("How?", "In what way?"), ("Why?",)]
    assert folded[0].pairs == (pairs[0], pairs[2])


def test_what_was_judged_last_counts() -> None:
    pairs = [pair(0, ["How?"], "So."), pair(1, ["Why?"], "Because.")]
    judged = [
        Judgement("which way", pairs[0].id, True),
        Judgement("what for", named("how"), False),
        Judgement("which way", pairs[0].id, False),
        Judgement("How?", pairs[0].id, False),
        Judgement("elsewhere", "0" * 16, True),
    ]
    first, second = fold(pairs, judged)
    assert first.questions == ("How?",) and first.rejected == ("which way", "what for")
    assert second == fold(pairs)[1]


def shop() -> list[Entry]:
    things = [
        "router",
        "lamp",
        "phone",
        "printer",
        "camera",
        "clock",
        "kettle",
        "radio",
        "scale",
        "heater",
        "fan",
        "drill",
    ]
    asks = ["How do I clean the {}?", "Where is the warranty of my {}?", "The {} makes a noise", "Can I return the {}?"]
    says = [
        "Wipe the {0} with a dry cloth. Never use water on the {0} while it is hot.",
        "The {0} is covered for two years. Send the receipt of the {0} to our office by post.",
        "A worn bearing makes the {0} loud. Our workshop changes the bearing of the {0} for free.",
        "Yes, the {0} may come back within a month. Keep the box of the {0} and the bill.",
    ]
    drawn = [(ask.format(t), say.format(t)) for t in things for ask, say in zip(asks, says, strict=True)]
    return fold([pair(i, [question], answer) for i, (question, answer) in enumerate(drawn)])


@pytest.fixture(scope="module")
def knowledge() -> Knowledge:
    return knowledge_of(shop(), ENCODER)


def test_a_stored_question_finds_its_answer_and_what_is_foreign_is_less_sure(knowledge: Knowledge) -> None:
    threshold = knowledge.fitted.calibration.threshold
    sure = [knowledge.find(entry.questions[0]) for entry in knowledge.entries]
    assert [found.best.number for found in sure] == list(range(len(knowledge.entries)))
    assert min(found.confidence for found in sure) >= threshold
    for foreign in ("who won the world cup of football", "天气怎么样", "متى يصل القطار"):
        assert knowledge.find(foreign).confidence < threshold


def test_a_mistyped_question_finds_its_answer() -> None:
    """Parts of words do that: neither the words nor this encoder's vectors have anything in common."""
    things = ("camera", "printer", "kettle", "lamp")
    entries = [pair(i, [f"Where is the warranty of my {t}?"], f"Look into box {i}.") for i, t in enumerate(things)]
    assert knowledge_of(fold(entries), Blind()).find("where is teh waranty of my prinetr").best.number == 1


def test_the_threshold_holds_what_it_says_on_pseudo_questions(knowledge: Knowledge) -> None:
    calibration = knowledge.fitted.calibration
    assert calibration.precision >= calibration.wanted == 0.95
    assert 0 < calibration.coverage <= 1 and calibration.asked >= 20
    assert (knowledge.fitted.weights_K >= 0).all()
    confident = [calibration.confidence(score, 1.0) for score in (-1e9, 0.0, 5.0, 1e9)]
    assert confident == sorted(confident) and confident[0] >= 0 and confident[-1] <= 1


def test_fitting_twice_gives_the_same(knowledge: Knowledge) -> None:
    again = fit(knowledge.index, knowledge.entries, ENCODER)
    np.testing.assert_array_equal(again.weights_K, knowledge.fitted.weights_K)
    assert again.calibration == knowledge.fitted.calibration


def test_a_higher_precision_never_covers_more(knowledge: Knowledge) -> None:
    covers = [fit(knowledge.index, knowledge.entries, ENCODER, p).calibration.coverage for p in (0.8, 0.99)]
    assert covers == sorted(covers, reverse=True)


class Blind(HashedWords):
    """An encoder that can read nothing: every text is the same to it."""

    def embed(self, texts: Sequence[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        rows = np.zeros((len(texts), self.width), np.float32)
        rows[:, 0] = 1
        return rows


def test_where_the_encoder_reads_nothing_words_carry_it() -> None:
    drawn = [
        ("如何重置路由器？", "按住按钮十秒钟。指示灯会熄灭以后再松开。"),
        ("怎样取消订单？", "在订单页面点击取消。款项三天内退回。"),
        ("可以开发票吗？", "可以，请填写公司税号。发票会寄到邮箱。"),
        ("快递多久能到？", "一般两到三天。偏远地区需要一周时间。"),
    ]
    blind = knowledge_of(fold([pair(i, [q], a) for i, (q, a) in enumerate(drawn)]), Blind())
    for number, question in enumerate(("路由器怎么重置", "取消订单", "要发票", "几天能收到快递")):
        assert blind.find(question).best.number == number


class Noise(HashedWords):
    """An encoder whose vectors say nothing: drawn anew for every text."""

    def embed(self, texts: Sequence[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        rows = [np.random.default_rng(list(text.encode())).normal(size=self.width) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def test_vectors_that_say_nothing_lose_their_weight() -> None:
    noisy = knowledge_of(shop(), Noise())
    dense = [name.startswith("meaning") for name in FEATURES]
    assert noisy.fitted.weights_K[dense].sum() < PRIOR[dense].sum() / 2
    asked = [entry.questions[0].replace("the ", "").replace("my ", "") for entry in noisy.entries]
    right = sum(noisy.find(question).best.number == at for at, question in enumerate(asked))
    prior = Knowledge(noisy.entries, noisy.index, replace(noisy.fitted, weights_K=PRIOR), noisy.encoder)
    assert right >= sum(prior.find(question).best.number == at for at, question in enumerate(asked))


def test_answers_to_one_question_stand_together() -> None:
    entries = fold(
        [
            pair(0, ["How do I reset the router?"], "Hold the button."),
            pair(1, ["How do I reset the lamp?"], "Router or lamp, reset it."),
            pair(2, ["How do I reset the router?"], "Pull the plug."),
        ]
    )
    found = knowledge_of(entries, ENCODER).find("How do I reset the router?")
    assert [key(match.entry.questions[0]) for match in found.matches[:2]] == ["how do i reset the router"] * 2


@given(st.lists(st.tuples(SAID, SAID), min_size=1, max_size=4))
@settings(max_examples=30)
def test_pseudo_questions_are_not_empty(drawn: list[tuple[str, str]]) -> None:
    entries = fold([pair(i, [q], a) for i, (q, a) in enumerate(drawn)])
    for one in pseudo_questions(entries, np.random.default_rng(0)):
        assert one.text.strip() and 0 <= one.entry < len(entries)


def test_words_of_several_languages() -> None:
    assert words("The users' passwords, resetting") == ["the", "user", "password", "reset"]
    assert [stem(w) for w in ("policies", "stopped", "running", "glass", "bus", "thing", "ring")] == [
        "polic", "stop", "run", "glass", "bus", "thing", "ring",
    ]  # fmt: skip
    assert words("重置 wifi") == ["重", "置", "重置", "wifi"]
    assert words("كَلِمَة \u202bالسر\u202c") == ["كلمة", "السر"]
    assert words("ＷｉＦｉ Ｃａｆé") == ["wifi", "caf"]
    assert words("") == parts("!?") == []


@given(st.text())
def test_any_text_has_words(text: str) -> None:
    assert all(word and word == word.strip() for word in [*words(text), *parts(text)])
