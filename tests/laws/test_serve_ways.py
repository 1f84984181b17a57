"""Ways of answering over HTTP: each streamed as it is whole, with its route; what a way cannot keep to is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import ASKED, ENCODER, babbling, client_of, events, service_of

from openbook.book.faq.pairs import MEDIA
from openbook.book.store import Book, open_book

PAIRS = "question,answer\nWho planted the trees?,Ingrid Solberg did.\nWhen did the comet fade?,In June.\n"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBOOK_HOME", str(folder / "home"))
        service = service_of(babbling(), folder)
        (folder / "pairs.csv").write_text(PAIRS)
        open_book(folder / "notes.book").add(folder / "pairs.csv", encoder=ENCODER, as_media=MEDIA)
        with client_of(service) as made:
            yield made


def asked(client: Any, way: str, question: str = "Who planted the trees?", **more: Any) -> Any:
    messages = [{"role": "user", "content": question}]
    body = {**ASKED, "messages": messages, "openbook": {"way": way}, **more}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return events(response.text) if more.get("stream") else response.json()


@pytest.mark.parametrize("way", ["passages", "graph", "global", "faq", "closed", "auto"])
def test_each_way_is_streamed_as_it_is_whole(client: Any, way: str) -> None:
    whole, chunks = asked(client, way), asked(client, way, stream=True)
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"] != ""
    answer, last = whole["openbook"], chunks[-1]
    assert answer["route"] == last["openbook"]["answer"]["route"]
    assert answer["route"]["way"] == ("faq" if way == "auto" else way)
    assert last["choices"][0]["delta"]["annotations"] == whole["choices"][0]["message"]["annotations"]
    kept = client.get(f"/v1/answers/{answer['id']}").json()
    assert kept["answer"] == text and kept["route"] == answer["route"]


def test_a_stored_answer_is_word_for_word_and_cited(client: Any) -> None:
    message = asked(client, "faq")["choices"][0]["message"]
    assert message["content"] == "Ingrid Solberg did."
    [cited] = message["annotations"]
    assert cited["filename"] == "pairs.csv" and cited["cited_text"] == message["content"]
    response = client.post("/v1/responses", json={"model": "openbook", "input": "Who planted the trees?",
                                                  "openbook": {"way": "faq"}, "stream": True})  # fmt: skip
    assert '"delta": "Ingrid Solberg did."' in response.text and "response.completed" in response.text


def test_points_cite_every_place(client: Any) -> None:
    made = asked(client, "global", "What is said of the comet and the garden?")
    text = made["choices"][0]["message"]["content"]
    assert made["openbook"]["points"] and made["choices"][0]["message"]["annotations"]
    for cited in made["choices"][0]["message"]["annotations"]:
        assert text[cited["start_index"] : cited["end_index"]] in text.splitlines()


@pytest.mark.parametrize("way", ["faq", "global"])
@pytest.mark.parametrize("more", [{"stop": ["x"]}, {"n": 2}, {"response_format": {"type": "json_object"}}])
def test_what_a_way_cannot_keep_to_is_refused(client: Any, way: str, more: dict[str, Any]) -> None:
    response = client.post("/v1/chat/completions", json={**ASKED, "openbook": {"way": way}, **more})
    assert response.status_code == 400 and way in response.json()["error"]["message"]


def test_a_form_that_is_demanded_decides_the_way(client: Any) -> None:
    made = asked(client, "auto", response_format={"type": "json_object"}, max_tokens=200, temperature=0.5)
    assert made["openbook"]["route"]["way"] in ("passages", "graph")
    assert made["choices"][0]["message"]["content"].startswith("{")


def test_what_is_counted_as_a_token_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    with client_of(service_of(babbling(), tmp_path)) as client:
        written = asked(client, "passages")["usage"]["completion_tokens"]
        assert client.post("/v1/books/notes/check", json={"text": "Maurice led the team."}).status_code == 200
        told = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
    assert int(told['openbook_engine_tokens_total{model="tiny"}']) == written > 0
    assert int(told['openbook_first_token_seconds_count{model="tiny"}']) == 1
    assert int(told['openbook_engine_requests_total{model="tiny"}']) == 2


def test_no_question_waits_for_a_graph_that_it_does_not_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    service = service_of(babbling(), tmp_path)
    began, go = threading.Event(), threading.Event()

    def slow(book: Book, *rest: Any) -> Any:
        began.set()
        go.wait(60)
        return []

    monkeypatch.setattr(Book, "graph", slow)
    shelved = service.shelf.named()
    making = threading.Thread(target=shelved.graph, args=(shelved.at(),))
    making.start()
    assert began.wait(60)
    with client_of(service) as client:
        assert asked(client, "auto", "Who led the team?")["openbook"]["route"]["way"] == "passages"
    assert making.is_alive()
    go.set()
    making.join()
