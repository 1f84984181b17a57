"""/v1/chat/completions: streamed = whole; what is asked for is done or refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import ASKED, babbling, client_of, events, service_of


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBOOK_HOME", str(folder / "home"))
        with client_of(service_of(babbling(), folder)) as made:
            yield made


def asked(client: Any, **more: Any) -> Any:
    response = client.post("/v1/chat/completions", json={**ASKED, **more})
    assert response.status_code == 200, response.text
    return events(response.text) if more.get("stream") else response.json()


@pytest.mark.parametrize("model", ["openbook", "openbook:notes", "tiny"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_says_what_the_whole_answer_says(client: Any, model: str, n: int) -> None:
    how = {"model": model, "n": n, "temperature": 0.8 if n > 1 else 0, "seed": 5, "logprobs": True}
    whole, chunks = asked(client, **how), asked(client, **how, stream=True)
    for choice in whole["choices"]:
        mine = [c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == choice["index"]]
        assert "".join(c["delta"].get("content", "") for c in mine) == choice["message"]["content"]
        assert mine[0]["delta"]["role"] == "assistant" and mine[-1]["finish_reason"] == choice["finish_reason"]
        assert mine[-1]["delta"]["annotations"] == choice["message"]["annotations"]
        logprobs = [p for c in mine if c["logprobs"] for p in c["logprobs"]["content"]]
        assert [p["logprob"] for p in logprobs] == [p["logprob"] for p in choice["logprobs"]["content"]]
    assert [c["index"] for c in whole["choices"]] == list(range(n))


def test_the_model_alone_gives_as_many_choices_as_are_asked_for_also_where_it_draws_none(client: Any) -> None:
    choices = asked(client, model="tiny", n=3, temperature=0)["choices"]
    assert [c["index"] for c in choices] == [0, 1, 2]
    assert len({c["message"]["content"] for c in choices}) == 1


def test_every_token_of_a_stream_has_its_evidence(client: Any) -> None:
    chunks = asked(client, stream=True, stream_options={"include_usage": True})
    begun, *written, ended, usage = chunks
    assert {s["kind"] for s in begun["openbook"]["sources"]} == {"passage", "closed_book"}
    assert begun["openbook"]["book"] == ended["openbook"]["answer"]["book"]
    answer = ended["openbook"]["answer"]
    assert [c["openbook"]["token"]["p"] for c in written] == [t["p"] for t in answer["tokens"]]
    for chunk in written:
        assert sum(chunk["openbook"]["token"]["responsibility"].values()) == pytest.approx(1, abs=1e-4)
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == len(answer["tokens"])


def test_the_same_seed_gives_the_same_choices_and_each_its_own(client: Any) -> None:
    how = {"n": 3, "temperature": 1.5, "seed": 11}
    one, two = asked(client, **how), asked(client, **how)
    texts = [[c["message"]["content"] for c in each["choices"]] for each in (one, two)]
    assert texts[0] == texts[1] and len(set(texts[0])) == 3
    alone = asked(client, temperature=1.5, seed=12)
    assert alone["choices"][0]["message"]["content"] == texts[0][1]


def test_the_likeliest_tokens_are_told_in_order(client: Any) -> None:
    made = asked(client, logprobs=True, top_logprobs=4)
    for token in made["choices"][0]["logprobs"]["content"]:
        likely = [one["logprob"] for one in token["top_logprobs"]]
        assert len(likely) == 4 and likely == sorted(likely, reverse=True)
        assert likely[0] == pytest.approx(token["logprob"], abs=1e-5)  # greedy: the likeliest came


def test_an_answer_satisfies_its_schema(client: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "count", "schema": schema}}
    for model in ("openbook", "tiny"):
        made = asked(client, model=model, response_format=form, max_tokens=64)
        assert json.loads(made["choices"][0]["message"]["content"])["n"] in (1, 2)
    short = client.post("/v1/chat/completions", json={**ASKED, "response_format": form, "max_tokens": 2})
    assert short.status_code == 400 and "allow more tokens" in short.json()["error"]["message"]


def test_without_evidence_nothing_of_it_is_sent(client: Any) -> None:
    quiet = {"openbook": {"evidence": False}}
    assert all("openbook" not in chunk for chunk in asked(client, stream=True, **quiet))
    assert set(asked(client, **quiet)["openbook"]) == {"answer_id"}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "image_url"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "last message"),
        ({"openbook": {"persistance": 1}}, "persistance"),
        ({"openbook": {"robust": 1}}, "withstand 1 bad"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"model": "tiny", "openbook": {"passages": 3}}, "passages"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 5}}}}, "schema"),
    ],
)
def test_what_is_not_done_is_refused_by_name(client: Any, wrong: dict[str, Any], told: str) -> None:
    response = client.post("/v1/chat/completions", json={**ASKED, **wrong})
    assert response.status_code == 400
    error = response.json()["error"]
    assert told in error["message"] and error["type"] == "invalid_request_error"


@pytest.mark.parametrize("neutral", [{"tools": None}, {"tools": []}, {"frequency_penalty": 0}, {"logit_bias": {}},
                                     {"user": "u"}, {"stop": []}, {"n": None}, {"store": False}])  # fmt: skip
def test_what_asks_for_nothing_is_taken(client: Any, neutral: dict[str, Any]) -> None:
    assert asked(client, **neutral)["choices"] == asked(client)["choices"]


@pytest.mark.parametrize(
    "missing",
    [{"model": "gpt-4"}, {"model": "openbook:none"}, {"openbook": {"version": 99}}, {"openbook": {"version": "none"}}],
)
def test_what_is_not_here_is_not_found(client: Any, missing: dict[str, Any]) -> None:
    response = client.post("/v1/chat/completions", json={**ASKED, **missing})
    assert response.status_code == 404 and response.json()["error"]["code"].endswith("not_found")
