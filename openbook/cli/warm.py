"""The command `warm`: the passage cache filled beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from openbook.cli import options
from openbook.cli.books import check_there
from openbook.cli.output import plural, print_json, progress_bar
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.answer.warm import Warmed
    from openbook.config import Config


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog="Example:  openbook warm --book work.book --limit 2GB")(warm)


def warm(
    book: options.Book = None,
    limit: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="Occupy no more of the disk than this, as 500MB; else kv_disk, 8GiB."),
    ] = None,
    model: options.Model = None,
    precision: options.Precision = None,
    backend: options.Backend = None,
    kv_codec: options.KvCodec = None,
    as_json: options.AsJson = False,
) -> None:
    """Read a book's passages beforehand, so that questions are answered sooner.

    As far as they fit, in the order of the documents. It can be stopped at any time; run again, it goes on.
    """
    config = options.configure(book=book, model=model, precision=precision, backend=backend, kv_codec=kv_codec)
    check_there(config, None)
    from openbook.cli.models import here

    budget = _budget(config, limit)
    name = here(config.model or "smollm2")
    from openbook.answer.warm import warm as fill
    from openbook.book.store import open_book

    opened = open_book(config.book, create=False)
    with progress_bar() as tell:

        def told(done: Warmed) -> None:
            if tell is not None:
                rate = done.tokens_per_second
                words = f"{rate:,.0f} tokens/s, {_time(done.pending_tokens / max(rate, 1e-9))} left"
                tell(done.computed, done.computed + done.pending, words)

        done = fill(opened, options.model_of(config, name), limit=budget, progress=told)
    if as_json:
        print_json({"book": {"path": str(opened.path), "version": opened.version}, **done.to_dict()})
    else:
        print(summary(done))


def summary(done: Warmed) -> str:
    """What a `warm` did, and what it could not, in one line."""
    if done.computed:
        words = (
            f"{plural(done.computed, 'passage')} read in {done.seconds:.1f} s ({done.tokens_per_second:,.0f} tokens/s)"
        )
    else:
        words = "nothing to read"
    words += f"; {done.stored:,} of {done.passages:,} are stored in {_size(done.bytes)}"
    if done.left:
        words += (
            f" of {_size(done.budget)}; the rest does not fit, all would take {_size(done.whole_bytes)}: "
            "raise kv_disk, or keep them in fewer bits with --kv-codec int8"
        )
    return words


def _budget(config: Config, limit: str | None) -> int:
    """Bytes of disk that may be occupied."""
    from openbook.mix.reading import DISK_BYTES

    allowed = DISK_BYTES if config.kv_disk is None else int(config.kv_disk)
    if limit is None:
        return allowed
    wanted = options.size("--limit", limit)
    if wanted > allowed:  # the next question trims to kv_disk
        raise Fault(
            f"--limit {limit} is above kv_disk, {_size(allowed)}, to which every question keeps; "
            f"raise that: kv_disk = {limit!r} in openbook.toml, or OPENBOOK_KV_DISK={limit}"
        )
    return wanted


def _size(count: int) -> str:
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
