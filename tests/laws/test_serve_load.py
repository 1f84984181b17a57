"""Many at once: versions do not mix within an answer, a full queue says so, who leaves frees its place, limits hold."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served import ASKED, ENCODER, babbling, client_of, live, service_of

from openbook.book.store import Book, open_book
from openbook.lm.backends.shared import Seat
from openbook.serve.service import Service

httpx = pytest.importorskip("httpx")
LONG = {**ASKED, "max_tokens": 3_000, "openbook": {"evidence": False}}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    yield service_of(babbling(), tmp_path)


def until(true: Callable[[], bool]) -> None:
    """Wait for what must come; a minute is for ever."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def gauge(client: Any, name: str) -> int:
    return int(re.search(rf"^{name}{{[^}}]*}} (\d+)", client.get("/metrics").text, re.MULTILINE)[1])  # type: ignore[index]


def test_an_answer_is_of_one_version_whatever_happens_meanwhile(service: Service, tmp_path: Path) -> None:
    service.engine.queue = 100
    book = open_book(tmp_path / "notes.book")
    told = {book.version: "Lindqvist"}
    (tmp_path / "notes" / "comet.md").write_text("# The comet\n\nThe comet's team was led by Ada Brenner.\n")
    book.add(tmp_path / "notes", encoder=ENCODER)
    told[book.version] = "Brenner"
    versions = list(told)

    with live(service) as address, httpx.Client(base_url=address, timeout=60) as client:
        asking = [True]

        def swap() -> None:
            turn = 0
            while asking[0]:
                used = client.post("/v1/books/notes/use", json={"version": versions[turn % 2]}).json()
                told.setdefault(used["version"], told[versions[turn % 2]])
                turn += 1

        def ask(seed: int) -> Any:
            response = client.post("/v1/chat/completions", json={**ASKED, "seed": seed, "stream": seed % 2 == 0})
            assert response.status_code == 200, response.text
            if seed % 2:
                return response.json()["openbook"]
            lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
            first, *_, last = [json.loads(line)["openbook"] for line in lines]
            assert first["book"]["version"] == last["answer"]["book"]["version"]
            assert [s["text"] for s in first["sources"][:-1]] == [s["text"] for s in last["answer"]["sources"][:-1]]
            return last["answer"]

        with ThreadPoolExecutor(5) as pool:
            swapping = pool.submit(swap)
            given = list(pool.map(ask, range(24)))
            asking[0] = False
            swapping.result()
    for answer in given:
        led = next(s["text"] for s in answer["sources"] if s.get("document") == "notes/comet.md")
        version = answer["book"]["version"]
        assert told[version] in led, (version, led)
    assert len({answer["book"]["version"] for answer in given}) > 1


def test_who_names_a_version_is_given_it_though_another_becomes_live(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelved, book = service.shelf.named(), open_book(tmp_path / "notes.book")
    first = book.version
    named = book.use(0)

    def opened(path: Path, at: int | None = None) -> Book:
        if at is None and book.version == named:
            book.use(first)  # somebody writes between the look at what is live and the opening of it
        return Book(path, at)

    monkeypatch.setattr("openbook.book.store.Book", opened)
    assert shelved.at(named).version == named
    assert shelved.at().version == book.version > named


def test_a_full_queue_says_so_and_who_leaves_frees_its_place(service: Service) -> None:
    with live(service) as address, httpx.Client(base_url=address, timeout=60) as client:
        streams = []
        for _ in range(6):  # four have room to run (3 rows each of 12), two may wait
            stream = client.stream("POST", "/v1/chat/completions", json={**LONG, "stream": True})
            streams.append((stream, stream.__enter__()))
        assert [response.status_code for _, response in streams] == [200] * 6
        until(lambda: gauge(client, "openbook_engine_waiting") == 2)
        full = client.post("/v1/chat/completions", json=LONG)
        assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
        assert full.json()["error"]["code"] == "rate_limit_exceeded"
        for stream, _ in streams:
            stream.__exit__(None, None, None)  # they go away in the middle
        until(lambda: gauge(client, "openbook_engine_running") == 0 == gauge(client, "openbook_engine_waiting"))
        assert gauge(client, "openbook_engine_rows") == 0
        assert client.post("/v1/chat/completions", json=ASKED).status_code == 200


def test_who_hangs_up_on_a_whole_answer_frees_its_place_too(service: Service) -> None:
    with live(service) as address, httpx.Client(base_url=address, timeout=60) as client:
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps(LONG).encode()
        with socket.create_connection((host, int(port))) as raw:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: gauge(client, "openbook_engine_running") == 1)
        until(lambda: gauge(client, "openbook_engine_running") == 0)


