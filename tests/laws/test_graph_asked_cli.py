"""The command that has names extracted by a model: here, on a server that answers in any way, and not at all."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from forgettable import ENCODER
from test_graph import book_of

from openbook.book import open_book
from openbook.book.graph import open_graph
from openbook.book.graph.asking import chosen
from openbook.book.graph.stored import FOLDER
from openbook.cli import main

TEXTS = {"a": "Ada Quill met Boris Thorn in Northport.", "b": "Clara Finch sings in Eastvale."}


@pytest.fixture
def book(tmp_path: Path, tiny_model, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(
        "openbook.cli.graph.open_for", lambda config, docs, at: (open_book(config.book, at=at), ENCODER)
    )
    monkeypatch.setattr("openbook.cli.options.model_of", lambda config, name: tiny_model)
    monkeypatch.setattr("openbook.cli.models.here", lambda name: name)
    return str(book_of(tmp_path, **TEXTS).path)


class Server(BaseHTTPRequestHandler):
    """Answers each text with the names in it that it knows, in a form that `form` says."""

    form = "json"
    seen: ClassVar[list[dict]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen.append(asked)
        if self.form == "old" and "response_format" in asked:
            self.reply({"error": "response_format is not known"}, 400)
            return
        text = asked["messages"][-1]["content"]
        names = [name for name in ("Ada Quill", "Boris Thorn", "Clara Finch") if name in text] + ["Atlantis"]
        told = json.dumps({"names": [{"name": n, "type": "person"} for n in names],
                           "relations": [{"a": "Ada Quill", "relation": "met", "b": "Boris Thorn"}]})  # fmt: skip
        if self.form == "prose":
            told = f"Sure, here it is:\n```json\n{told[:-2]}"
        self.reply(
            {"choices": [{"message": {"content": told}}], "usage": {"prompt_tokens": 70, "completion_tokens": 9}}
        )

    def reply(self, value: dict, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Server, "seen", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as held:
        threading.Thread(target=held.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{held.server_port}/v1#any"
        held.shutdown()


@pytest.mark.parametrize("form", ["json", "old", "prose"])
def test_a_model_on_a_server(book: str, server: str, form: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Server, "form", form)
    command = ["graph", "--book", book, "--extract", "llm", "--extract-model", server]
    assert main([*command, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["calls"] == 2 and planned["read"] > 100 and not Server.seen
    assert main([*command, "--json"]) == 0
    told = capsys.readouterr()
    assert "2 calls in" in told.err and "140 tokens read, 18 written; 3 names and 1 relation kept" in told.err
    assert len(Server.seen) == (3 if form == "old" else 2)
    graph = open_graph(open_book(book))
    pair = [graph.find(name).number for name in ("Ada Quill", "Boris Thorn")]
    assert [t.what for t in graph.told(*pair)] == ["met"] and graph.find("Northport") is None
    assert main([*command]) == 0 and len(Server.seen) < 4  # all is known
    capsys.readouterr()
    assert main(["graph", "Ada Quill", "--book", book]) == 0
    assert "Ada Quill met Boris Thorn  in a model's words" in capsys.readouterr().out
    assert main(["graph", "Ada Quill", "--book", book, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["entity"]["type"] == "person" and facts["relations"][0]["told"][0]["sentences"][0]["span"] == [0, 39]


def test_a_server_that_is_not_there_is_said_and_what_was_asked_stays(book: str, server: str, capsys) -> None:
    command = ["graph", "--book", book, "--extract", "llm", "--extract-model"]
    assert main([*command, server, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    budget = (planned["read"] + planned["written"]) // 2 + 60
    assert main([*command, server, "--budget", str(budget)]) == 0
    assert "the budget is spent, 1 call left" in capsys.readouterr().err
    assert main([*command, "http://127.0.0.1:1/v1#any"]) == 1
    error = capsys.readouterr().err
    assert "cannot be asked" in error and error.count("\n") == 1
    assert main([*command, server]) == 0 and len(Server.seen) == 2


def test_a_model_here(book: str, capsys) -> None:
    assert main(["graph", "--book", book, "--extract", "both", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("2 calls about 2 documents: ")
    assert chosen(Path(book) / FOLDER).how == ""
    assert main(["graph", "--book", book, "--extract", "both"]) == 0
    assert "2 calls in" in capsys.readouterr().err and chosen(Path(book) / FOLDER).how == "both"
    assert main(["graph", "--book", book, "--extract", "built-in"]) == 0
    assert chosen(Path(book) / FOLDER).how == ""


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (["--extract", "else"], 1, "no extractor is called 'else'; there are: built-in"),
        (["--extract", "built-in", "--budget", "3"], 2, "asks no model"),
        (["--extract-model", "smollm2"], 2, "--extract-model is of"),
        (["--budget", "5"], 2, "--budget and --dry-run"),
        (["--extract", "llm", "--extract-model", "http://nowhere"], 1, "does not say which model"),
    ],
)
def test_what_does_not_go_together(book: str, more: list[str], status: int, said: str, capsys) -> None:
    assert main(["graph", "--book", book, *more]) == status
    assert said in " ".join(capsys.readouterr().err.split())
