"""Uploads of many clients at once: the bytes of all are bounded, and free again when one ends or its client goes."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import babbling, live, service_of

from openbook.serve import adding
from openbook.serve.adding import Room
from openbook.serve.engine import Busy
from openbook.serve.service import Service

httpx = pytest.importorskip("httpx")
LIMIT = 1 << 20
PATH = "/v1/books/notes/documents"


def until(true: Callable[[], bool]) -> None:
    """Wait for what must come; a minute is for ever."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


@given(
    st.integers(0, 50),
    st.lists(
        st.one_of(st.tuples(st.just("begin"), st.integers(0, 60)), st.tuples(st.integers(0, 5), st.integers(0, 60)))
    ),
)
def test_what_is_taken_is_what_the_uploads_under_way_hold(limit: int, steps: list[tuple[Any, int]]) -> None:
    """Uploads begin, bring bytes, end: never more than the limit is held, and nothing when all have ended."""
    room, held = Room(limit), dict[Any, int]()
    with ExitStack() as all_of_them:
        for what, size in steps:
            before = sum(held.values())
            try:
                if what == "begin":
                    take = all_of_them.enter_context(room.upload(size))
                    held[take] = 0
                elif held:
                    take = list(held)[what % len(held)]
                    take(size)
                    held[take] += size
            except Busy:
                assert before + size > limit
            assert room.taken == sum(held.values()) <= limit
    assert room.taken == 0


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    made = Room(adding.AT_ONCE * LIMIT)
    monkeypatch.setattr("openbook.serve.adding.Room", lambda limit: made)
    return made


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    return service_of(babbling(), tmp_path, upload_bytes=LIMIT)


def half_an_upload(address: str, size: int, chunked: bool) -> socket.socket:
    """A client that announces so many bytes, or none, sends them but for the last, and stays."""
    host, port = address.removeprefix("http://").split(":")
    raw = socket.create_connection((host, int(port)))
    begun = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.md"\r\n\r\n'
    body = begun + b"a" * (size - len(begun) - 1)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    head = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n{length}\r\n\r\n"
    raw.sendall(head.encode() + (f"{size:x}\r\n".encode() if chunked else b"") + body)
    return raw


@pytest.mark.parametrize("chunked", [False, True])
def test_what_many_stage_at_once_is_bounded_and_free_when_they_go(service: Service, room: Room, chunked: bool) -> None:
    size = LIMIT * 9 // 10
    with live(service) as address, httpx.Client(base_url=address, timeout=60) as client:
        half = [half_an_upload(address, size, chunked) for _ in range(2)]
        until(lambda: room.taken == 2 * (size - 1))
        small, large = [[("files", ("moon.md", b"The moon. " * times))] for times in (100, 50_000)]
        refused = client.post(PATH, files=large)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert client.post(PATH, files=small).status_code == 200  # what there is room for is taken
        half.pop().close()
        until(lambda: room.taken == size - 1)
        assert client.post(PATH, files=large).status_code == 200
        half.pop().close()
        until(lambda: room.taken == 0)


def test_a_body_that_said_nothing_of_its_length_is_refused_where_there_is_no_room(service: Service, room: Room) -> None:
    room.limit = 1_000
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.md"\r\n\r\n'
    chunks = iter([head, *[b"a" * 100] * 20, b"\r\n--x--\r\n"])
    kind = {"content-type": "multipart/form-data; boundary=x"}
    with live(service) as address, httpx.Client(base_url=address, timeout=60) as client:
        assert client.post(PATH, content=chunks, headers=kind).status_code == 429
        assert room.taken == 0


def test_an_upload_holds_its_room_until_it_is_in_the_book(
    service: Service, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its client has gone: the work goes on, and so do its bytes."""
    received, go = threading.Event(), threading.Event()

    def receive(*given: Any) -> Any:
        received.set()
        go.wait(60)
        raise ValueError("never mind")

    monkeypatch.setattr("openbook.book.uploads.receive", receive)
    with live(service) as address:
        with httpx.stream("POST", f"{address}{PATH}", files=[("files", ("moon.md", b"m" * 1_000))], timeout=60):
            received.wait(60)
        assert room.taken > 1_000
        go.set()
        until(lambda: room.taken == 0)
