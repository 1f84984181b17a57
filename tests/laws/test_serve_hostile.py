"""The server under those who mean it ill: strange JSON, paths, names, lengths and clients that dawdle. Nothing of it is
a fault of the server's (5xx), and nobody else waits for it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from served import ASKED, babbling, client_of, service_of

from openbook.serve import exchange, wire
from openbook.serve.app import create_app
from openbook.serve.service import Service

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBOOK_HOME", str(folder / "home"))
        yield service_of(babbling(), folder)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Any]:
    with client_of(service) as client:
        yield client


def chat(**more: Any) -> dict[str, Any]:
    return {**ASKED, **more}


def schema(of: Any) -> dict[str, Any]:
    return chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": of}})


def deep(depth: int, inside: str = "1") -> str:
    return '{"a":' * depth + inside + "}" * depth


QUESTION = '{"model":"openbook","messages":[{"role":"user","content":"x"}],'
BODIES = {
    "not a number": QUESTION + '"temperature":NaN}',
    "infinite": QUESTION + '"temperature":1e999}',
    "a number too long to read": QUESTION + '"seed":' + "9" * 5_000 + "}",
    "a long number": QUESTION + '"openbook":{"version":' + "9" * 4_000 + "}}",
    "nested": deep(100_000),
    "nested just so": QUESTION + '"metadata":' + deep(900) + "}",
    "a nested schema": QUESTION
    + '"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":'
    + deep(900)
    + "}}}",
    "half a character": QUESTION + '"stop":"\\ud800"}',
    "half a character as a key": QUESTION + '"\\ud800":1}',
    "half a character asked": json.dumps(chat(messages=[{"role": "user", "content": "\ud800"}])),
    "two models": '{"model":"openbook","model":"x"}',
    "no object": "7",
    "nothing": "",
    "control characters": json.dumps(chat(messages=[{"role": "user", "content": "\0\x1b[2J\u202e"}])),
    "a template's own marks": json.dumps(chat(messages=[{"role": "user", "content": "<|im_end|>{{7*7}}{% for %}"}])),
    "long": json.dumps(chat(messages=[{"role": "user", "content": "who " * 20_000}], openbook={"way": "auto"})),
    "an expression that doubles": json.dumps(chat(openbook={"regex": "(a+)+" * 1_000})),
    "an expression in brackets": json.dumps(chat(openbook={"regex": "(" * 5_000 + "a" + ")" * 5_000})),
    "an expression that counts": json.dumps(chat(openbook={"regex": "((a{1,999}){1,999}){1,999}"})),
    "a schema in a circle": json.dumps(schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})),
    "a schema elsewhere": json.dumps(schema({"$ref": "http://127.0.0.1:9/x"})),
    "a schema of many": json.dumps(
        schema({"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {}}} for j in range(30)]} for i in range(30)]})
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_no_body_is_a_fault_of_the_server(client: Any, name: str) -> None:
    answer = client.post(CHAT, content=BODIES[name].encode("utf-8", "surrogatepass"), headers=JSON)
    assert answer.status_code in (200, 400, 404, 422), answer.text[:300]
    assert answer.status_code == 200 or answer.json()["error"]["message"]


NAMES = [
    "\0",
    "../../etc/passwd",
    "/etc/passwd",
    "a' OR 1=1--",
    "\r\nSet-Cookie: a=b",
    "x" * 3_000,
    "😀",
    "%2e%2e",
    "notes/comet.md\0",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_document_leads_anywhere(client: Any, name: str) -> None:
    for method, path in (
        ("GET", f"/v1/books/notes/documents/{quote(name, safe='')}"),
        ("DELETE", f"/v1/books/notes/documents/{quote(name, safe='')}"),
        ("GET", f"/v1/books/notes/pages/1?document={quote(name, safe='')}"),
        ("GET", f"/v1/books/notes/documents?at={quote(name[:200], safe='')}"),
        ("GET", f"/v1/books/{quote(name, safe='')}"),
    ):
        answer = client.request(method, path)
        assert answer.status_code in (400, 404), (method, path, answer.status_code)
        assert "set-cookie" not in answer.headers and "root:" not in answer.text
    assert len(client.get("/v1/books/notes/documents").json()["data"]) == 2


@settings(max_examples=150)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(
        [
            "model",
            "messages",
            "stop",
            "n",
            "seed",
            "stream",
            "openbook",
            "response_format",
            "logprobs",
            "metadata",
            "top_p",
        ]
    ),
    st.sampled_from([CHAT, "/v1/responses", "/v1/embeddings", "/v1/books/notes/find", "/v1/books/notes/use"]),
)
def test_drawn_bodies_are_answered_or_refused(client: Any, value: Any, name: str, path: str) -> None:
    body = json.dumps({**(ASKED if path == CHAT else {"query": "comet"}), name: value})
    answer = client.post(path, content=body.encode("utf-8", "surrogatepass"), headers=JSON)
    assert answer.status_code < 500, (body, answer.text[:300])


def test_uploads_stay_in_the_book_under_any_name(service: Service, folder: Path) -> None:
    before = {path for path in folder.rglob("*") if "notes.book" not in path.parts}
    names = [
        "../../x.md",
        "/etc/cron.d/x",
        "a\r\nb.md",
        "\\\\host\\x.md",
        ".hidden",
        "CON",
        "a" * 3_000 + ".md",
        "x/../../y.md",
    ]
    with client_of(service) as client:
        files = [("files", (name, f"Words of file {n}.".encode(), "text/plain")) for n, name in enumerate(names)]
        files.append(("files", ("bomb.pdf", b"%PDF-1.4 nothing", "application/pdf")))
        done = client.post("/v1/books/notes/documents", files=files, headers={"accept": "application/json"}).json()
        assert done["added"]["documents"] == len(names)
        assert [row["name"] for row in done["added"]["skipped"]] == ["bomb.pdf"]
        for row in client.get("/v1/books/notes/documents").json()["data"]:
            assert not row["name"].startswith(("/", ".")) and ".." not in row["name"].split("/")
    assert {path for path in folder.rglob("*") if "notes.book" not in path.parts} == before


def test_a_request_has_one_length(client: Any) -> None:
    sent = {**JSON, "content-length": "5", "transfer-encoding": "chunked"}
    answer = client.post(CHAT, content=b"{}", headers=sent)
    assert answer.status_code == 400 and answer.headers["connection"] == "close"


def test_slow_work_on_a_book_holds_up_nobody_else(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty ask for a graph that takes long: each would wait in a thread of the few there are."""
    go = threading.Event()
    shelved = service.shelf.named("notes")
    monkeypatch.setattr(shelved, "graph", lambda book, *told: go.wait(20) and book.graph())
    app = create_app(service)

    async def run() -> None:
        address = "http://localhost"
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=address, timeout=60) as client:
            waiting = [asyncio.create_task(client.get("/v1/books/notes/graph")) for _ in range(20)]
            waiting += [
                asyncio.create_task(client.post("/v1/books/notes/find", json={"query": "comet", "by": "graph"}))
                for _ in range(20)
            ]
            await asyncio.sleep(0.3)
            try:
                quick = await asyncio.wait_for(client.get("/v1/books/notes/documents"), 10)
                assert quick.status_code == 200
            finally:
                go.set()
            for done in await asyncio.gather(*waiting):
                assert done.status_code < 500

    asyncio.run(run())


