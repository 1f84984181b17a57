"""`openbook convert`: a model with fewer key/value heads, shared keys, windows or experts, written to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openbook.cli import options
from openbook.cli.output import one_line, out, print_json, progress_bar, remark

if TYPE_CHECKING:
    from openbook.lm.spec import ModelSpec
    from openbook.lm.weights.checkpoint import Checkpoint

HEADS, LAYERS, SIGHT, EXPERTS = "Heads", "Layers", "Windows", "Experts"
EXACT = "It writes what its source writes, until it is trained."
TRAIN = "It needs training before use."
COST = (
    " SmolLM2 untrained goes from 1.02 bits a byte to 3.6 as MQA, to 4.3 with keys shared "
    "by two layers, to 1.24 with a window of 512, 1.04 if the first 4 tokens stay in sight (docs/convert.md)."
)

EXAMPLES = """Examples:

openbook convert smollm2 smollm2-mqa --kv-heads 1

openbook convert smollm2 smollm2-cla --kv-heads 1 --share 2

openbook convert smollm2 smollm2-local --window 512 --pattern 5:1

openbook convert smollm2 smollm2-moe --experts 4 --active 2
"""


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog=EXAMPLES)(convert)


def convert(
    model: Annotated[str, typer.Argument(help="A name, a .gguf file, or a folder of safetensors.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    kv_heads: Annotated[
        int | None,
        typer.Option("--kv-heads", metavar="N", min=1, rich_help_panel=HEADS, help="1: MQA; all: MHA; between: GQA."),
    ] = None,
    pool: Annotated[
        Literal["mean", "first", "random"] | None,
        typer.Option(rich_help_panel=HEADS, help="What fewer key/value heads are made of; else mean."),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            rich_help_panel=LAYERS,
            help="How many layers use the same keys and values (CLA); or the layers that make them: 0,1,4,7.",
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(metavar="W", min=1, rich_help_panel=SIGHT, help="A query sees the W latest keys, its own too."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(metavar="L:G", rich_help_panel=SIGHT, help="L layers with the window, then G without; 5:1."),
    ] = None,
    pinned: Annotated[
        int, typer.Option(metavar="N", min=0, rich_help_panel=SIGHT, help="The first N positions stay in sight.")
    ] = 0,
    experts: Annotated[
        int | None,
        typer.Option(metavar="E", min=1, rich_help_panel=EXPERTS, help="Copy each feed-forward into E experts."),
    ] = None,
    active: Annotated[
        int | None, typer.Option(metavar="K", min=1, rich_help_panel=EXPERTS, help="Experts a token passes; else 2.")
    ] = None,
    shared: Annotated[
        bool, typer.Option("--shared", metavar="", rich_help_panel=EXPERTS, help="And one that every token passes.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of what is drawn: routers, random heads.")] = 0,
    dtype: Annotated[
        Literal["auto", "bf16", "fp32"],
        typer.Option(help="Precision of the written weights; auto: fp32 if all of the model's are, else bf16."),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", metavar="", help="Replace a model that stands at OUT.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Make a model whose keys and values take less room, or that has experts: a start for training.

    Changes are made in the order heads, layers, windows, experts. The folder holds safetensors, config and tokenizer;
    transformers reads it too where a family of its is the same model.
    """
    given: dict[str, Any] = {
        "kv_heads": kv_heads,
        "share": _shared_by(share),
        "window": window,
        "pattern": _ratio(pattern),
    }
    given |= {"pinned": pinned, "experts": experts, "active": active or 2, "shared": shared}
    if kv_heads is None and share is None and window is None and experts is None:
        raise typer.BadParameter("say what to change: --kv-heads, --share, --window or --experts")
    if active is not None and experts is None:
        raise typer.BadParameter("--active is how many experts a token passes; say how many there are: --experts")
    if pool is not None and kv_heads is None:
        raise typer.BadParameter("--pool is what fewer key/value heads are made of; say how many: --kv-heads")
    from openbook.cli.models import here

    path = here(model)
    import torch

    from openbook.lm.convert import convert_checkpoint, decoder_or_encoder, is_exact, respec, warnings
    from openbook.lm.weights.checkpoint import open_checkpoint
    from openbook.lm.weights.names import parameters

    source = open_checkpoint(path)
    before = decoder_or_encoder(source)
    after = respec(before, **given)
    said = warnings(before, after, pool or "mean")
    remark(f"{source.name} → {folder} …")
    with progress_bar() as bar:
        names = len(parameters(after))
        done = iter(range(1, 1 << 31))
        layout = convert_checkpoint(
            source, after, folder, pool=pool or "mean", seed=seed, force=force,
            dtype={"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype],
            progress=None if bar is None else lambda name: bar(min(next(done), names), names, name),
        )  # fmt: skip
    made = open_checkpoint(folder)
    facts = {
        "path": str(folder),
        "architecture": layout.architecture,
        "transformers": layout.known,
        "exact": is_exact(before, after),
        "warnings": said,
        "before": _facts(source, before),
        "after": _facts(made, after),
    }
    if as_json:
        print_json(facts)
    else:
        _show(facts)


def _shared_by(text: str | None) -> int | tuple[int, ...] | None:
    """`2`, or the layers that make keys: `0,1,4,7`."""
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise typer.BadParameter(f"--share takes a number of layers, or layers as 0,1,4,7; not {text!r}")
    numbers = tuple(int(part) for part in parts)
    return numbers[0] if len(numbers) == 1 else numbers


def _ratio(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise typer.BadParameter(f"--pattern takes local and global layers as 5:1; not {text!r}")
    return int(parts[0]), int(parts[1])


def _facts(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, Any]:
    import torch

    from openbook.lm.describe import describe, kept

    whole = describe(spec)
    rows = [row for row in kept(spec, torch.bfloat16) if row["codec"] == "raw"]  # none for an encoder
    return {
        "parameters": checkpoint.parameters,
        "bytes": checkpoint.bytes,
        "kv_bytes_per_token": {"bf16": spec.kv_bytes_per_token(2), "fp32": spec.kv_bytes_per_token(4)},
        "kv_bytes_at_longest": rows[0]["bytes_at_longest"] if rows else None,
        "attention": whole["attention"],
        "feed_forward": whole["feed_forward"],
    }


def _show(facts: dict[str, Any]) -> None:
    from rich.table import Column, Table

    console = out()
    grid = Table("", Column("before", justify="right"), Column("after", justify="right"))
    old, new = facts["before"], facts["after"]
    grid.add_row("parameters", f"{old['parameters']:,}", f"{new['parameters']:,}")
    if old["kv_bytes_at_longest"] is not None:
        token = (f"{each['kv_bytes_per_token']['bf16']:,} bytes" for each in (old, new))
        grid.add_row("keys and values a token, bf16", *token)
        longest = (f"{each['kv_bytes_at_longest'] / 2**20:,.1f} MiB" for each in (old, new))
        grid.add_row("of the longest text", *longest)
    grid.add_row("file", *(f"{each['bytes'] / 2**20:,.1f} MiB" for each in (old, new)))
    console.print(grid)
    readers = "transformers reads it too" if facts["transformers"] else "openbook alone reads it"
    console.print(f"written to {one_line(facts['path'])} as {facts['architecture']}: {readers}", markup=False)
    writes = new["kv_bytes_at_longest"] is not None  # what it costs was measured of a model that writes
    for line in (*facts["warnings"], EXACT if facts["exact"] else TRAIN + COST * writes):
        console.print(line, markup=False, soft_wrap=True)
