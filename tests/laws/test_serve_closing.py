"""How the server ends: whoever is at work ends in peace, whoever comes is told, and nobody is waited for for ever."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from served import ASKED, babbling, client_of, service_of

from openbook.serve.app import create_app
from openbook.serve.service import Service

httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
CHAT = "/v1/chat/completions"
KEY = "a-key-of-enough-characters"


def until(true: Callable[[], bool]) -> None:
    """Wait for what must come; a minute is for ever."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    return service_of(babbling(), tmp_path)


@contextmanager
def ending(service: Service, drain: float) -> Iterator[tuple[str, Any, threading.Thread]]:
    """A server as the command makes it, its address, and the thread that it runs on: ends by `handle_exit`."""
    from openbook.serve.closing import Server

    listening = socket.create_server(("127.0.0.1", 0))
    app = create_app(service)
    server = Server(uvicorn.Config(app, log_config=None, access_log=False), app.door, drain)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", server, thread
    finally:
        server.should_exit = True
        thread.join(30)


def test_behind_a_closing_door_all_is_refused_and_health_says_so(service: Service) -> None:
    with client_of(service, key=KEY) as client:
        assert client.get("/health").json()["status"] == "ok"
        guard: Any = client.app
        guard.door.closing = True
        health = client.get("/health")
        assert health.status_code == 503 and health.json()["status"] == "closing"
        own = {"authorization": f"Bearer {KEY}"}
        assert client.get("/metrics", headers=own).status_code == 200
        for path in ("/", "/v1/models", "/v1/books/notes/documents", "/openapi.json", "/nothing"):
            told = client.get(path, headers=own)
            assert told.status_code == 503 and int(told.headers["retry-after"]) >= 1
            assert told.headers["connection"] == "close"
            error = told.json()["error"]
            assert error["code"] == "server_is_closing" and error["type"] == "server_error"
        assert client.post(CHAT, json=ASKED, headers=own).status_code == 503
        assert client.post(CHAT, json=ASKED).status_code == 401  # who has no key is told nothing else


def test_who_is_at_work_ends_and_who_comes_meanwhile_is_told(service: Service) -> None:
    with ending(service, drain=600) as (address, server, thread), httpx.Client(base_url=address, timeout=60) as client:
        asked = {**ASKED, "max_tokens": 100, "stream": True, "openbook": {"evidence": False}}
        with client.stream("POST", CHAT, json=asked) as response:
            lines = response.iter_lines()
            next(lines)
            server.handle_exit(signal.SIGTERM, None)
            assert client.get("/health").json()["status"] == "closing"
            late = client.post(CHAT, json=ASKED)
            assert late.status_code == 503 and late.json()["error"]["code"] == "server_is_closing"
            assert [line for line in lines if line][-1] == "data: [DONE]"
        thread.join(60)
        assert not thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")


def test_nobody_is_waited_for_for_ever(service: Service) -> None:
    with ending(service, drain=0.2) as (address, server, thread):
        asked = {**ASKED, "max_tokens": 3_000, "stream": True, "openbook": {"evidence": False}}
        with httpx.stream("POST", f"{address}{CHAT}", json=asked, timeout=60) as response:
            next(response.iter_lines())
            server.handle_exit(signal.SIGTERM, None)
            thread.join(60)
            assert not thread.is_alive()
    assert server._captured_signals == [signal.SIGTERM]  # which uvicorn raises again after its end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_asks_twice_does_not_wait(service: Service, number: int) -> None:
    with ending(service, drain=600) as (address, server, thread):
        asked = {**ASKED, "max_tokens": 3_000, "stream": True, "openbook": {"evidence": False}}
        with httpx.stream("POST", f"{address}{CHAT}", json=asked, timeout=60) as response:
            next(response.iter_lines())
            server.handle_exit(number, None)
            server.handle_exit(number, None)
            thread.join(60)
            assert not thread.is_alive()


def test_a_server_with_nothing_to_do_ends_at_once(service: Service) -> None:
    with ending(service, drain=600) as (address, server, thread):
        until(lambda: server.started)
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        server.handle_exit(signal.SIGTERM, None)
        thread.join(60)
        assert not thread.is_alive()