def test_a_body_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part comes soon enough; together they are too slow."""
    monkeypatch.setattr(exchange, "LEAST_RATE", 1_000)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> int:
        one = exchange.Exchange({"type": "http", "headers": []}, receive, send, {}, idle=0.3)
        parts = 0
        try:
            while parts < 100:
                await one.receive()
                parts += 1
        except TimeoutError as error:
            await one.failed(error)
        return parts

    parts = asyncio.run(run())
    assert 1 <= parts < 20 and sent[0]["status"] == 408


async def _serving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await asyncio.sleep(0.6)  # longer than a head may take
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    monkeypatch.setattr(wire, "HEAD_SECONDS", 0.3)
    settings = uvicorn.Config(app, http=wire.Prompt, port=0, log_config=None, ws="none", lifespan="off")
    server = uvicorn.Server(settings)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


@pytest.mark.parametrize("begun", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch, begun: bytes) -> None:
    async def run() -> None:
        async for port in _serving(monkeypatch):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()

    asyncio.run(run())


def test_a_request_may_take_its_time_once_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async for port in _serving(monkeypatch):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(2):  # the second on the same connection
                writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await asyncio.wait_for(reader.readuntil(b"ok"), 10)).startswith(b"HTTP/1.1 200")
            writer.close()

    asyncio.run(run())


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in memory until it is read, and a document may be tens of megabytes."""
    monkeypatch.setattr(wire, "UNREAD_SECONDS", 0.5)
    lost = asyncio.Event()

    class Watched(wire.Prompt):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.set()
            super().connection_lost(exc)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"50000000")]})
        await send({"type": "http.response.body", "body": b"x" * 50_000_000})

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            wire.bound_unread(listening)
            how = uvicorn.Config(app, http=Watched, log_config=None, ws="none", lifespan="off")
            server = uvicorn.Server(how)
            task = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.started:
                await asyncio.sleep(0.01)
            with socket.create_connection(listening.getsockname()) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                await asyncio.wait_for(lost.wait(), 30)
            server.should_exit = True
            await task

    asyncio.run(run())
