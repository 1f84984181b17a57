"""A server under load: many clients streaming from one book for a while, through OpenAI's client; beside llama.cpp's.

    .venv/bin/python bench/serve.py dev-v1.1.json --seconds 60 [--clients 32] [--tokens 128] [--no-rival] [--json FILE]

The questions and paragraphs are those of a file in SQuAD's format. Two kinds of requests:

* chat: the model alone, with the paragraph and the question in the prompt. Both servers get the same.
* book: the question, asked of the book of all paragraphs: retrieved, read under every passage, mixed, with evidence.

After a third of the time for warming up, one client asks one request after the other for half of it; then all clients
ask at once, the same requests first, for the whole of it. Tokens a second count what was written in that time. "Mixed"
counts answers that differ from the same request's answer asked alone: our numbers do not depend on the company, so it
must be 0; llama.cpp's may. Memory is the server's resident set at the start, in the middle and at the end of the load.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_server

from openbook.book.store import open_book
from openbook.errors import Fault
from openbook.lm.encoder import load_encoder
from openbook.lm.weights.pull import locate
from openbook.measure.machine import processor
from openbook.measure.squad import Squad, read_squad

CONTEXT = 2048
"""Tokens of one slot of llama.cpp's server."""
MODEL, MODEL_ID = "smollm2", "smollm2-135m-instruct"


@dataclass
class Reply:
    """One answer: what was said, in how many tokens, and when (seconds)."""

    text: str = ""
    tokens: int = 0
    first: float | None = None
    took: float = 0.0
    error: str | None = None


