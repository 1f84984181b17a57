"""The tools of `openbook.serve.mcp`: what each takes, says and hands back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field

from openbook.answer.report.plain import plain
from openbook.serve import mcp_shapes as shapes
from openbook.serve.desk import MOST_LISTED

if TYPE_CHECKING:
    from openbook.serve.mcp import Server

READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
KEEPS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
DESTROYS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)

Book = Annotated[str | None, Field(description="Which book; else the first. `documents` works on any of them.")]
At = Annotated[int | str | None, Field(description="A version's number or tag; else the live one.")]
Question = Annotated[str, Field(min_length=1, max_length=10_000)]


def _result(text: str, facts: dict[str, Any]) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=facts)


def _answer(server: Server, facts: dict[str, Any], name: str | None, tokens: bool) -> CallToolResult:
    """An answer as a tool tells it: the book by its name, not by where it lies; tokens where they are wanted."""
    told = {key: value for key, value in facts.items() if key not in ("run", "timings", "tokens")}
    told["book"] = {**facts["book"], "name": server.desk.shelf.named(name).name}
    told["book"].pop("path", None)
    if tokens:
        told["tokens"] = facts.get("tokens")
    return _result(plain(facts), told)


def asking(server: Server) -> None:
    """Tools that have the model read or write."""
    desk = server.desk

    @server.tool(annotations=KEEPS)
    async def ask(
        question: Question,
        context: Context[Any, Any],
        book: Book = None,
        at: At = None,
        passages: Annotated[int | None, Field(ge=1, le=64, description="Passages that may speak; else 5.")] = None,
        persistence: Annotated[
            float | None, Field(ge=0, le=1, description="How much a passage's past words earn it trust; else 0.5.")
        ] = None,
        max_tokens: Annotated[int | None, Field(ge=1, le=512, description="Write at most so many; else 64.")] = None,
        anyway: Annotated[bool, Field(description="Answer even where no passage has to do with the question.")] = False,
        tokens: Annotated[bool, Field(description="Also the evidence of every single token (long).")] = False,
    ) -> Annotated[CallToolResult, shapes.Answer]:
        """Answer a question from the user's documents, each sentence with the place that made the model write it.

        It abstains where no passage has to do with the question. `why` shows the evidence of an answer again.
        """
        given = {"passages": passages, "persistence": persistence, "max_tokens": max_tokens}
        facts = await server.do(context, lambda work: desk.ask(work, question, book, at, anyway, **given), model=True)
        return _answer(server, facts, book, tokens)

    @server.tool(annotations=READS)
    async def check(
        text: Annotated[str, Field(min_length=1, max_length=100_000, description="What somebody wrote.")],
        context: Context[Any, Any],
        question: Annotated[str | None, Field(description="What it is an answer to.")] = None,
        book: Book = None,
    ) -> Annotated[CallToolResult, shapes.Answer]:
        """Hold a text against the user's documents: which passage carries each sentence, which words nothing carries.

        A verdict says what could have made a model write the words, not whether the passage proves them.
        """
        facts = await server.do(context, lambda work: desk.check(work, text, question, book), model=True)
        verdicts = [
            f"- {row['verdict']}: {facts['answer'][slice(*row['span'])].strip()}" for row in facts.get("sentences", ())
        ]
        told = _answer(server, facts, book, tokens=False)
        return _result("\n".join([*verdicts, "", told.content[0].text]), told.structured_content or {})  # type: ignore[union-attr]

    @server.tool(annotations=KEEPS)
    async def summarize(
        question: Question,
        context: Context[Any, Any],
        points: Annotated[int, Field(ge=1, le=32)] = 8,
        book: Book = None,
    ) -> Annotated[CallToolResult, shapes.Answer]:
        """Answer a question about all documents ("what are the main themes?"): points, word for word from them."""
        facts = await server.do(context, lambda work: desk.summarize(work, question, points, book), model=True)
        return _answer(server, facts, book, tokens=False)


def looking(server: Server) -> None:
    """Tools that look only, without the model."""
    desk = server.desk

    @server.tool(annotations=READS)
    async def why(
        context: Context[Any, Any],
        number: Annotated[int | None, Field(ge=1, description="Which answer of the book; else its last.")] = None,
        book: Book = None,
        tokens: Annotated[bool, Field(description="Also the evidence of every single token (long).")] = True,
    ) -> Annotated[CallToolResult, shapes.Answer]:
        """The evidence of an answer that was given before: sources, citations, and who carried each token."""
        facts = await server.do(context, lambda work: desk.why(number, book))
        return _answer(server, facts, book, tokens)

    @server.tool(annotations=READS)
    async def find(
        query: Question,
        context: Context[Any, Any],
        k: Annotated[int, Field(ge=1, le=100, description="How many passages.")] = 5,
        by: Literal["fused", "bm25", "dense", "graph", "pagerank"] = "fused",
        book: Book = None,
        at: At = None,
    ) -> Annotated[CallToolResult, shapes.Hits]:
        """Find the passages that fit a query, best first; the model is not asked."""
        hits = await server.do(context, lambda work: desk.find(work, query, k, by, book, at))
        return _result("\n\n".join(map(_hit, hits)) or "nothing was found", {"hits": hits})

    @server.tool(annotations=READS)
    async def faq(
        question: Question, context: Context[Any, Any], book: Book = None
    ) -> Annotated[CallToolResult, shapes.Answer]:
        """The answer on file to a question, from the book's pairs of questions and answers, or none."""
        facts = await server.do(context, lambda work: desk.faq(work, question, book))
        return _answer(server, facts, book, tokens=False)

    @server.tool(annotations=READS)
    async def documents(
        context: Context[Any, Any],
        first: Annotated[int, Field(ge=0, description="Leave out so many.")] = 0,
        most: Annotated[int, Field(ge=1, le=MOST_LISTED)] = 100,
        book: Book = None,
    ) -> Annotated[CallToolResult, shapes.Documents]:
        """List the documents of a book, by name; each is a resource whose text can be read."""
        name = desk.shelf.named(book).name
        rows = await server.do(context, lambda work: desk.documents(name))
        shown = [{**row, "uri": uri(name, row["name"])} for row in rows[first : first + most]]
        lines = [f"{row['name']} ({row['passages']} passages): {row['uri']}" for row in shown]
        return _result("\n".join([f"{len(rows)} documents", *lines]), {"documents": shown, "total": len(rows)})

    @server.tool(annotations=READS)
    async def versions(context: Context[Any, Any], book: Book = None) -> Annotated[CallToolResult, shapes.Versions]:
        """List a book's versions, oldest first; each add, forget and use made one."""
        rows = await server.do(context, lambda work: desk.versions(book))
        lines = [
            f"{'* ' if row['live'] else '  '}{row['number']}  {row['created']}  {row['made']}  "
            f"{row['documents']} documents  {' '.join(row['tags'])}".rstrip()
            for row in rows
        ]
        return _result("\n".join(lines), {"versions": [{**row, "tags": list(row["tags"])} for row in rows]})


