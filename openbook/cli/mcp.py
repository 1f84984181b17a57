"""The command `mcp`: books for programs that speak the Model Context Protocol."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.output import complain
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.book.embedder import Embedder
    from openbook.config import Config
    from openbook.lm.model import LanguageModel
    from openbook.mix.settings import Settings
    from openbook.serve.mcp import Server

EPILOG = "\n\n".join(
    (
        "Example:  openbook mcp --book ~/work.book --allow ~/notes",
        "Example:  openbook mcp --book ~/work.book --read-only --http --port 8300",
        "In a client's settings:  "
        '{"mcpServers": {"openbook": {"command": "openbook", "args": ["mcp", "--book", "/home/me/work.book"]}}}',
    )
)
HTTP = "Over HTTP"


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog=EPILOG)(mcp)


def mcp(
    book: Annotated[
        list[Path] | None,
        typer.Option("--book", "-b", metavar="DIR", help="A book's folder; more than once. Else ./.openbook."),
    ] = None,
    allow: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A folder whose files clients may add; more than once. Else none."),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", metavar="", help="Nothing may be added, forgotten or kept.")
    ] = False,
    model: options.Model = None,
    precision: options.Precision = None,
    backend: options.Backend = None,
    kv_codec: options.KvCodec = None,
    kv_layout: options.KvLayout = None,
    http: Annotated[
        bool, typer.Option("--http", metavar="", help="Streamable HTTP at /mcp instead of stdio.", rich_help_panel=HTTP)
    ] = False,
    port: Annotated[int | None, typer.Option(metavar="N", help="Else 8000.", rich_help_panel=HTTP)] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Else 127.0.0.1: this machine alone.", rich_help_panel=HTTP)
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the key that requests must bring.", rich_help_panel=HTTP),
    ] = None,
) -> None:
    """Let a program ask your books: the Model Context Protocol over standard input and output, or HTTP.

    The model is loaded when it is first needed. Files can be added from the folders of --allow alone.
    """
    config = options.configure(
        model=model, precision=precision, backend=backend, kv_codec=kv_codec, kv_layout=kv_layout,
        port=port, host=host, api_key_file=api_key_file,
    )  # fmt: skip
    roots = [folder.expanduser().absolute() for folder in allow or []]
    if missing := [root for root in roots if not root.is_dir()]:
        raise Fault(f"{missing[0]} is no folder; --allow takes folders whose files may be added")
    folders = [folder.expanduser().absolute() for folder in book or [config.book]]
    names = [folder.name.removesuffix(".book").lstrip(".") or "book" for folder in folders]
    if len(set(names)) < len(names):
        raise Fault(f"two books have one name ({', '.join(names)}); clients could not tell them apart: rename one")
    from openbook.serve.desk import Desk
    from openbook.serve.mcp import Server
    from openbook.serve.shelf import Shelf, Shelved

    means = _Means(config)
    shelf = Shelf([Shelved(name, path, means.encoder) for name, path in zip(names, folders, strict=True)])
    shelf.budget(config.kv_memory, config.kv_disk)
    server = Server(Desk(shelf, means, roots, changes=not read_only))
    if http:
        _over_http(server, config)
    else:
        import anyio

        anyio.run(server.run_stdio_async)


class _Means:
    """Model and encoder as the settings say, each loaded once, when it is first needed."""

    def __init__(self, config: Config) -> None:
        self._config, self._lock = config, threading.Lock()
        self._model: LanguageModel | None = None
        self._encoder: Embedder | None = None

    def model(self) -> LanguageModel:
        from openbook.cli.models import here

        with self._lock:
            if self._model is None:
                self._model = options.model_of(self._config, here(self._config.model or "smollm2"))
            return self._model

    def encoder(self) -> Embedder:
        from openbook.cli.books import encoder

        with self._lock:
            if self._encoder is None:
                self._encoder = encoder(self._config)
            return self._encoder

    def settings(self) -> Settings:
        from openbook.cli.ready import settings_of

        return settings_of(self._config)

    def run(self, model: LanguageModel) -> dict[str, Any]:
        from openbook.answer.replay import run_of

        return run_of(model, self._config.model_dump(mode="json"))


def _over_http(server: Server, config: Config) -> None:
    import uvicorn

    from openbook.cli.serve import key_of, listen
    from openbook.serve.mcp import http_app
    from openbook.serve.security import check_bind
    from openbook.serve.wire import settings

    key = key_of(config)
    check_bind(config.host, key)
    listening = listen(config)
    app = http_app(server, key, {config.host, *config.host_name})
    complain(f"openbook mcp at http://{config.host}:{listening.getsockname()[1]}/mcp  (Ctrl+C ends it)")
    # Not `closing.Server`: clients listen all the time, nobody would ever be done.
    uvicorn.Server(settings(app)).run(sockets=[listening])
