"""Who may ask: names of the server, pages of other sites, the key; what a browser is told; what the log says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import ASKED, babbling, client_of, service_of

from openbook.errors import Fault
from openbook.serve import logs, security
from openbook.serve.app import SILENT
from openbook.serve.service import Service

KEY = "a-key-of-enough-characters"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBOOK_HOME", str(folder / "home"))
        yield service_of(babbling(), folder)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("192.168.7.7", 200),  # by its number: no name was pointed here
        ("notes.example", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("localhost@evil.example", 403),
        ("evil.example#localhost", 403),
        ("", 403),
        ("[", 403),
    ],
)
def test_it_answers_to_its_own_names_alone(service: Service, host: str, status: int) -> None:
    with client_of(service, names=["notes.example"]) as client:
        for path in ("/health", "/v1/books", "/"):
            assert client.get(path, headers={"host": host}).status_code == status


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=30))
def test_no_other_name_is_let_in(name: str) -> None:
    guard = security.Guard(None, counts=None)  # type: ignore[arg-type]
    host = f"{name}.evil.example"
    with pytest.raises(Exception, match=r"not called|one Host"):
        guard._check({"type": "http", "path": "/", "method": "GET", "headers": [(b"host", host.encode())]})


def test_two_names_are_none(service: Service) -> None:
    guard = security.Guard(None, counts=None)  # type: ignore[arg-type]
    hosts = [(b"host", b"localhost"), (b"host", b"evil.example")]
    with pytest.raises(Exception, match="one Host"):
        guard._check({"type": "http", "path": "/", "method": "GET", "headers": hosts})


@pytest.mark.parametrize(
    "sent",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://localhost:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_no_page_of_another_site_may_change_anything(service: Service, sent: dict[str, str]) -> None:
    with client_of(service) as client:
        asked = client.post("/v1/chat/completions", json=ASKED, headers=sent)
        assert asked.status_code == 403 and asked.json()["error"]["code"] == "cross_site"
        assert client.delete("/v1/books/notes/documents/notes/comet.md", headers=sent).status_code == 403
        assert client.post("/v1/books/notes/use", json={"version": 0}, headers=sent).status_code == 403
        assert client.get("/v1/books/notes/documents/notes/comet.md").status_code == 200
        assert "access-control-allow-origin" not in asked.headers


def test_its_own_page_may(service: Service) -> None:
    with client_of(service) as client:
        own = {"origin": "http://localhost", "sec-fetch-site": "same-origin"}
        assert client.post("/v1/books/notes/find", json={"query": "comet"}, headers=own).status_code == 200


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic " + KEY, KEY, "Bearer " + KEY[:-1], "Bearer \xe9"])
def test_with_a_key_only_who_has_it_is_answered(service: Service, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given.encode("latin-1")}
    with client_of(service, key=KEY) as client:
        for path in ("/v1/books", "/v1/models", "/metrics", "/v1/answers", "/v1/nothing"):
            refused = client.get(path, headers=headers)
            assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
            assert KEY not in refused.text
            assert client.get(path, headers={"authorization": f"bearer {KEY}"}).status_code in (200, 404)
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.org"])  # noqa: S104
def test_others_are_not_let_in_without_a_key(host: str) -> None:
    with pytest.raises(Fault, match="other machines"):
        security.check_bind(host, None)
    security.check_bind(host, KEY)
    for weak in ("", "short", "x" * 15, "with a line\nbreak in it", "ключ-из-многих-букв"):
        with pytest.raises(Fault, match="printable"):
            security.check_bind(host, weak)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_needs_none(host: str) -> None:
    security.check_bind(host, None)


@pytest.mark.parametrize("path", ["/", "/page.js", "/v1/books", "/nothing", "/health", "/v1/books/none"])
def test_every_answer_tells_the_browser_what_it_may_do(service: Service, path: str) -> None:
    with client_of(service) as client:
        headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert "server" not in headers


def test_the_log_has_no_question_no_name_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    service, secret = service_of(babbling(), tmp_path), "what nobody shall read".replace(" ", "-")
    messages = [{"role": "user", "content": secret}]
    with caplog.at_level(logging.DEBUG, "openbook.serve"), client_of(service, key=KEY) as client:
        own = {"authorization": f"Bearer {KEY}"}
        client.post("/v1/chat/completions", json={**ASKED, "messages": messages}, headers=own)
        client.get(f"/v1/books/notes/documents/{secret}?at={secret}", headers=own)
        client.post("/v1/chat/completions", content=secret, headers=own)
        client.get("/v1/books", headers={"authorization": f"Bearer {secret}"})
    assert "POST /v1/chat/completions 200" in caplog.text
    assert secret not in caplog.text and KEY not in caplog.text


def test_what_nobody_foresaw_is_told_by_its_place_alone(
    service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("the-secret-word")

    monkeypatch.setattr("openbook.serve.models._cards", broken)
    with client_of(service) as client:
        response = client.get("/v1/models")
    assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
    assert "unexpected ValueError at test_serve_guard.py" in caplog.text
    assert "the-secret-word" not in caplog.text + response.text


@pytest.mark.parametrize("name", ["uvicorn.error", "asyncio", "openbook.serve"])
def test_an_exception_is_logged_without_its_message(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {each: logging.getLogger(each).__dict__.copy() for each in ("uvicorn", "asyncio", "openbook.serve")}
    try:
        logs.configure(requests=False)
        try:
            raise ValueError("what somebody asked")
        except ValueError:
            logging.getLogger(name).error("it broke", exc_info=True)
    finally:
        for each, was in kept.items():
            logging.getLogger(each).__dict__.update(was)
    said = capsys.readouterr().err
    assert "it broke" in said and "ValueError at test_serve_guard.py" in said and "somebody" not in said


def test_nothing_is_sent_anywhere() -> None:
    assert set(SILENT.values()) == {False}