def _hit(row: dict[str, Any]) -> str:
    place = f"page {row['page']}" if row["page"] is not None else f"line {row['line']}"
    return f"{row['rank']}. {row['document']}, {place} ({row['score']:.2f})\n{row['text']}"


def changing(server: Server) -> None:
    """Tools that change a book; there are none on a server that may only read."""
    desk = server.desk
    if not desk.changes:
        return

    @server.tool(annotations=ADDS)
    async def add(
        paths: Annotated[list[str], Field(min_length=1, max_length=1_000, description="Files and folders.")],
        context: Context[Any, Any],
        book: Book = None,
    ) -> Annotated[CallToolResult, shapes.Added]:
        """Read files and folders into a book; again: update what changed. Only folders the user allowed are read."""
        facts = await server.do(context, lambda work: desk.add(work, paths, book))
        skipped = [f"skipped {row['name']}: {row['reason']}" for row in facts["skipped"]]
        did = f"{facts['documents']} documents read, {facts['passages']} passages, {facts['unchanged']} unchanged"
        return _result("\n".join([f"{did}; version {facts['version']}", *skipped]), facts)

    @server.tool(annotations=DESTROYS)
    async def forget(
        documents: Annotated[list[str], Field(min_length=1, max_length=1_000, description="Their names.")],
        context: Context[Any, Any],
        prove: Annotated[bool, Field(description="Search every file of the book for what is left.")] = False,
        book: Book = None,
    ) -> Annotated[CallToolResult, shapes.Forgotten]:
        """Remove documents from every file, index, old version and kept answer of a book. This cannot be undone."""
        facts = await server.do(context, lambda work: desk.forget(documents, prove, book))
        searched = "" if facts["left"] is None else f"; searched: {len(facts['left'])} traces left"
        return _result(f"forgotten: {', '.join(facts['forgotten'])}{searched}; version {facts['version']}", facts)

    @server.tool(annotations=ADDS)
    async def tag(
        name: Annotated[str, Field(description="A letter, then letters, digits and . _ + -")],
        context: Context[Any, Any],
        version: At = None,
        book: Book = None,
    ) -> Annotated[CallToolResult, shapes.Changed]:
        """Name a version of a book; it is kept for good."""
        number = await server.do(context, lambda work: desk.tag(name, version, book))
        return _result(f"{name} is version {number}", {"version": number})

    @server.tool(annotations=ADDS)
    async def use(
        version: Annotated[int | str, Field(description="A number or a tag.")],
        context: Context[Any, Any],
        book: Book = None,
    ) -> Annotated[CallToolResult, shapes.Changed]:
        """Go back to a version of a book, as a new version that equals it; nothing is lost."""
        number = await server.do(context, lambda work: desk.use(version, book))
        return _result(f"version {number} is live, as {version} was", {"version": number})


def uri(book: str, document: str) -> str:
    """The resource of a document."""
    return f"openbook://{quote(book, safe='')}/{quote(document, safe='/')}"