def test_who_leaves_while_another_reads_the_same_passage_frees_its_place(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, waiting, go = threading.Event(), threading.Event(), threading.Event()
    read, stay = Seat.prefill, Seat.stay

    def slowly(seat: Seat, text: Any) -> Any:
        reading.set()
        go.wait(60)
        return read(seat, text)

    def patiently(seat: Seat) -> None:
        if reading.is_set():
            waiting.set()
        stay(seat)

    monkeypatch.setattr(Seat, "prefill", slowly)
    monkeypatch.setattr(Seat, "stay", patiently)
    with live(service) as address, httpx.Client(base_url=address, timeout=60) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/chat/completions", json=ASKED)
        reading.wait(60)
        with client.stream("POST", "/v1/chat/completions", json={**ASKED, "stream": True}):
            waiting.wait(60)
            assert gauge(client, "openbook_engine_running") == 2
        until(lambda: gauge(client, "openbook_engine_running") == 1)  # the other still reads
        go.set()
        assert first.result().status_code == 200


def test_an_answer_that_takes_too_long_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    with client_of(service_of(babbling(), tmp_path, seconds=0.01)) as client:
        whole = client.post("/v1/chat/completions", json=LONG)
        assert whole.status_code == 408 and whole.json()["error"]["code"] == "timeout"
        lines = client.post("/v1/chat/completions", json={**LONG, "stream": True}).text.strip().splitlines()
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        until(lambda: gauge(client, "openbook_engine_running") == 0)


def test_a_body_that_stops_is_given_up(service: Service) -> None:
    with live(service, idle=0.1) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            answer = ""
            while "}}" not in answer and (more := raw.recv(1 << 16)):  # head and body may come apart
                answer += more.decode()
    assert answer.startswith("HTTP/1.1 408") and "did not go on" in answer


def test_forgetting_under_readers_leaves_nothing(service: Service, tmp_path: Path) -> None:
    service.engine.queue = 100
    secret = b"purple elephants of Halvorsen"
    with live(service) as address, httpx.Client(base_url=address, timeout=60) as client:
        asking, statuses = [True], set()
        question = {**ASKED, "messages": [{"role": "user", "content": "Who saw the purple elephants?"}]}

        def ask(seed: int) -> None:
            while asking[0]:
                response = client.post("/v1/chat/completions", json={**question, "seed": seed})
                statuses.add((response.status_code, response.json().get("error", {}).get("code")))

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, seed) for seed in range(4)]
            for number in range(4):
                text = f"# Number {number}\n\nThe {secret.decode()} were seen by number {number}.\n".encode()
                added = client.post("/v1/books/notes/documents", files=[("files", ("secret.md", text))])
                assert added.status_code == 200 and '"done"' in added.text
                told = client.delete("/v1/books/notes/documents/secret.md")
                assert told.status_code == 200 and told.json()["documents"] == ["secret.md"]
            asking[0] = False
            for each in asked:
                each.result()
        assert statuses <= {(200, None), (409, "version_gone"), (404, "version_not_found")}
        until(lambda: gauge(client, "openbook_engine_running") == 0)
    for path in (tmp_path / "notes.book").rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path


def test_no_file_is_held_for_a_page_that_waits_to_be_drawn(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    service.drawing = asyncio.Semaphore(1)

    def original(book: Book, name: str) -> None:
        held.append(service.drawing.locked())

    monkeypatch.setattr("openbook.book.uploads.original", original)
    with client_of(service) as client:
        assert client.get("/v1/books/notes/pages/1?document=notes/comet.md").json()["error"]["code"] == "original_gone"
    assert held == [True] and not service.drawing.locked()


def test_a_full_disk_is_said_and_nothing_stays_of_the_upload(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("openbook.serve.adding.shutil.copyfileobj", full)
    with client_of(service) as client:
        told = client.post("/v1/books/notes/documents", files=[("files", ("moon.md", b"The moon is far."))])
    assert told.status_code == 507 and told.json()["error"]["code"] == "disk_full"
    assert not list((tmp_path / "notes.book" / "uploads").iterdir())


def test_a_stream_that_the_server_ends_as_it_closes_says_so(service: Service) -> None:
    with (
        live(service) as address,
        httpx.stream("POST", f"{address}/v1/chat/completions", json={**LONG, "stream": True}, timeout=60) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        for run in service.engine._all():
            run.cancel()  # as `drain` does
        last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_is_closing"
