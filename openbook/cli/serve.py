"""The command `serve`: books over HTTP, for programs as OpenAI's clients speak it and for people as a page."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.output import complain, one_line, plural, remark
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.config import Config
    from openbook.serve.security import Guard
    from openbook.serve.service import Service

EPILOG = "\n\n".join(
    (
        "Example:  openbook serve --docs notes/ --open",
        "Example:  openbook serve --book work.book --book home.book --port 8080",
        "Example:  openbook serve --docs notes/ -m smollm2 -m gemma3",
        "Example:  openbook serve --host 0.0.0.0 --api-key-file ~/openbook.key",
        "Example:  curl -s localhost:8000/v1/chat/completions -H 'Content-Type: application/json' "
        '-d \'{"model": "openbook", "messages": [{"role": "user", "content": "Who led the comet team?"}]}\'',
    )
)
SERVER, LIMITS = "Who may ask", "Limits"


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog=EPILOG)(serve)


def serve(
    book: Annotated[
        list[Path] | None,
        typer.Option("--book", "-b", metavar="DIR", help="A book's folder; more than once. Else ./.openbook."),
    ] = None,
    docs: options.Docs = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="M", help="A name, .gguf file or folder; more than once. Else smollm2."),
    ] = None,
    port: Annotated[int | None, typer.Option(metavar="N", help="Else 8000; 0: any that is free.")] = None,
    open_page: Annotated[bool, typer.Option("--open", metavar="", help="Open the page in the browser.")] = False,
    host: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Else 127.0.0.1: this machine alone.", rich_help_panel=SERVER),
    ] = None,
    host_name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name people reach it by; more than once.", rich_help_panel=SERVER),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the key that requests must bring.", rich_help_panel=SERVER),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(metavar="N", help="Branches at work at once; else 192.", rich_help_panel=LIMITS)
    ] = None,
    queue: Annotated[
        int | None, typer.Option(metavar="N", help="Questions that may wait; else 32.", rich_help_panel=LIMITS)
    ] = None,
    upload_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of one upload; else 256MiB.", rich_help_panel=LIMITS)
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of one answer; else 600.", rich_help_panel=LIMITS)
    ] = None,
    no_history: Annotated[
        bool, typer.Option("--no-history", metavar="", help="Keep no answers with their books.")
    ] = False,
    log: Annotated[bool, typer.Option("--log", metavar="", help="A line for each request on standard error.")] = False,
    precision: options.Precision = None,
    backend: options.Backend = None,
    kv_codec: options.KvCodec = None,
    kv_layout: options.KvLayout = None,
) -> None:
    """Serve books and their page over HTTP, as OpenAI's clients speak it, with the evidence for every word.

    Settings of answers (OPENBOOK_* or openbook.toml: passages, persistence, …) hold where a request says nothing.
    """
    config = options.configure(
        port=port, host=host, host_name=tuple(host_name) if host_name else None,
        api_key_file=api_key_file, rows=rows, queue=queue, upload_limit=upload_limit, time_limit=time_limit,
        precision=precision, backend=backend, kv_codec=kv_codec, kv_layout=kv_layout,
    )  # fmt: skip
    from openbook.serve.memory import few_arenas
    from openbook.serve.security import check_bind

    few_arenas()
    key = key_of(config)
    check_bind(config.host, key)
    listening = listen(config)
    folders = [folder.expanduser() for folder in book or ([] if docs else [config.book])]
    names = model or [config.model or "smollm2"]
    service = _service(config, names, folders, docs, history=not no_history)
    from openbook.serve.app import create_app

    named = {config.host, *config.host_name}
    _run(create_app(service, key=key, names=named), config, listening, log, open_page)


def _service(config: Config, models: list[str], folders: list[Path], docs: Path | None, history: bool) -> Service:
    """Models, encoder and books, ready."""
    from openbook.cli.books import encoder, open_for
    from openbook.cli.models import here
    from openbook.cli.ready import settings_of

    settings = settings_of(config)
    language_models = [options.model_of(config, here(name)) for name in models]
    embedder = encoder(config)
    if docs is not None:
        folders = [open_for(config, docs)[0].path, *folders]
    from openbook.book.store import open_book
    from openbook.lm.cache.beginnings import BUDGET, Beginnings
    from openbook.serve.engine import Engine
    from openbook.serve.service import Limits, Loaded, Service
    from openbook.serve.shelf import Shelf, Shelved, names_of

    names = names_of(folders if docs is None else [docs.resolve(), *folders[1:]])
    books = []
    for name, folder in zip(names, folders, strict=True):
        if not folder.exists():
            complain(f"there is no book at {folder}; an empty one is made: add documents on the page, or openbook add")
        opened = open_book(folder)
        opened.encoder(embedder)  # refuses a book of another encoder
        books.append(Shelved(name, folder, lambda: embedder))
        remark(f"{one_line(name)}: {plural(opened.count, 'passage')} at version {opened.version}")
    shelf = Shelf(books)
    shelf.budget(config.kv_memory, config.kv_disk, len(language_models))
    how = config.model_dump(mode="json")
    chats = (BUDGET if config.chat_memory is None else config.chat_memory) // len(models)
    loaded = [
        Loaded(Engine(language_model, rows=config.rows, queue=config.queue), how | {"model": name}, Beginnings(chats))
        for name, language_model in zip(models, language_models, strict=True)
    ]
    limits = Limits(upload_bytes=int(config.upload_limit), seconds=config.time_limit)
    return Service(loaded, shelf, settings, limits, history)


def key_of(config: Config) -> str | None:
    """The API key, from its file or OPENBOOK_API_KEY; it is never shown."""
    if config.api_key_file is None:
        return None if config.api_key is None else config.api_key.get_secret_value()
    path = config.api_key_file.expanduser()
    try:
        return path.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise Fault(f"the API key's file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def listen(config: Config) -> socket.socket:
    """The port, taken before anything slow is done."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    from openbook.serve.wire import bound_unread

    try:
        listening = socket.create_server((config.host, config.port), family=family, backlog=256)
    except OSError as error:
        told = error.strerror or error
        raise Fault(f"{config.host}:{config.port} cannot be listened on: {told}; choose another --port") from error
    bound_unread(listening)
    return listening


def _run(app: Guard, config: Config, listening: socket.socket, log: bool, open_page: bool) -> None:
    from openbook.serve.closing import Server
    from openbook.serve.logs import configure
    from openbook.serve.wire import settings

    configure(log)
    server = Server(settings(app), app.door, config.drain)
    address = _address(listening)
    print(f"openbook serves at {address}  (Ctrl+C ends it)", flush=True)
    if open_page:
        typer.launch(address)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ended)  # uvicorn has its own while it runs, and raises the signal again after it
    server.run(sockets=[listening])


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"


def _ended(number: int, frame: Any) -> None:
    """All requests had their time: the process ends as one that was asked to."""
