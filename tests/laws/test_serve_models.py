"""Several models in one server: each answers under its name, from every book, with its own passages kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from served import ASKED, ENCODER, babbling, client_of, service_of

from openbook.book.store import open_book
from openbook.errors import Fault
from openbook.lm.model import LanguageModel
from openbook.serve.engine import Engine
from openbook.serve.service import Loaded, Service
from openbook.serve.shelf import Shelf, Shelved


def quiet() -> LanguageModel:
    """Another that writes one letter again and again."""
    model = babbling()
    runner: Any = model.runner
    runner.decoder.head.bias.data[model.tokenizer.encode("q")[0]] = 30.0
    return replace(model, name="quiet", fingerprint="quiet-fp32")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBOOK_HOME", str(folder / "home"))
        made, other = service_of(babbling(), folder), quiet()
        yield replace(made, models=[*made.models, Loaded(Engine(other), {"model": "there"})])


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Any]:
    with client_of(service) as made:
        yield made


def said(client: Any, **more: Any) -> tuple[str, str]:
    facts = client.post("/v1/chat/completions", json={**ASKED, **more}).json()
    return facts["openbook"]["model"], facts["choices"][0]["message"]["content"]


def test_each_model_answers_under_its_name(client: Any) -> None:
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["openbook:notes", "tiny", "quiet"]
    assert said(client)[0] == "tiny"
    assert said(client, openbook={"model": "quiet"}) == ("quiet", "q" * 8)
    assert said(client, model="quiet", max_tokens=3) == ("quiet", "qqq")
    assert said(client, model="quiet", openbook={"book": "notes"}) == ("quiet", "q" * 8)


def test_their_answers_say_who_gave_them(client: Any, service: Service) -> None:
    prints = {
        client.post("/v1/chat/completions", json={**ASKED, "openbook": {"model": name}}).json()["system_fingerprint"]
        for name in service.names
    }
    assert prints == {model.fingerprint for model in service.models} and len(prints) == 2
    told = client.post("/v1/chat/completions", json={**ASKED, "openbook": {"model": "quiet"}}).json()["openbook"]
    kept = client.get(f"/v1/answers/{told['id']}", params={"book": "notes"}).json()
    assert kept["run"]["model"] == "there" and kept["run"]["fingerprint"] == "quiet-fp32"


def test_who_is_not_here_or_said_twice_is_refused(client: Any) -> None:
    def refused(**more: Any) -> tuple[int, str]:
        response = client.post("/v1/chat/completions", json={**ASKED, **more})
        return response.status_code, response.json()["error"]["message"]

    status, told = refused(openbook={"model": "loud"})
    assert status == 404 and "tiny, quiet" in told
    status, told = refused(model="tiny", openbook={"model": "quiet"})
    assert status == 400 and "leave one out" in told


def test_two_of_one_name_are_refused(service: Service) -> None:
    with pytest.raises(Fault, match="two models are called tiny"):
        replace(service, models=[service.models[0], service.models[0]])


def test_passages_of_all_models_and_books_share_one_budget_of_memory(service: Service, tmp_path: Path) -> None:
    models = [model.engine.model for model in service.models]
    shelf = Shelf([Shelved(name, open_book(tmp_path / name).path, lambda: ENCODER) for name in ("one", "other")])
    shelf.budget(1 << 20, models=len(models))
    stores = [book.kept_for(model) for book in shelf for model in models]
    assert len({*map(id, stores)}) == 4 and sum(store.budget for store in stores) == 1 << 20


def test_one_book_under_two_names_is_refused(service: Service) -> None:
    [book] = service.shelf
    with pytest.raises(Fault, match="named twice"):
        Shelf([book, Shelved("again", book.path / ".." / book.path.name, lambda: ENCODER)])


def test_each_keeps_its_own_passages_and_a_forgotten_one_is_gone_from_both(client: Any, service: Service) -> None:
    shelved = next(iter(service.shelf))
    models = [model.engine.model for model in service.models]
    before = [shelved.kept_for(model) for model in models]
    assert before[0] is not before[1] and None not in before
    assert client.delete("/v1/books/notes/documents/notes/garden.md").status_code == 200
    after = [shelved.kept_for(model) for model in models]
    assert None not in after and not {*map(id, before)} & {*map(id, after)}


def test_metrics_tell_the_models_apart(client: Any) -> None:
    lines = client.get("/metrics").text.splitlines()
    for name in ("tiny", "quiet"):
        assert any(line.startswith(f'openbook_engine_requests_total{{model="{name}"}} ') for line in lines)
    heads = [line for line in lines if line.startswith("# TYPE")]
    assert len(heads) == len(set(heads))
