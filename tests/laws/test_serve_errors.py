"""Errors as OpenAI's API sends them, and what its official client makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import ASKED, babbling, live, service_of

from openbook.errors import Fault
from openbook.serve.engine import Busy, Cancelled
from openbook.serve.errors import Refused, refusal
from openbook.serve.service import Service

openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")
KEY = "a-key-of-enough-characters"
SAYS = {"model": "openbook", "messages": ASKED["messages"]}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    return service_of(babbling(), tmp_path)


@contextmanager
def client_at(address: str, key: str = KEY, **headers: str) -> Iterator[Any]:
    """The official client; `asked` counts the requests it sends."""
    asked: list[Any] = []
    with httpx.Client(event_hooks={"request": [asked.append]}) as plain:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, http_client=plain, default_headers=headers)
        client.asked = asked
        yield client


def test_the_official_client_raises_what_it_raises_at_openai(service: Service) -> None:
    with live(service, key=KEY) as address:
        with client_at(address, key="sk-wrong") as client, pytest.raises(openai.AuthenticationError) as raised:
            client.models.list()
        assert (raised.value.code, raised.value.type) == ("invalid_api_key", "invalid_request_error")
        with client_at(address, Origin="http://evil.example") as client, pytest.raises(openai.PermissionDeniedError):
            client.chat.completions.create(**SAYS)
        with client_at(address) as client:
            with pytest.raises(openai.NotFoundError) as raised:
                client.chat.completions.create(**{**SAYS, "model": "gpt-5"})
            assert (raised.value.code, raised.value.type) == ("model_not_found", "invalid_request_error")
            assert raised.value.param == "model" and "openbook:notes" in raised.value.message
            with pytest.raises(openai.NotFoundError) as raised:
                client.models.retrieve("gpt-5")
            assert raised.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError) as raised:
                client.chat.completions.create(**SAYS, temperature=9)
            assert (raised.value.param, raised.value.type) == ("temperature", "invalid_request_error")
            assert len(client.asked) == 3  # none of them is asked again


def test_a_full_queue_is_a_rate_limit_that_is_asked_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.serve.errors.LATER", {"Retry-After": "0.01"})
    service.engine.queue, service.engine._fits = 0, lambda rows: False  # type: ignore[method-assign]
    with live(service) as address, client_at(address) as client:
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(**SAYS)
        assert (raised.value.code, raised.value.type) == ("rate_limit_exceeded", "requests")
        assert len(client.asked) == 3


def test_what_is_unforeseen_is_the_servers(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("never said")

    monkeypatch.setattr("openbook.serve.models._cards", broken)
    with (
        live(service) as address,
        client_at(address) as client,
        pytest.raises(openai.InternalServerError) as raised,
    ):
        client.with_options(max_retries=0).models.list()
    assert (raised.value.code, raised.value.type) == (None, "server_error")


def test_an_answer_that_takes_too_long_is_not_asked_for_again(service: Service, tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    slow = service_of(babbling(), tmp_path / "slow", seconds=0.01)
    with live(slow) as address, client_at(address) as client:
        with pytest.raises(openai.APIStatusError) as raised:
            client.chat.completions.create(**SAYS, max_tokens=3_000)
        assert raised.value.status_code == 408 and raised.value.code == "timeout" and len(client.asked) == 1
        with pytest.raises(openai.APIError, match="took longer") as raised:
            list(client.chat.completions.create(**SAYS, max_tokens=3_000, stream=True))
        assert raised.value.code == "timeout"


def test_who_waits_no_longer_has_a_timeout_and_one_who_finds_nobody_no_connection(service: Service) -> None:
    with live(service) as address, client_at(address) as client:
        impatient = client.with_options(timeout=0.01, max_retries=0)
        with pytest.raises(openai.APITimeoutError):
            impatient.chat.completions.create(**SAYS, max_tokens=3_000)
    with client_at("http://127.0.0.1:9") as client, pytest.raises(openai.APIConnectionError):
        client.with_options(max_retries=0).models.list()


@given(st.integers(400, 599), st.none() | st.text(max_size=5))
def test_every_error_has_openais_form(status: int, code: str | None) -> None:
    error = Refused(status, "why", code=code).body()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    kinds = {429: "requests"} if status < 500 else {}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    assert error == {"message": "why", "type": kind, "param": None, "code": code}


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [
        (Busy("full"), 429, True),
        (Cancelled("closing"), 503, True),
        (TimeoutError(), 408, False),
        (Fault("wrong"), 400, None),
        (MemoryError(), 503, None),
    ],
)
def test_who_may_ask_again_is_told_when(error: BaseException, status: int, again: bool | None) -> None:
    refused = refusal(error)
    assert refused.status == status
    assert ("Retry-After" in refused.headers) is (again is True)
    assert (refused.headers.get("X-Should-Retry") == "false") is (again is False)
