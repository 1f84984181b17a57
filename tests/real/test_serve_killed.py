"""kill -9 loses nothing that was acknowledged; SIGTERM lets answers end; keys come from files and are not shown."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from live_server import QUESTION, Server, book_of, needs_models, serving

pytest.importorskip("fastapi", reason="the server needs fastapi")
httpx = pytest.importorskip("httpx", reason="needs httpx")
ASKED: dict[str, Any] = {"model": "openbook", "messages": [{"role": "user", "content": QUESTION}]}


@pytest.fixture
def book(tmp_path: Path) -> Path:
    needs_models()
    return book_of(tmp_path)


def client_of(server: Server, **headers: str) -> Any:
    return httpx.Client(base_url=server.address, timeout=120, headers=headers)


def test_what_was_acknowledged_outlives_kill_9(book: Path) -> None:
    with serving(book) as server, client_of(server) as client:
        number = client.post("/v1/chat/completions", json=ASKED).json()["openbook"]["id"]
        files = [("files", (f"moon-{i}.md", f"# Moon {i}\n\nMoon number {i} is far.\n".encode())) for i in range(3)]
        with client.stream("POST", "/v1/books/notes/documents", files=files) as response:
            for line in response.iter_lines():
                if json.loads(line)["event"] == "done":
                    assert server.end(signal.SIGKILL) == -signal.SIGKILL
                    break
            else:
                pytest.fail("the upload was never done")
    with serving(book) as server, client_of(server) as client:
        names = [d["name"] for d in client.get("/v1/books/notes/documents").json()["data"]]
        assert {"moon-0.md", "moon-1.md", "moon-2.md"} <= set(names)
        assert "Moon number 1" in client.get("/v1/books/notes/documents/moon-1.md").json()["text"]
        hit = client.post("/v1/books/notes/find", json={"query": "Moon number 2", "k": 1}).json()["hits"][0]
        assert hit["document"].startswith("moon-")
        assert client.get(f"/v1/answers/{number}").json()["question"] == QUESTION
        client.post("/v1/books/notes/documents", files=files[:1])
        assert not list((book / "uploads").glob(".staged-*"))  # what the one that was killed left is swept away


def test_sigterm_lets_answers_end(book: Path) -> None:
    with serving(book) as server, client_of(server) as client:
        with client.stream("POST", "/v1/chat/completions", json={**ASKED, "stream": True}) as response:
            lines = response.iter_lines()
            first = next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert first.startswith(("data:", ":")) and rest[-1] == "data: [DONE]"
        told = json.loads(rest[-2].removeprefix("data: "))["openbook"]["answer"]
        assert "Solberg" in told["answer"] and told["id"] == 1
        assert server.process.wait(60) == 0
    assert "".join(server.said).count("Traceback") == 0


def test_the_key_of_a_file_is_asked_for_and_shown_nowhere(book: Path) -> None:
    key = "0123456789abcdef-of-a-file"
    path = book.parent / "key"
    path.write_text(key + "\n")
    with serving(book, "--api-key-file", str(path), "--log") as server:
        with client_of(server) as client:
            assert client.get("/v1/books").status_code == 401 and client.get("/").status_code == 200
        with client_of(server, authorization=f"Bearer {key}") as client:
            assert client.post("/v1/chat/completions", json=ASKED).status_code == 200
        server.end()
    assert "POST /v1/chat/completions 200" in "".join(server.said)
    assert key not in "".join(server.said) and "Solberg" not in "".join(server.said)
    answers = "".join(path.read_text() for path in (book / "answers").glob("*.json"))
    assert key not in answers


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--host", "0.0.0.0"), "other machines"),  # noqa: S104
        (("--api-key-file", "no-such-file"), "cannot be read"),
        (("--model", "no-such-model"), "no-such-model"),
        (("--book", "/etc/hostname"), "is a file"),
    ],
)
def test_what_cannot_be_served_is_one_line(book: Path, options: tuple[str, ...], told: str) -> None:
    with pytest.raises(AssertionError, match=told) as raised, serving(book, *options):
        pass
    assert "Traceback" not in str(raised.value)
