"""The Model Context Protocol's face, through the SDK's own client in one process: what tools and resources say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

import jsonschema
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_talk import CHANGES, NOTES, desk_of, said, talk

from openbook.lm.model import LanguageModel
from openbook.serve.desk import Desk, Work
from openbook.serve.mcp import uri


@pytest.fixture
def desk(tmp_path: Path, tiny_model: LanguageModel) -> Desk:
    return desk_of(tmp_path, tiny_model)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_whole_conversation(desk: Desk, mode: str) -> None:
    async def conversation(client: Client) -> None:
        told: list[tuple[float, str | None]] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            told.append((done, message))

        shapes = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}

        async def call(tool: str, /, **arguments: Any) -> Any:
            result = await client.call_tool(tool, arguments, progress_callback=progress)
            assert not result.is_error, said(result)
            jsonschema.validate(result.structured_content, shapes[tool])
            return result

        added = await call("add", paths=["."])
        assert added.structured_content["documents"] == 2 and "2 documents read" in said(added)
        assert [row["name"] for row in added.structured_content["skipped"]] == ["out.md"]
        assert told and told[-1][0] == 2
        answer = await call("ask", question="Who led the comet team?", tokens=True)
        facts = answer.structured_content
        assert facts["id"] == 1 and len(facts["tokens"]) > 0 and facts["book"] == {"version": 2, "name": "papers"}
        again = await call("why")
        assert again.structured_content["answer"] == facts["answer"] and said(again) == said(answer)
        assert "tokens" not in (await call("ask", question="Who led it?")).structured_content
        hits = (await call("find", query="comet team", k=1)).structured_content["hits"]
        assert hits[0]["document"] == "notes/comet.md" and "Maurice" in hits[0]["text"]
        assert (await call("check", text="Maurice led the comet team.")).structured_content["sentences"]
        listed = (await call("documents")).structured_content
        assert [row["name"] for row in listed["documents"]] == ["notes/a b/tail?.md", "notes/comet.md"]
        assert (await call("tag", name="before", version=2)).structured_content == {"version": 2}
        held = await client.call_tool("forget", {"documents": ["notes/comet.md"]})
        assert held.is_error and "tagged version" in said(held)
        assert (await call("use", version="before")).structured_content["version"] == 2
        assert [row["tags"] for row in (await call("versions")).structured_content["versions"]][-1] == ["before"]

    talk(desk, conversation, mode)


def test_forgetting_is_for_good_and_can_be_proved(desk: Desk) -> None:
    async def conversation(client: Client) -> None:
        await client.call_tool("add", {"paths": ["comet.md"]})
        result = await client.call_tool("forget", {"documents": ["comet.md"], "prove": True})
        assert result.structured_content["forgotten"] == ["comet.md"] and result.structured_content["left"] == []
        unknown = await client.call_tool("forget", {"documents": ["comet.md"]})
        assert unknown.is_error and "no document" in said(unknown)

    talk(desk, conversation)


def test_what_only_an_older_version_holds_can_be_forgotten_too(desk: Desk, tmp_path: Path) -> None:
    async def conversation(client: Client) -> None:
        await client.call_tool("add", {"paths": ["."]})
        (tmp_path / "notes" / "comet.md").unlink()
        await client.call_tool("add", {"paths": ["."]})
        result = await client.call_tool("forget", {"documents": ["notes/comet.md"], "prove": True})
        assert not result.is_error and result.structured_content["left"] == []
        assert result.structured_content["forgotten"] == ["notes/comet.md"]

    talk(desk, conversation)
    assert b"Maurice" not in b"".join(p.read_bytes() for p in (tmp_path / "papers.book").rglob("*") if p.is_file())


def test_a_forget_leaves_requests_at_work_nothing_to_write(desk: Desk, tmp_path: Path) -> None:
    desk.add(Work(), ["comet.md"])
    [passage] = desk.shelf.named("papers").at().passages()
    reader = desk._reader("papers", None, Work())
    reader.begin("Who led it?", reader.find("Who led it?"))  # it has read the passage, and is yet to write its keys
    assert desk.forget(["comet.md"], prove=True)["left"] == []
    reader.kept.flush()
    assert not list((tmp_path / "papers.book" / "kv").rglob(f"{passage.id}*"))


def test_documents_are_resources_read_in_parts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation(client: Client) -> None:
        await client.call_tool("add", {"paths": ["."]})
        listed = [str(resource.uri) for resource in (await client.list_resources()).resources]
        assert listed == [uri("papers", "notes/a b/tail?.md"), uri("papers", "notes/comet.md")]
        for address, text in zip(listed, reversed(NOTES.values()), strict=True):
            assert (await client.read_resource(address)).contents[0].text.strip() == text.strip()
        part = await client.read_resource(listed[1] + "?start=2&length=6")
        assert part.contents[0].text == "Comets"
        for bad in (
            "openbook://papers/notes/none.md",
            "openbook://nobook/x",
            listed[1] + "?start=-1",
            "file:///etc/passwd",
        ):
            with pytest.raises(MCPError):
                await client.read_resource(bad)

    talk(desk, conversation)


def test_a_long_document_is_cut_and_says_how_it_goes_on(desk: Desk) -> None:
    (desk.roots[0] / "long.txt").write_text("word " * 60_000)

    async def conversation(client: Client) -> None:
        await client.call_tool("add", {"paths": ["long.txt"]})
        text = (await client.read_resource("openbook://papers/long.txt")).contents[0].text
        assert len(text) < 101_000 and text.endswith("characters: openbook://papers/long.txt?start=100000]")
        rest = (await client.read_resource("openbook://papers/long.txt?start=200000")).contents[0].text
        assert len(rest) == 100_000 or rest.strip().endswith("word")

    talk(desk, conversation)


def test_tools_say_what_they_do_to_the_world(desk: Desk) -> None:
    async def conversation(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools["forget"].annotations.destructive_hint is True
        for name in ("find", "why", "check", "versions", "documents", "faq"):
            assert tools[name].annotations.read_only_hint is True
        for name in CHANGES - {"forget"}:
            assert tools[name].annotations.destructive_hint is False and not tools[name].annotations.read_only_hint
        for tool in tools.values():
            assert tool.description and tool.output_schema["type"] == "object"
            described = tool.input_schema["properties"]
            assert "context" not in described
            assert all("description" in field for name, field in described.items() if name in ("book", "at", "tokens"))

    talk(desk, conversation)


def test_nothing_is_loaded_before_it_is_needed(desk: Desk) -> None:
    async def conversation(client: Client) -> None:
        await client.list_tools()
        await client.list_resources()
        empty = await client.call_tool("ask", {"question": "Who?"})
        assert empty.is_error and "is empty; add documents" in said(empty)

    talk(desk, conversation)
    assert desk.means.loads == 0  # type: ignore[attr-defined]
