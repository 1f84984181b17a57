"""What goes where: answers on standard output, everything about the work on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from rich.console import Console

Item = TypeVar("Item")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would exit with status 1, as after a fault; `openbook.cli.faults` knows better."""
        raise BrokenPipeError


def out() -> Console:
    """Standard output; without colours where that is not a terminal."""
    return _Console(highlight=False)


def err() -> Console:
    """Standard error."""
    return _Console(stderr=True, soft_wrap=True, highlight=False)


def one_line(text: object) -> str:
    """Text as one printable line: names of files may hold newlines and control characters."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(str(text).split()))


def complain(message: object) -> None:
    """One line on standard error, always."""
    print(f"openbook: {one_line(message)}", file=sys.stderr)


def remark(message: object) -> None:
    """One line on standard error where a person watches."""
    if sys.stderr.isatty():
        err().print(one_line(message), style="dim", markup=False)


def print_json(value: Any) -> None:
    """One JSON document on standard output, in UTF-8 whatever the terminal's encoding is."""
    # A lone surrogate becomes its escape, which is JSON again.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    print(json.dumps(value, ensure_ascii=False, indent=1))


def plural(count: int, what: str) -> str:
    """`1 document`, `2,000 documents`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar on standard error told (done, in all, what); None where that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    told = TextColumn("{task.description}", markup=False)  # it holds names of files
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), told)
    with Progress(*columns, console=err(), transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=one_line(what))

        yield tell


def collected(items: Iterable[Item], total: int, what: str) -> list[Item]:
    """All of the items, with a bar that counts them as they come."""
    made: list[Item] = []
    with progress_bar() as progress:
        for item in items:
            made.append(item)
            if progress is not None:
                progress(len(made), total, what)
    return made


@contextmanager
def bar_if_told() -> Iterator[Callable[[int, int, str], None]]:
    """A bar that begins when it is first told something, and goes when all is done: others write after it."""
    with ExitStack() as shown:
        bars: list[Callable[[int, int, str], None] | None] = []

        def tell(done: int, total: int, what: str) -> None:
            if not bars:
                bars.append(shown.enter_context(progress_bar()))
            if bars[0] is not None:
                bars[0](done, total, what)
            if done == total:
                shown.close()
                bars.clear()

        yield tell
