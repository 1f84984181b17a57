"""The app: which groups of commands there are, and how a command ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from openbook.cli import (
    answers,
    bench,
    books,
    check,
    committee,
    complete,
    convert,
    faq,
    graph,
    history,
    mcp,
    measure,
    models,
    serve,
    summarize,
    warm,
)
from openbook.cli.faults import told
from openbook.cli.output import complain

app = typer.Typer(
    name="openbook",
    help="Answers from your own documents, with the evidence for every word.",
    epilog="Start with:  openbook ask 'Who led the comet team?' --docs docs/",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

# A group is a module with `register(app)`; one line here adds it.
for group in (
    answers,
    committee,
    complete,
    check,
    faq,
    graph,
    summarize,
    books,
    history,
    warm,
    models,
    convert,
    measure,
    bench,
    serve,
    mcp,
):
    group.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from openbook import __version__

        typer.echo(f"openbook {__version__}")
        raise typer.Exit


@app.callback()
def openbook(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Say the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", metavar="", help="Show a traceback when something fails.")] = False,
) -> None:
    pass


def run(arguments: list[str]) -> int:
    """Run the command named by the arguments; whatever goes wrong becomes one line and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks is shown as `?`, it does not end the program.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    command = typer.main.get_command(app)
    if "_OPENBOOK_COMPLETE" in os.environ:
        command.main(prog_name="openbook")  # the shell asks for completions; this exits
    debug, arguments = _debug(arguments)
    try:
        with command.make_context("openbook", arguments) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except typer.TyperException as error:
        return _usage(error)
    except BaseException as error:
        return told(error, debug)
    return 0


def _debug(arguments: list[str]) -> tuple[bool, list[str]]:
    """Whether `--debug` is among the options, and the rest: it is taken before and after the command's name."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != "--debug"]
    return len(options) < end, options + arguments[end:]


def _usage(error: typer.TyperException) -> int:
    """Bad usage in one line that says where the help is."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "openbook"
    # For `BadParameter` without a parameter typer writes "Invalid value: " before what we say.
    message = error.format_message().removeprefix("Invalid value: ").rstrip(".")
    if message:  # empty where a command without arguments has shown its help
        complain(f"{message[0].lower()}{message[1:]}; see: {path} --help")
    return 2
