"""/v1/books: what was acknowledged is there; names stay in the book; versions do not mix; what is forgotten is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import ASKED, ENCODER, NOTES, babbling, client_of, pdf, service_of


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    with client_of(service_of(babbling(), tmp_path, body_bytes=1 << 16, upload_bytes=1 << 20)) as made:
        made.book = tmp_path / "notes.book"
        yield made


def added(client: Any, *files: tuple[str, bytes]) -> list[dict[str, Any]]:
    response = client.post("/v1/books/notes/documents", files=[("files", file) for file in files])
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def names(client: Any) -> list[str]:
    return [document["name"] for document in client.get("/v1/books/notes/documents").json()["data"]]


def test_a_book_says_what_it_holds(client: Any) -> None:
    [book] = client.get("/v1/books").json()["data"]
    assert book == client.get("/v1/books/notes").json()
    assert (book["documents"], book["passages"]) == (2, 2)
    for name, text in NOTES.items():
        told = client.get(f"/v1/books/notes/documents/notes/{name}").json()
        assert told["text"] == text and told["version"] == book["version"]
    hits = client.post("/v1/books/notes/find", json={"query": "apple trees", "k": 1}).json()["hits"]
    assert [hit["document"] for hit in hits] == ["notes/garden.md"]


def test_an_upload_is_told_as_it_goes_and_there_once_it_is_done(client: Any) -> None:
    *progress, done = added(client, ("moon.md", b"# Moon\n\nThe moon is far.\n"), ("bad.pdf", b"%PDF-junk"))
    assert {event["event"] for event in progress} == {"progress"}
    assert done["added"]["documents"] == 1 and [s["name"] for s in done["added"]["skipped"]] == ["bad.pdf"]
    assert client.get("/v1/books/notes").json()["version"] == done["version"]
    assert "moon.md" in names(client)
    again = added(client, ("moon.md", b"# Moon\n\nThe moon is near.\n"))[-1]
    assert again["added"]["replaced"] == 1
    assert "near" in client.get("/v1/books/notes/documents/moon.md").json()["text"]
    assert "far" in client.get(f"/v1/books/notes/documents/moon.md?at={done['version']}").json()["text"]


HOSTILE = [
    *("../../evil.md", "/etc/evil.md", "..\\..\\evil.md", "C:\\evil.md", "a/../../evil.md", ".hidden", "CON.md"),
    *("x" * 5000 + ".md", "a\u202egnp.md", "<img src=x onerror=alert(1)>.md", "new\nline.md", "..", ""),
]


def test_no_name_leads_out_of_the_book(client: Any) -> None:
    outside = {path for path in client.book.parent.rglob("*") if client.book not in path.parents}
    for number, name in enumerate(HOSTILE):
        client.post("/v1/books/notes/documents", files=[("files", (name, f"Text number {number}.".encode()))])
    assert {path for path in client.book.parent.rglob("*") if client.book not in path.parents} == outside
    uploads = client.book / "uploads"
    assert all(path.resolve().is_relative_to(uploads.resolve()) for path in uploads.rglob("*"))
    assert not any(path.is_symlink() for path in uploads.rglob("*"))


def test_too_much_is_refused_before_it_is_stored(client: Any) -> None:
    before = sorted(client.book.rglob("*"))
    large = client.post("/v1/books/notes/documents", files=[("files", ("a.md", b"x" * (2 << 20)))])
    assert large.status_code == 413 and "too large" not in large.json()["error"]["type"]
    body = client.post("/v1/chat/completions", content=b" " * (1 << 17), headers={"content-type": "application/json"})
    assert body.status_code == 413 and body.json()["error"]["message"]
    chunks = client.post("/v1/chat/completions", content=iter([b" " * 4096] * 32))
    assert chunks.status_code == 413
    assert sorted(client.book.rglob("*")) == before


def test_nothing_readable_is_said_so(client: Any) -> None:
    bad = [("files", ("bad.pdf", b"%PDF-junk"))]
    whole = client.post("/v1/books/notes/documents", files=bad, headers={"accept": "application/json"})
    assert whole.status_code == 422 and "bad.pdf" in whole.json()["error"]["message"]
    lines = client.post("/v1/books/notes/documents", files=bad).text.splitlines()
    assert json.loads(lines[-1])["event"] == "error"
    assert client.post("/v1/books/notes/documents", files={"other": ("a.md", b"x")}).status_code == 400


def test_versions_are_named_used_and_asked(client: Any) -> None:
    first = client.get("/v1/books/notes").json()["version"]
    assert client.post("/v1/books/notes/tags", json={"name": "before"}).json() == {"name": "before", "version": first}
    second = added(client, ("moon.md", b"# Moon\n\nThe moon is far.\n"))[-1]["version"]
    find = {"query": "moon", "k": 3, "version": "before"}
    assert all(hit["document"] != "moon.md" for hit in client.post("/v1/books/notes/find", json=find).json()["hits"])
    old = {**ASKED, "openbook": {"version": "before"}}
    assert client.post("/v1/chat/completions", json=old).json()["openbook"]["book"]["version"] == first
    used = client.post("/v1/books/notes/use", json={"version": "before"}).json()
    assert used["before"] == second and "moon.md" not in names(client)
    listed = client.get("/v1/books/notes/versions").json()["data"]
    assert [v["number"] for v in listed if v["live"]] == [used["version"]]
    assert client.delete("/v1/books/notes/tags/before").json()["version"] == first
    assert client.delete("/v1/books/notes/tags/before").status_code == 404


def test_another_process_may_write_the_book(client: Any) -> None:

    from openbook.book.store import open_book

    other = client.book.parent / "other.md"
    other.write_text("# Sun\n\nThe sun is hot.\n")
    open_book(client.book).add(other, encoder=ENCODER)
    assert "other.md" in names(client)
    answer = client.post("/v1/chat/completions", json=ASKED).json()["openbook"]
    assert answer["book"]["version"] == client.get("/v1/books/notes").json()["version"]


def test_what_is_forgotten_is_nowhere(client: Any) -> None:
    added(client, ("moon.md", b"# Moon\n\nThe cratered moon is remarkably far.\n"))
    asked = {**ASKED, "messages": [{"role": "user", "content": "How far is the cratered moon?"}]}
    number = client.post("/v1/chat/completions", json=asked).json()["openbook"]["id"]
    told = client.delete("/v1/books/notes/documents/moon.md?prove=true").json()
    assert told["documents"] == ["moon.md"] and told["proof"]["left"] == [] and told["answers"] == 1
    assert client.get(f"/v1/answers/{number}").status_code == 404
    client.post("/v1/chat/completions", json=asked)  # and nothing in memory brings it back
    for path in client.book.rglob("*"):
        assert not path.is_file() or b"cratered moon is remarkably" not in path.read_bytes()
    assert client.delete("/v1/books/notes/documents/moon.md").status_code == 404


def test_answers_are_kept_with_their_evidence(client: Any) -> None:
    given = [client.post("/v1/chat/completions", json={**ASKED, "seed": seed}).json()["openbook"] for seed in (1, 2)]
    rows = client.get("/v1/answers").json()["data"]
    assert [row["id"] for row in rows] == [given[1]["id"], given[0]["id"]]
    kept = client.get(f"/v1/answers/{given[0]['id']}?book=notes").json()
    assert {name: kept[name] for name in given[0]} == given[0]
    assert len(client.get("/v1/answers?limit=1&book=notes").json()["data"]) == 1
    report = client.get(f"/v1/answers/{given[0]['id']}/report.html")
    assert "attachment" in report.headers["content-disposition"]
    assert report.headers["content-security-policy"].startswith("sandbox")
    assert client.get("/v1/answers/99").status_code == 404 and client.get("/v1/answers?book=none").status_code == 404


def test_what_else_a_book_is_asked(client: Any) -> None:
    checked = client.post("/v1/books/notes/check", json={"text": "Maurice led the team."}).json()
    assert checked["answer"] == "Maurice led the team." and checked["tokens"]
    points = client.post("/v1/books/notes/summarize", json={"question": "What is said of the comet?"}).json()
    assert points["answer"] and points["sources"]
    assert client.post("/v1/books/notes/faq", json={"question": "Who?"}).status_code == 404
    assert client.get("/v1/books/notes/graph").json()["entities"]
    assert client.get("/v1/books/notes/pages/1?document=notes/comet.md").status_code == 404
    assert client.get("/v1/books/notes/pages/1?document=../../etc/passwd").status_code == 404


def test_a_page_is_shown_with_its_place_marked_as_long_as_the_file_is_the_one_that_was_read(client: Any) -> None:
    long = "Words of the first page. " * 60
    added(client, ("talk.pdf", pdf(long, "The comet faded in June.")))
    told = client.get("/v1/books/notes/documents/talk.pdf").json()
    [listed] = [d for d in client.get("/v1/books/notes/documents").json()["data"] if d["name"] == "talk.pdf"]
    assert listed["pages"] == len(told["pages"]) and listed["kind"] == "application/pdf"
    assert told["pages"][0] == 0 and told["pages"] == sorted(told["pages"])
    address = "/v1/books/notes/pages/2?document=talk.pdf"
    start = told["text"].index("comet")
    bare, marked = client.get(address), client.get(f"{address}&span={start}-{start + 5}")
    for picture in (bare, marked):
        assert picture.status_code == 200 and picture.headers["content-type"] == "image/png"
        assert picture.content.startswith(b"\x89PNG\r\n")
    assert bare.content != marked.content
    assert client.get("/v1/books/notes/pages/3?document=talk.pdf").status_code == 404
    assert client.get(f"{address}&span=5-x").status_code == 400
    [original] = client.book.glob("uploads/*/talk.pdf")
    original.write_bytes(pdf("Another text.", "Quite another."))
    gone = client.get(address)
    assert gone.status_code == 404 and gone.json()["error"]["code"] == "original_gone"
