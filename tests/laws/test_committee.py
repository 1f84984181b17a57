"""Law 8: a Bayesian mixture of K members costs at most log2 K bits more than its best member."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openbook.answer.committee import Together, write_together
from openbook.answer.history import keep
from openbook.answer.html import render_html
from openbook.answer.page.reading import read as page
from openbook.answer.seats import CLOSED, Passage, Seat
from openbook.cli import committee as command
from openbook.cli import main
from openbook.cli.output import out
from openbook.errors import Fault
from openbook.lm.decoding.bytewise import END
from openbook.lm.decoding.sampling import Sampling
from openbook.mix.decode import Step
from openbook.mix.evidence import Evidence
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.source import Label
from openbook.mix.sources.member import ByteText, BytewiseMember, Members, common_vocabulary
from openbook.mix.weights import normalise

SHARED_FIXTURE = [HealthCheck.function_scoped_fixture]


def forced(mixture: Mixture, text) -> Evidence:
    """The evidence of a text that is given."""
    steps = []
    for token in text:
        steps.append(Step(token, float(mixture.distribution()[token]), mixture.log_p_of(token), mixture.log_w_S, None))
        mixture.advance(token)
    return Evidence.of(mixture.labels, mixture.weights, steps)


def costs_no_more_than_allowed(evidence: Evidence) -> None:
    """−log2 p_mix(text) ≤ min over s of −log2 p_s(text) − log2 w_s; the mixture is Σ_s w_s p_s(text)."""
    prior_S, whole = evidence.weights.log_prior_S, float(evidence.log_mix_T.sum())
    assert -whole <= float((-evidence.sufficiency_S - prior_S).min()) + 1e-9
    assert whole == pytest.approx(float(np.logaddexp.reduce(prior_S + evidence.sufficiency_S)), abs=1e-9)


def even(count: int) -> Weights:
    return Weights(normalise(np.zeros(count)), tau=1.0)


@given(st.data(), st.integers(1, 6), st.integers(2, 5), st.sampled_from([0.3, 3.0, 30.0]))
def test_drawn_members_under_drawn_priors(data, members, vocabulary, sharp):
    """Whatever members say of whatever text, also where one calls a token of it impossible."""
    generator = np.random.default_rng(data.draw(st.integers(0, 9999)))
    logits_TSV = sharp * generator.normal(size=(8, members, vocabulary))
    if data.draw(st.booleans()) and members > 1:
        logits_TSV[3, 0, 0] = -np.inf
    log_p_TSV = logits_TSV - np.logaddexp.reduce(logits_TSV, axis=2, keepdims=True)
    text = generator.integers(vocabulary, size=8)
    log_p_TS = log_p_TSV[np.arange(8), :, text]
    weights = Weights(normalise(np.log(generator.dirichlet(np.ones(members)) + 1e-9)), tau=1.0)
    so_far = np.vstack([np.zeros(members), log_p_TS.cumsum(axis=0)[:-1]])
    log_w_TS = np.array([weights.at(log_likelihood_S) for log_likelihood_S in so_far])
    labels = [Label(f"m{s}", "model") for s in range(members)]
    costs_no_more_than_allowed(Evidence(tuple(labels), weights, log_p_TS, log_w_TS))


@given(st.lists(st.integers(0, 255), min_size=1, max_size=12), st.integers(1, 3))
@settings(max_examples=8, suppress_health_check=SHARED_FIXTURE)
def test_real_members_of_one_vocabulary(tiny_model, text, count):
    prompts = [list(range(3, 4 + 2 * s)) for s in range(count)]
    labels = [Label(f"m{s}", "model") for s in range(count)]
    evidence = forced(Mixture([Members(tiny_model, prompts, labels, 16)], even(count)), text)
    costs_no_more_than_allowed(evidence)
    for s, prompt in enumerate(prompts):  # each row is the model on its own prompt
        log_p_TV = tiny_model.runner.forward(torch.tensor([prompt + text])).log_softmax(-1)[0, len(prompt) - 1 :]
        expected = [float(log_p_TV[t, token]) for t, token in enumerate(text)]
        np.testing.assert_allclose(evidence.log_p_TS[:, s], expected, atol=1e-4)


@given(st.text("the and é", min_size=1, max_size=10))
@settings(max_examples=6, suppress_health_check=SHARED_FIXTURE)
def test_real_members_of_two_vocabularies(tiny_model, merging_model, text):
    sources = [
        BytewiseMember.of(model, [3, 5], Label(model.name, "model"), 32) for model in (tiny_model, merging_model)
    ]
    evidence = forced(Mixture(sources, even(2)), [*text.encode(), END])
    costs_no_more_than_allowed(evidence)
    assert -evidence.log_mix_T.sum() / math.log(2) <= -evidence.sufficiency_S.max() / math.log(2) + 1 + 1e-9


def test_one_member_many_times_is_the_member(tiny_model):
    labels = [Label(f"m{s}", "model") for s in range(3)]
    once = Mixture([Members(tiny_model, [[3, 4]], labels[:1], 8)], even(1))
    thrice = Mixture([Members(tiny_model, [[3, 4]] * 3, labels, 8)], even(3))
    for token in (7, 90, 4):
        torch.testing.assert_close(once.distribution(), thrice.distribution(), atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(np.exp(thrice.log_w_S), 1 / 3, atol=1e-6)
        once.advance(token)
        thrice.advance(token)


def test_vocabularies_that_differ_are_refused_by_name(tiny_model, merging_model):
    assert common_vocabulary([tiny_model, replace(tiny_model, name="again")]) == tiny_model.tokenizer.vocabulary
    with pytest.raises(Fault, match=r"tiny has 259 tokens, other has 263; mix them over bytes"):
        common_vocabulary([tiny_model, merging_model])
    with pytest.raises(Fault, match="over bytes"):
        write_together(Together([Seat("a", tiny_model), Seat("b", merging_model)], "Who?", how="tokens"))


def test_beams_part_as_rows_do(tiny_model):
    labels = [Label("a", "model"), Label("b", "model")]
    made = [Members(tiny_model, [[3, 4], [9]], labels, 8) for _ in range(2)]
    for source in made:
        source.start()
    forked = made[0].step_beams([0, 0], [5, 6])
    assert forked.shape[:2] == (2, 2)
    torch.testing.assert_close(forked[0], made[1].step(5), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", ["tokens", "bytes"])
def test_a_committee_writes_and_accounts_for_every_piece(tiny_model, how):
    seats = [Seat("plain", tiny_model), Seat("told", tiny_model, "Be brief.")]
    passages = (Passage("p1", "A comet.", 0.7), Passage("p2", "Moss.", 0.3))
    sampling = Sampling(temperature=6.0, seed=2)
    facts = write_together(Together(seats, "Who?", passages, how, sampling, 6)).to_dict()
    assert facts["how"] == how and facts["tokens"] and facts["answer"]
    assert [member["id"] for member in facts["sources"]] == ["plain/p1", "plain/p2", "told/p1", "told/p2"]
    for token in facts["tokens"]:
        assert sum(token["responsibility"].values()) == pytest.approx(1)
        assert token["lower"] <= token["p"] * (1 + 1e-6) and token["p"] <= token["upper"] * (1 + 1e-6)
    assert facts["bits"]["mixture"] <= facts["bits"]["allowed"] + 1e-6
    assert all(token["text"] == facts["answer"][slice(*token["span"])] for token in facts["tokens"])
    assert "".join(token["text"] for token in facts["tokens"]) == facts["answer"]
    again = write_together(Together(seats, "Who?", passages, how, sampling, 6)).to_dict()
    assert again == facts  # the same seed, the same answer


@pytest.mark.parametrize("read", [True, False])
def test_why_and_the_page_show_members_as_sources(tiny_model, tmp_path, monkeypatch, capsys, read):
    """An answer of a committee is kept as any other: each word in the colour of the member that gave it most."""
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    passages = (Passage("p1", "A comet.", 0.7, "n/comet.md", None, 3), Passage("p2", "Moss.", 0.3, "moss.pdf", 2, 1))
    seats = [Seat("org/plain", tiny_model), Seat("told", tiny_model, "Be brief.")]
    together = Together(seats, "Who?", passages if read else (), sampling=Sampling(6.0, seed=2), max_tokens=20)
    together.book = {"path": str(tmp_path), "version": 0}
    write_together(together)
    reading = page(together.to_dict())
    places = ["n/comet.md, line 3", "moss.pdf, page 2"] if read else [""]
    assert [(s.name, s.place) for s in reading.sources] == [(seat.name, at) for seat in seats for at in places]
    assert all(piece.level >= 2 for piece in reading.pieces if piece.share >= 0.25) and reading.committee
    assert reading.draft
    assert "which member it comes from" in render_html(together.to_dict())
    (tmp_path / "versions").mkdir()
    for name in ("HEAD", "versions/000000.json"):
        (tmp_path / name).write_text("")
    keep(tmp_path, together.to_dict())
    assert main(["why", "--book", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "org/plain" in shown and (not read or "moss.pdf, page 2" in shown)
    assert main(["why", "--replay", "--book", str(tmp_path)]) == 1
    assert "does not say how its model ran" in capsys.readouterr().err


def test_members_have_names_of_their_own(monkeypatch):
    monkeypatch.setattr(command, "_model", lambda config, name: name)
    named = ["a~2.gguf", "a.gguf", "a.gguf=Be brief.", "b/a.gguf", "smollm2-1.7b", "http://h/v1#org/m.v1", "x/.gguf"]
    seats = command.seats_of(None, named)
    assert [seat.name for seat in seats] == ["a~2", "a", "a~3", "a~4", "smollm2-1.7b", "org/m.v1", "x/.gguf"]
    assert seats[1].model is seats[2].model


def test_a_member_with_a_slash_in_its_name_has_its_share(tiny_model, capsys):
    together = write_together(Together([Seat("org/m", tiny_model)], "Who?", max_tokens=2))
    command._under(out(), together)
    assert "org/m" in (shown := capsys.readouterr().out) and "100% of the answer, weight now 100%" in shown


def test_a_piece_weighs_its_members_as_they_stand_after_it(tiny_model):
    """Under τ = 1 the responsibility of a run is the posterior: exact, whatever the run's length."""
    together = Together([Seat("a", tiny_model), Seat("b", tiny_model, "Be brief.")], "Who?", how="bytes", max_tokens=8)
    write_together(together)
    for piece, after in zip(together.pieces, together.pieces[1:], strict=False):
        np.testing.assert_allclose(piece.share_S, np.exp(after.log_w_S), atol=1e-9)


def test_a_model_without_a_template_goes_on_after_its_space(merging_model):
    """After "Answer:" comes a space, which is no part of the answer: its distribution is the one after that."""
    prompt = Seat("other", merging_model).prompt("Who?", ())
    member = BytewiseMember.of(merging_model, prompt, Label("other", "model"), 8)
    assert bytes(member.bytewise._text) == b" "
    assert CLOSED.system in merging_model.tokenizer.decode(prompt)


@pytest.mark.parametrize(
    ("names", "question", "message"),
    [([], "Who?", "needs a member"), (["a"], " ", "empty"), (["a", "a"], "Who?", "one name")],
)
def test_what_is_no_committee_is_refused(tiny_model, names, question, message):
    with pytest.raises(Fault, match=message):
        Together([Seat(name, tiny_model) for name in names], question)


def test_bytes_are_spelled_as_text():
    text, stream = ByteText(), ByteText().stream()
    assert [stream.push(b) for b in "né".encode()] == ["n", "", "é"]
    assert stream.push(0xC3) == "" and stream.pending
    fork = stream.fork()
    assert fork.push(0xA9) == "é" and stream.flush() == "\ufffd"
    assert text.decode([*"é".encode(), END]) == "é"
