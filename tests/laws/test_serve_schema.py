"""/openapi.json is true: what it allows is answered as it says, and nothing at all is answered with a 5xx."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import babbling, client_of, live, service_of

from openbook.serve.service import Service

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("OPENBOOK_HOME", str(tmp_path / "home"))
    yield service_of(babbling(), tmp_path)


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_operation_says_what_it_does_and_how_it_fails(service: Service) -> None:
    with client_of(service) as client:
        schema = client.get("/openapi.json").json()
    for path, method, operation in operations(schema):
        assert operation["description"].strip(), (path, method)
        for status in ("400", "401", "403", "404", "408", "413", "429", "503"):
            content = operation["responses"][status]["content"]["application/json"]
            said = "/Health" if (path, status) == ("/health", "503") else "/ErrorBody"  # closing is no error of its
            assert content["schema"]["$ref"].endswith(said), (path, method, status)
    for name, model in schema["components"]["schemas"].items():
        if name.endswith("Request") or name in ("Options", "Message"):
            assert model["additionalProperties"] is False, name
    # Twenty seconds of texts that are allowed may be long; none is without a bound.
    for name in ("ChatRequest", "ResponsesRequest", "FindRequest", "FaqRequest", "CheckRequest"):
        for field, allowed in schema["components"]["schemas"][name]["properties"].items():
            kinds = [allowed, *allowed.get("anyOf", [])]
            assert all("maxLength" in kind for kind in kinds if kind.get("type") == "string"), (name, field)
            assert all("maxItems" in kind for kind in kinds if kind.get("type") == "array"), (name, field)


@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="needs schemathesis")
def test_what_is_drawn_from_it_is_answered_as_it_says(service: Service, tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("st")
    how = ["--phases", "fuzzing", "--max-examples", "2", "--generation-deterministic"]
    with live(service) as address:
        done = subprocess.run(
            [tool, "run", f"{address}/openapi.json", "--checks", CHECKS, "--no-color", "--request-timeout", "60", *how],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout[-3000:]
    counted = {status for _, _, status in service.counts.requests}
    assert 200 in counted and not any(status >= 500 for status in counted), json.dumps(sorted(counted))
