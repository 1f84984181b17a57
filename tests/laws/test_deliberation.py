"""Choosing among whole answers: votes, risk, and what answers cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.answer.deliberation import Deliberation, Said, affordable, answers_of, least_risk, vote
from openbook.answer.seats import Seat
from openbook.errors import Fault
from openbook.lm.decoding.generate import generate
from openbook.lm.decoding.sampling import Sampling

ANSWERS = st.lists(st.text("ab ", max_size=5).map(lambda text: Said("m", text)), max_size=8)


def said(*texts):
    return [Said(f"m{i}", text, tokens=len(text)) for i, text in enumerate(texts)]


def test_a_vote_counts_the_same_words():
    assert vote(said("Lyon", "the Paris.", "paris", "Paris in France")).text == "the Paris."
    assert vote(said("Lyon", "Paris")).text == "Lyon"
    assert vote(said("", " ", "Paris")).text == "Paris"
    assert vote(said("", "...")) is None


def test_least_risk_sees_answers_that_nearly_agree():
    assert least_risk(said("Lyon", "Lyon", "Paris", "in Paris", "Paris France")).text == "Paris"
    assert least_risk(said("")) is None


@given(ANSWERS)
def test_what_is_chosen_was_said_and_says_something(answers):
    for choose in (vote, least_risk):
        chosen = choose(answers)
        assert (chosen is None) == (not any(each.text.strip() for each in answers) or chosen is None)
        assert chosen is None or chosen in answers
        many = choose([*answers, *[Said("x", "winner")] * (len(answers) + 1)])
        assert many.text == "winner"  # more than half say it


def test_what_tokens_buy():
    answers = said("aaaa", "bbbb", "cccc")
    assert [each.text for each in affordable(answers, read=10, tokens=18)] == ["aaaa", "bbbb"]
    assert len(affordable(answers, read=10, tokens=0)) == 1


def test_answers_are_what_the_model_writes_and_are_counted(tiny_model):
    seat = Seat("tiny", tiny_model)
    prompt = seat.prompt("Who?", ())
    way = Sampling(temperature=1.0, seed=5)
    answers, cost = answers_of(seat, "Who?", (), 3, sampling=way, max_tokens=6)
    ways = [Sampling(seed=5), Sampling(temperature=1.0, seed=6), Sampling(temperature=1.0, seed=7)]
    for answer, each in zip(answers, ways, strict=True):
        alone = generate(tiny_model, prompt, sampling=each, max_tokens=6)
        assert answer.text == "".join(piece.text for piece in alone).strip()
    assert cost.read == len(prompt) and cost.written == sum(answer.tokens for answer in answers) <= 18


def test_members_of_a_debate_are_shown_what_the_others_said(tiny_model, monkeypatch):
    asked = []
    told = Seat.prompt
    monkeypatch.setattr(Seat, "prompt", lambda seat, q, p: asked.append((seat.name, q)) or told(seat, q, p))
    debate = Deliberation([Seat("a", tiny_model), Seat("b", tiny_model, "Be brief.")], "Who?", max_tokens=4)
    last = debate.debate(3)
    assert [each.member for each in last] == ["a", "b"] and len(debate.said) == 6
    assert asked[:2] == [("a", "Who?"), ("b", "Who?")]
    assert all("Others answered: " in question for _, question in asked[2:])
    assert debate.cost.tokens == debate.cost.read + debate.cost.written > 0
    facts = debate.to_dict("debate", last[0])
    assert facts["chosen"] == "a" and len(facts["answers"]) == 6


def test_nobody_asked_nothing_is_refused(tiny_model):
    for seats, question in (([], "Who?"), ([Seat("a", tiny_model)], " ")):
        with pytest.raises(Fault, match="needs a member"):
            Deliberation(seats, question)
