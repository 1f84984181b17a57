"""A server to test: the tiny model, vectors of hashed words, a book of made-up notes; all in this process."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="the server needs fastapi")
pytest.importorskip("httpx", reason="the tests' client needs httpx")

from fastapi.testclient import TestClient
from tiny import byte_tokenizer

from openbook.book.embedder import HashedWords
from openbook.book.store import open_book
from openbook.lm.backends.torch import TorchRunner
from openbook.lm.decoder import Decoder
from openbook.lm.model import LanguageModel
from openbook.lm.spec import AttentionSpec, FeedForwardSpec, LayerSpec, ModelSpec, RopeSpec
from openbook.mix.settings import Settings
from openbook.serve.app import create_app
from openbook.serve.engine import Engine
from openbook.serve.service import Limits, Loaded, Service
from openbook.serve.shelf import Shelf, Shelved

NOTES = {
    "comet.md": "# The comet\n\nThe team that followed the comet was led by Maurice Lindqvist. It faded in June.\n",
    "garden.md": "# The garden\n\nEleven apple trees stand in the garden. Ingrid Solberg planted them.\n",
}
SETTINGS = Settings(passages=2, retrieved=2, margin=None, max_tokens=8, cut_repeats=False)
ASKED = {"model": "openbook", "messages": [{"role": "user", "content": "Who led the comet's team?"}]}
ENCODER = HashedWords()


def babbling() -> LanguageModel:
    """A model that writes letters, each about as likely as the next: what it draws differs from draw to draw."""
    tokenizer = byte_tokenizer()
    layer = LayerSpec(AttentionSpec(2, 1, 8, rope=RopeSpec()), FeedForwardSpec(32))
    torch.manual_seed(3)
    decoder = Decoder(ModelSpec(tokenizer.vocabulary, 16, (layer,), 4096))
    letters = [tokenizer.encode(letter)[0] for letter in 'abcdefghijklmnopqrstuvwxyz 0123456789{}:,"']
    with torch.no_grad():
        decoder.embedding.weight *= 0.1
        decoder.head.bias = torch.nn.Parameter(torch.full((tokenizer.vocabulary,), -20.0))
        decoder.head.bias[letters] = 0.0
    return LanguageModel("tiny", TorchRunner(decoder), tokenizer, "babbling-fp32")


def service_of(model: LanguageModel, folder: Path, **limits: Any) -> Service:
    """A service over one book, `notes`, with the made-up notes in it."""
    notes = folder / "notes"
    notes.mkdir()
    for name, text in NOTES.items():
        (notes / name).write_text(text)
    open_book(folder / "notes.book").add(notes, encoder=ENCODER)
    shelved = Shelved("notes", folder / "notes.book", lambda: ENCODER)
    shelved.budget(1 << 24, 1 << 24)
    return Service([Loaded(Engine(model, rows=12, queue=2))], Shelf([shelved]), SETTINGS, Limits(**limits))


@contextmanager
def client_of(service: Service, **app: Any) -> Iterator[TestClient]:
    """A client of the service's app, called `localhost`."""
    with TestClient(create_app(service, **app), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@contextmanager
def live(service: Service, **app: Any) -> Iterator[str]:
    """The address of the service's app behind a real port, served by a thread."""
    uvicorn = pytest.importorskip("uvicorn")
    listening = socket.create_server(("127.0.0.1", 0))
    how = {"log_config": None, "access_log": False, "timeout_graceful_shutdown": 1}
    server = uvicorn.Server(uvicorn.Config(create_app(service, **app), **how))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def events(text: str) -> list[Any]:
    """The data of server-sent events; the last must be `[DONE]`, and is left out."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def pdf(*pages: str) -> bytes:
    """A PDF of pages with a line of text each."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Kids[{kids}]/Count {len(pages)}>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for i, line in enumerate(pages):
        drawn = f"BT /F 12 Tf 72 700 Td ({line}) Tj ET"
        objects.append(
            f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents {5 + 2 * i} 0 R/Resources<</Font<</F 3 0 R>>>>>>"
        )
        objects.append(f"<</Length {len(drawn)}>>stream\n{drawn}\nendstream")
    made, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += f"{number} 0 obj{body}endobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    return made + f"{end}trailer<</Size {len(objects) + 1}/Root 1 0 R>>\nstartxref\n{len(made)}\n%%EOF".encode()
