"""What clients of the Model Context Protocol cannot do: read elsewhere, change what is read only, crash or fill it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp_talk import CHANGES, desk_of, said, talk

from openbook.book import open_book
from openbook.book.embedder import HashedWords
from openbook.errors import Fault
from openbook.lm.model import LanguageModel
from openbook.serve.desk import Desk, Stopped, Work
from openbook.serve.shelf import Shelf


@pytest.fixture
def desk(tmp_path: Path, tiny_model: LanguageModel) -> Desk:
    return desk_of(tmp_path, tiny_model)


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
        path = Desk(Shelf([]), None, [root]).allowed("/".join(parts))  # type: ignore[arg-type]
    except Fault:
        return
    assert path == root or root in path.parents


def test_a_server_that_may_only_read_has_no_tools_that_change(desk: Desk) -> None:
    open_book(desk.shelf.named("papers").path).add(*desk.roots, encoder=HashedWords())
    desk.changes = False

    async def conversation(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert not CHANGES & tools.keys()
        assert (await client.call_tool("ask", {"question": "Who?"})).structured_content["id"] is None

    talk(desk, conversation)
    assert not (desk.shelf.named("papers").path / "answers").exists()
    with pytest.raises(Fault, match="read-only"):
        desk.forget(["notes/comet.md"])


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
    open_book(desk.shelf.named("papers").path).add(*desk.roots, encoder=HashedWords())

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
    open_book(desk.shelf.named("papers").path).add(*desk.roots, encoder=HashedWords())
    good = {"question": "Who led it?", "query": "comet", "text": "Maurice led it.", "paths": ["comet.md"], "version": 0}
    good |= {"documents": ["notes/none.md"], "name": "tag"}

    async def conversation(client: Client) -> None:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        calls = []

        @settings(max_examples=80)
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


def test_the_model_is_one_request_s_also_after_one_was_taken_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    go, at_work, most = threading.Event(), [0], [0]

    def deaf(work: Work, *rest: Any, **given: Any) -> dict[str, Any]:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        go.wait(10)  # a long step between two moments at which it listens
        at_work[0] -= 1
        raise Fault("done")

    monkeypatch.setattr(desk, "ask", deaf)

    async def conversation(client: Client) -> None:
        with anyio.move_on_after(0.3):
            await client.call_tool("ask", {"question": "Who?"})
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "ask", {"question": "Who else?"})
            await anyio.sleep(0.3)
            go.set()

    talk(desk, conversation)
    assert most == [1] and at_work == [0]


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
