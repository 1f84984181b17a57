"""The Model Context Protocol's face, through the SDK's own client in one process: what tools say, and may touch."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

import anyio
import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.shared.exceptions import MCPError

from openbook.book import open_book
from openbook.book.embedder import HashedWords
from openbook.errors import Fault
from openbook.lm.model import LanguageModel
from openbook.mix.settings import Settings
from openbook.serve.desk import Desk, Stopped, Work
from openbook.serve.mcp import Server, uri

CHANGES = {"add", "forget", "tag", "use"}
NOTES = {"comet.md": "# Comets\n\nMaurice led the comet team.\n", "a b/tail?.md": "The tail was long. It glowed."}


class Means:
    """A tiny model, and words for an encoder; counts how often the model was asked for."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self.loads = model, 0

    def model(self) -> LanguageModel:
        self.loads += 1
        return self._model

    def encoder(self) -> HashedWords:
        return HashedWords()

    def settings(self) -> Settings:
        return Settings(max_tokens=8, margin=None, cut_repeats=False)

    def kept(self, book: Any, model: Any) -> None:
        return None

    def run(self, model: Any) -> dict[str, Any]:
        return {"fingerprint": "tiny"}


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    for name, text in NOTES.items():
        path = tmp_path / "notes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "notes" / ".secret.md").write_text("hidden words")
    (tmp_path / "private.md").write_text("private words")
    (tmp_path / "notes" / "out.md").symlink_to(tmp_path / "private.md")
    return tmp_path / "notes"


@pytest.fixture
def desk(tmp_path: Path, notes: Path, tiny_model: LanguageModel) -> Desk:
    return Desk({"work": tmp_path / "work.book", "home": tmp_path / "home.book"}, Means(tiny_model), [notes])


def talk(desk: Desk, conversation: Any, mode: str = "auto") -> Any:
    """Run a conversation with a client of this desk's server."""

    async def run() -> Any:
        async with Client(Server(desk), mode=mode) as client:
            return await conversation(client)

    return anyio.run(run)


def said(result: Any) -> str:
    return "\n".join(block.text for block in result.content)


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
        assert facts["id"] == 1 and len(facts["tokens"]) > 0 and facts["book"] == {"version": 2, "name": "work"}
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