@dataclass
class Load:
    """What came of some requests in `seconds`; `replies` by the number of the request."""

    seconds: float
    replies: dict[int, Reply] = field(default_factory=dict)
    memory: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second, of all clients together."""
        return sum(reply.tokens for reply in self.replies.values()) / self.seconds

    @property
    def errors(self) -> list[str]:
        """What went wrong."""
        return [reply.error for reply in self.replies.values() if reply.error is not None]

    def first(self, share: float) -> float:
        """Seconds to the first token that this share of the requests had it in."""
        found = sorted(reply.first for reply in self.replies.values() if reply.first is not None)
        return found[min(len(found) - 1, int(share * len(found)))] if found else float("nan")


@dataclass(frozen=True)
class Entrant:
    """A server and what is asked of it: `model` by its name there, and whether the paragraph goes into the prompt."""

    name: str
    kind: str
    command: Sequence[str]
    model: str
    health: str = "/health"


def requests(squad: Squad, kind: str) -> Iterator[list[dict[str, str]]]:
    """Messages without end: every question in an order drawn once, then again."""
    questions = list(squad.questions)
    random.Random(7).shuffle(questions)
    for question in itertools.cycle(questions):
        said = question.text
        if kind == "chat":
            said = f"{squad.paragraphs[question.document]}\n\n{question.text}"
        yield [{"role": "user", "content": said}]


async def ask(client: Any, model: str, messages: list[dict[str, str]], tokens: int) -> Reply:
    """One streamed request."""
    reply, began = Reply(), time.perf_counter()
    try:
        stream = await client.chat.completions.create(
            model=model, messages=messages, max_tokens=tokens, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                reply.first = reply.first or time.perf_counter() - began
                reply.text += chunk.choices[0].delta.content
            if chunk.usage is not None:
                reply.tokens = chunk.usage.completion_tokens
    except Exception as error:
        reply.error = f"{type(error).__name__}: {str(error)[:200]}"
    reply.took = time.perf_counter() - began
    return reply


async def load(
    port: int, entrant: Entrant, asked: Iterator[Any], clients: int, seconds: float, tokens: int, pid: int
) -> Load:
    """So many clients, each asking one request after the other until the time is over; what runs then is counted to
    its end, and the time with it."""
    import openai

    began, load_ = time.perf_counter(), Load(0)
    numbers = enumerate(asked)

    async def one(client: openai.AsyncOpenAI) -> None:
        while time.perf_counter() - began < seconds:
            number, messages = next(numbers)
            load_.replies[number] = await ask(client, entrant.model, messages, tokens)

    async def watch() -> None:
        for share in (0.1, 0.5, 0.95):
            await asyncio.sleep(max(0.0, share * seconds - (time.perf_counter() - began)))
            load_.memory.append(resident(pid))

    limit = openai.Timeout(600)
    base = f"http://127.0.0.1:{port}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none", timeout=limit, max_retries=0) as client:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(one(client) for _ in range(clients)))
        await watching
    load_.seconds = time.perf_counter() - began
    return load_


def resident(pid: int) -> float:
    """MiB of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def served(entrant: Entrant, port: int, log: Path) -> Iterator[int]:
    """Within, the server answers; its process id."""
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(entrant.command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            for _ in range(600):
                if process.poll() is not None:
                    raise Fault(f"{entrant.name} ended: {log.read_text('utf-8')[-400:]}")
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}{entrant.health}", timeout=5) as reply:
                        if reply.status == 200:
                            break
                except OSError:
                    time.sleep(0.2)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def run(entrant: Entrant, port: int, squad: Squad, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One entrant: alone, then together; a row of the table."""
    with served(entrant, port, folder / f"{entrant.name}-{entrant.kind}.log") as pid:
        warm = requests(squad, entrant.kind)
        rest = itertools.islice(warm, len(squad.questions) // 2, None)  # passages are kept from before, as in a server
        asyncio.run(load(port, entrant, rest, args.clients, args.seconds / 3, args.tokens, pid))
        loads = [
            asyncio.run(load(port, entrant, requests(squad, entrant.kind), clients, seconds, args.tokens, pid))
            for clients, seconds in ((1, args.seconds / 2), (args.clients, args.seconds))
        ]
    alone, together = loads
    both = alone.replies.keys() & together.replies.keys()
    mixed = [n for n in both if alone.replies[n].text != together.replies[n].text]
    for n in mixed[:3]:
        print(f"{entrant.name} {n}:\n  alone    {alone.replies[n]}\n  together {together.replies[n]}", file=sys.stderr)
    for error in sorted(set(alone.errors + together.errors))[:5]:
        print(f"{entrant.name}: {error}", file=sys.stderr)
    return {
        "name": entrant.name, "kind": entrant.kind, "alone": alone.rate, "together": together.rate,
        "answers": len(together.replies), "compared": len(both), "mixed": len(mixed),
        "errors": len(alone.errors) + len(together.errors), "first_alone": [alone.first(0.5), alone.first(0.95)],
        "first": [together.first(0.5), together.first(0.95)], "memory": together.memory,
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> str:
    """The rows as Markdown."""
    head = (
        "| requests | server | alone, tok/s | together, tok/s | ratio | first token p50 / p95, s | alone p50, s | "
        "answers | errors | mixed | memory, MiB |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    lines = [head]
    for row in rows:
        memory = " → ".join(f"{m:.0f}" for m in row["memory"])
        p50, p95 = row["first"]
        lines.append(
            f"| {row['kind']} | {row['name']} | {row['alone']:.0f} | {row['together']:.0f} "
            f"| {row['together'] / max(row['alone'], 1e-9):.2f}× | {p50:.2f} / {p95:.2f} | {row['first_alone'][0]:.2f} "
            f"| {row['answers']} | {row['errors']} | {row['mixed']} of {row['compared']} | {memory} |"
        )
    chat = {row["name"]: row["together"] for row in rows if row["kind"] == "chat"}
    if "llama.cpp" in chat and "openbook" in chat:
        lines.append(f"\nchat, together: openbook is {chat['openbook'] / chat['llama.cpp']:.2f}× llama.cpp's server.")
    lines.append(
        f"\n{processor()}, {os.cpu_count()} cores; {args.clients} clients for {args.seconds:g} s, "
        f"{args.tokens} tokens at most, {MODEL}, `bench/serve.py`."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("squad", type=Path, help="questions and paragraphs, SQuAD's format")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--kinds", nargs="+", default=["chat", "book"], choices=["chat", "book"])
    parser.add_argument("--rows", type=int, help="rows at work at once (openbook serve --rows)")
    parser.add_argument("--passages", type=int, default=5)
    parser.add_argument("--paragraphs", type=int, default=100, help="of the file's, which make the book")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-rival", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    squad = read_squad(args.squad)
    kept = dict(itertools.islice(squad.paragraphs.items(), args.paragraphs))
    squad = Squad(kept, tuple(q for q in squad.questions if q.document in kept), squad.digest)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, text in kept.items():
            path = folder / "documents" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        book = open_book(folder / "squad.book")
        print(book.add(folder / "documents", encoder=load_encoder()), file=sys.stderr)
        ours = [
            str(Path(sys.executable).with_name("openbook")),
            "serve",
            "--book",
            str(book.path),
            "--no-history",
            "--queue",
            "256",
        ]
        ours += ["--rows", str(args.rows)] if args.rows else []
        os.environ["OPENBOOK_PASSAGES"] = str(args.passages)
        for kind in args.kinds:
            port = free_port()
            model = "openbook:squad" if kind == "book" else MODEL_ID
            rows.append(run(Entrant("openbook", kind, [*ours, "--port", str(port)], model), port, squad, args, folder))
            print(table(rows[-1:], args), file=sys.stderr)
            if kind == "chat" and not args.no_rival:
                port = free_port()
                file = locate(MODEL, fetch=False)
                start = llama_server.command(llama_server.binary(), file, port, args.clients, CONTEXT, args.threads)
                rows.append(run(Entrant("llama.cpp", kind, start, MODEL), port, squad, args, folder))
                print(table(rows[-1:], args), file=sys.stderr)
    print(table(rows, args))
    if args.json is not None:
        how = {key: value for key, value in vars(args).items() if key not in ("squad", "json")}
        args.json.write_text(json.dumps({"how": how, "rows": rows}), encoding="utf-8")


if __name__ == "__main__":
    main()
