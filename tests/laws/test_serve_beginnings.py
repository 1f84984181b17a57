"""Chats with the model alone: what another chat began with is not read again, told so, and changes no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from company import facts
from hypothesis import given, settings
from hypothesis import strategies as st
from native_specs import needs_kernels
from served import babbling, client_of, events, service_of

from openbook.answer.answer import Answer
from openbook.answer.chat import tokens_of_chat
from openbook.lm.backends.native import NativeRunner
from openbook.lm.cache.beginnings import BLOCK, Beginnings
from openbook.lm.model import LanguageModel
from openbook.mix.settings import Settings
from openbook.serve.engine import Engine
from openbook.serve.service import Service

pytestmark = needs_kernels
PARAGRAPH = "The comet was seen in June by a team of eleven, over a garden of apple trees. " * 3
HOW = Settings(max_tokens=6)


def natively(model: LanguageModel) -> LanguageModel:
    weights = model.runner.decoder.state_dict().items()  # type: ignore[attr-defined]
    return replace(model, runner=NativeRunner(model.spec, weights, precision="fp32", threads=1))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    return service_of(natively(babbling()), tmp_path)


@pytest.fixture
def client(service: Service) -> Iterator[Any]:
    with client_of(service) as made:
        yield made


def chat(client: Any, *said: str, **more: Any) -> Any:
    roles = ["user", "assistant"]
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
    response = client.post("/v1/chat/completions", json={"model": "tiny", "messages": messages, **more})
    assert response.status_code == 200, response.text
    return events(response.text) if more.get("stream") else response.json()


def cached(made: Any) -> int:
    return int(made["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_the_second_chat_is_told_what_was_kept(client: Any, service: Service) -> None:
    how = {"max_tokens": 6, "temperature": 0}
    first, again = (chat(client, PARAGRAPH + "Who?", **how) for _ in range(2))
    length = first["usage"]["prompt_tokens"]
    assert cached(first) == 0 and length - 2 * BLOCK < cached(again) < length and cached(again) % BLOCK == 0
    assert again["choices"] == first["choices"] and again["usage"]["prompt_tokens"] == length
    other = chat(client, PARAGRAPH + "When?", **how)
    assert len(PARAGRAPH) - BLOCK < cached(other) <= len(PARAGRAPH) + BLOCK
    answer = first["choices"][0]["message"]["content"]
    turn = chat(client, PARAGRAPH + "Who?", answer, "And then?", **how)
    assert cached(turn) >= cached(again) and turn["usage"]["prompt_tokens"] > length
    *_, usage = chat(client, PARAGRAPH + "Who?", stream=True, stream_options={"include_usage": True}, **how)
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": cached(again)}
    told = client.post("/v1/responses", json={"model": "tiny", "input": PARAGRAPH + "Who?", "max_output_tokens": 6})
    assert told.json()["usage"]["input_tokens_details"]["cached_tokens"] == cached(again)
    assert told.json()["usage"]["input_tokens"] == length
    lines = client.get("/metrics").text.splitlines()
    counted = {line.split("{")[0]: int(line.split()[-1]) for line in lines if line.startswith("openbook_engine_")}
    assert counted["openbook_engine_found_tokens_total"] == 3 * cached(again) + cached(other) + cached(turn)
    assert counted["openbook_engine_read_tokens_total"] == service.models[0].beginnings.read_tokens
    assert counted["openbook_engine_kept_bytes"] > 0


def test_several_draws_of_one_prompt_read_it_once(client: Any, service: Service) -> None:
    made = chat(client, PARAGRAPH + "Who?", n=3, temperature=1.0, seed=4, max_tokens=6)
    length, kept = made["usage"]["prompt_tokens"], service.models[0].beginnings
    assert cached(made) == 0 and kept.read_tokens + kept.found_tokens == 3 * length
    assert kept.found_tokens % (2 * BLOCK) == 0 and kept.read_tokens < 2 * length


def test_a_book_keeps_its_own_and_without_room_nothing_is_kept(tmp_path: Path, client: Any, service: Service) -> None:
    asked = {"model": "openbook", "messages": [{"role": "user", "content": "Who led the comet's team?"}]}
    made = client.post("/v1/chat/completions", json=asked).json()
    assert cached(made) == 0 and service.models[0].beginnings.nbytes == 0
    kept = chat(client, PARAGRAPH, max_tokens=6)
    [loaded] = service.models
    service.models = [replace(loaded, beginnings=Beginnings(0))]
    for _ in range(2):
        without = chat(client, PARAGRAPH, max_tokens=6)
        assert cached(without) == 0 and without["choices"] == kept["choices"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=6), st.booleans())
@settings(max_examples=8)
def test_a_conversation_in_company_is_the_conversation_alone(turns: list[tuple[int, int]], room: bool) -> None:
    """All of its evidence, whatever others say at the same time, however much is kept."""
    model, kept = natively(babbling()), Beginnings(1 << 28 if room else 1 << 15)
    said = [
        [{"role": "user", "content": PARAGRAPH[: 40 * many] + f"Question {which}?"}, *(
            [{"role": "assistant", "content": "An answer."}, {"role": "user", "content": "And then?"}] * (which % 2)
        )]
        for many, which in turns
    ]  # fmt: skip

    async def together() -> list[Answer]:
        engine = Engine(model)
        runs = [engine.start(lambda m, s=each: tokens_of_chat(m, s, HOW, kept), 1) for each in said]  # type: ignore[misc]
        return [await run.answer() for run in runs]

    for each, answer in zip(said, asyncio.run(together()), strict=True):
        alone = tokens_of_chat(model, each, HOW)
        while True:
            try:
                next(alone)
            except StopIteration as end:
                assert facts(answer) == facts(end.value)
                break