def test_documents_are_resources_read_in_parts(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def conversation(client: Client) -> None:
        await client.call_tool("add", {"paths": ["."]})
        listed = [str(resource.uri) for resource in (await client.list_resources()).resources]
        assert listed == [uri("work", "notes/a b/tail?.md"), uri("work", "notes/comet.md")]
        for address, text in zip(listed, reversed(NOTES.values()), strict=True):
            assert (await client.read_resource(address)).contents[0].text.strip() == text.strip()
        part = await client.read_resource(listed[1] + "?start=2&length=6")
        assert part.contents[0].text == "Comets"
        for bad in (
            "openbook://work/notes/none.md",
            "openbook://nobook/x",
            listed[1] + "?start=-1",
            "file:///etc/passwd",
        ):
            with pytest.raises(MCPError):
                await client.read_resource(bad)

    talk(desk, conversation)


def test_a_long_document_is_cut_and_says_how_it_goes_on(desk: Desk, notes: Path) -> None:
    (notes / "long.txt").write_text("word " * 60_000)

    async def conversation(client: Client) -> None:
        await client.call_tool("add", {"paths": ["long.txt"]})
        text = (await client.read_resource("openbook://work/long.txt")).contents[0].text
        assert len(text) < 101_000 and text.endswith("characters: openbook://work/long.txt?start=100000]")
        rest = (await client.read_resource("openbook://work/long.txt?start=200000")).contents[0].text
        assert len(rest) == 100_000 or rest.strip().endswith("word")

    talk(desk, conversation)


def test_only_what_was_allowed_is_read(desk: Desk, tmp_path: Path) -> None:
    async def conversation(client: Client) -> list[str]:
        tried = [
            "../private.md",
            str(tmp_path / "private.md"),
            "/etc/passwd",
            "out.md",
            ".secret.md",
            "none.md",
            "~",
            "\0",
        ]
        results = [await client.call_tool("add", {"paths": [path]}) for path in tried]
        assert all(result.is_error for result in results)
        return [said(result) for result in results]

    messages = talk(desk, conversation)
    assert not any("words" in message for message in messages)
    # What is there and may not be read sounds like what is not there.
    assert len({message.split(" is not ")[-1] for message in messages if " is not in " in message}) == 1
    assert sum(" is not in " in message for message in messages) == 7
    desk.roots = ()
    with pytest.raises(Fault, match="--allow"):
        desk.allowed("comet.md")


@given(
    st.lists(st.sampled_from(["..", ".", "a", "/", "~", "notes", "comet.md", "private.md", "//", "out.md"]), max_size=6)
)
def test_no_path_leads_out_of_the_roots(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "allowed"
    if not root.exists():
        root.mkdir()
        (root / "comet.md").write_text("x")
        (root.parent / "private.md").write_text("x")
        (root / "out.md").symlink_to(root.parent / "private.md")
    try:
        path = Desk({}, None, [root]).allowed("/".join(parts))  # type: ignore[arg-type]
    except Fault:
        return
    assert path == root or root in path.parents


def test_a_server_that_may_only_read_has_no_tools_that_change(desk: Desk) -> None:
    open_book(desk.books["work"]).add(*desk.roots, encoder=HashedWords())
    desk.changes = False

    async def conversation(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert not CHANGES & tools.keys()
        assert (await client.call_tool("ask", {"question": "Who?"})).structured_content["id"] is None

    talk(desk, conversation)
    assert not (desk.books["work"] / "answers").exists()
    with pytest.raises(Fault, match="read-only"):
        desk.forget(["notes/comet.md"])


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


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("ask", {"question": ""}, "question"),
        ("ask", {"question": "x", "passages": 0}, "passages"),
        ("ask", {"question": "x", "book": "other"}, "no book"),
        ("ask", {"question": "x", "at": "nosuchtag"}, "nosuchtag"),
        ("find", {"query": "x", "by": "magic"}, "by"),
        ("find", {"query": " "}, "empty"),
        ("why", {"number": 99}, "no answers"),
        ("check", {"text": "x" * 100_001}, "text"),
        ("add", {"paths": []}, "paths"),
        ("nothing", {}, "nothing"),
    ],
)
def test_what_is_wrong_is_said(desk: Desk, name: str, arguments: dict[str, Any], reason: str) -> None:
    open_book(desk.books["work"]).add(*desk.roots, encoder=HashedWords())

    async def conversation(client: Client) -> str:
        result = await client.call_tool(name, arguments)
        assert result.is_error
        return said(result)

    message = talk(desk, conversation)
    assert reason in message and "Traceback" not in message


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.sampled_from(["\0", "../x"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
ARGUMENTS = [
    "question",
    "query",
    "text",
    "paths",
    "documents",
    "name",
    "version",
    "number",
    "book",
    "at",
    "k",
    "by",
    "first",
]


def test_no_argument_is_a_fault_of_the_server(desk: Desk) -> None:
    """Drawn arguments for every tool: each is answered, or refused with a reason."""
    open_book(desk.books["work"]).add(*desk.roots, encoder=HashedWords())
    good = {"question": "Who led it?", "query": "comet", "text": "Maurice led it.", "paths": ["comet.md"], "version": 0}
    good |= {"documents": ["notes/none.md"], "name": "tag"}

    async def conversation(client: Client) -> None:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        calls = []

        @settings(max_examples=150)
        @given(st.sampled_from(tools), st.dictionaries(st.sampled_from(ARGUMENTS), junk, max_size=3))
        def drawn(tool: str, arguments: dict[str, Any]) -> None:
            calls.append((tool, {**good, **arguments}))

        drawn()
        for tool, arguments in calls:
            result = await client.call_tool(tool, arguments)
            assert said(result) != f"Error executing tool {tool}", (tool, arguments)  # how the SDK tells a crash

    talk(desk, conversation)


def test_a_request_that_is_taken_back_ends(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    began, ended = threading.Event(), threading.Event()

    def endless(work: Work, *rest: Any, **given: Any) -> dict[str, Any]:
        try:
            for number in range(10**9):
                began.set()
                work.tell(number, 10**9, "working")
                time.sleep(0.005)
        except Stopped:
            ended.set()
            raise
        return {}

    monkeypatch.setattr(desk, "ask", endless)

    async def conversation(client: Client) -> None:
        with anyio.move_on_after(0.5):
            await client.call_tool("ask", {"question": "Who?"})
        assert await anyio.to_thread.run_sync(ended.wait, 10)
        monkeypatch.undo()
        assert not (await client.call_tool("add", {"paths": ["comet.md"]})).is_error  # the server goes on

    talk(desk, conversation)
    assert began.is_set()


def test_too_many_requests_are_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.serve.mcp.WAITING", 2)
    go = threading.Event()

    def slow(work: Work, *rest: Any, **given: Any) -> dict[str, Any]:
        go.wait(10)
        raise Fault("done")

    monkeypatch.setattr(desk, "ask", slow)

    async def conversation(client: Client) -> list[str]:
        results: list[str] = []

        async def one() -> None:
            results.append(said(await client.call_tool("ask", {"question": "Who?"})))
            go.set()

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(one)
        return results

    results = talk(desk, conversation)
    assert sum("wait already" in text for text in results) == 2 and sum("done" in text for text in results) == 3
