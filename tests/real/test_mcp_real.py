"""`openbook mcp` as programs meet it: a real process with the real model, over its pipes and over HTTP."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

import anyio
import httpx2 as httpx
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from openbook.lm.weights.pull import installed

pytestmark = pytest.mark.skipif(
    not {"smollm2", "minilm"} <= {model.name for model in installed()}, reason="needs: openbook models pull"
)
COMMAND = ["-c", "import sys; from openbook.cli import main; sys.exit(main())", "mcp"]
NOTE = "# The comet team\n\nThe comet was first seen in 1987. Maurice Delacourt led the comet team for eleven years.\n"
QUESTION = "Who led the comet team?"
KEY = "a key of more than sixteen letters"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "comet.md").write_text(NOTE)
    return tmp_path


def arguments(folder: Path) -> list[str]:
    return [*COMMAND, "--book", str(folder / "papers.book"), "--allow", str(folder / "notes")]


async def conversation(client: Client, folder: Path) -> dict[str, Any]:
    added = await client.call_tool("add", {"paths": [str(folder / "notes")]})
    assert added.structured_content["documents"] == 1, added
    told: list[str] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    answer = await client.call_tool("ask", {"question": QUESTION}, progress_callback=progress)
    assert "Maurice" in answer.structured_content["answer"] and told
    assert "[1] notes/comet.md, line" in answer.content[0].text
    text = (await client.read_resource("openbook://papers/notes/comet.md")).contents[0].text
    assert text == NOTE
    for citation in answer.structured_content["citations"]:
        assert text[slice(*citation["source_span"])] == citation["cited_text"]
    return answer.structured_content


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_over_the_pipes_of_a_process(folder: Path, mode: str) -> None:
    server = StdioServerParameters(command=sys.executable, args=arguments(folder), env=dict(os.environ))

    async def run() -> None:
        async with Client(server, mode=mode) as client:
            facts = await conversation(client, folder)
            again = await client.call_tool("why", {"number": facts["id"]})
            assert again.structured_content["answer"] == facts["answer"]

    anyio.run(run)


def test_standard_output_holds_the_protocol_alone(folder: Path) -> None:
    asked = [
        (
            "initialize",
            {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}},
        ),
        ("tools/call", {"name": "add", "arguments": {"paths": ["comet.md"]}}),
        ("tools/call", {"name": "ask", "arguments": {"question": QUESTION}}),
        ("tools/call", {"name": "ask", "arguments": {"question": ""}}),
    ]
    with subprocess.Popen(
        [sys.executable, *arguments(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\nnot json\n\xff\n')
        for number, (method, params) in enumerate(asked):
            line = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
            while True:
                answer = json.loads(process.stdout.readline())
                assert answer["jsonrpc"] == "2.0"
                if answer.get("id") == number:
                    break
        process.stdin.close()
        rest = process.stdout.read()
        assert all(json.loads(row)["jsonrpc"] for row in rest.splitlines())
        assert process.wait(30) == 0


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    (folder / "key").write_text(KEY)
    command = [sys.executable, *arguments(folder), "--http", "--port", "0", "--api-key-file", str(folder / "key")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        until, found, said = time.monotonic() + 120, None, ""
        while found is None and time.monotonic() < until:
            if select.select([process.stderr], [], [], 1)[0]:
                said += process.stderr.readline()
                found = re.search(r"http://\S+/mcp", said)
        assert found, said
        yield found[0]
    finally:
        process.terminate()
        process.wait(30)


def test_over_http_with_a_key(folder: Path, address: str) -> None:
    async def run() -> None:
        given = httpx.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}, timeout=120)
        async with Client(streamable_http_client(address, http_client=given)) as client:
            await conversation(client, folder)

    anyio.run(run)
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accept = {"Accept": "application/json, text/event-stream"}
    good = {**accept, "Authorization": f"Bearer {KEY}"}
    for headers, status in (
        (accept, 401),
        ({**accept, "Authorization": "Bearer wrong"}, 401),
        ({**good, "Host": "evil.example"}, 403),
        ({**good, "Origin": "https://evil.example"}, 403),
        ({**good, "Sec-Fetch-Site": "cross-site"}, 403),
    ):
        assert httpx.post(address, json=ping, headers=headers).status_code == status, headers
    assert httpx.post(address, content=b"x" * (3 << 20), headers=good).status_code == 413
