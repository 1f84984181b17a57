"""Commands on models: which are here, fetch one, what one is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.output import one_line, out, print_json, progress_bar, remark
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.lm.weights.check import Report
    from openbook.lm.weights.checkpoint import Checkpoint

models = typer.Typer(help="Models: list those here, fetch one, say what one is.", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add this group to the app."""
    app.add_typer(models, name="models")


def here(name: str) -> str:
    """The name or path of a model, after fetching it if it has to be; a person who watches is told."""
    from openbook.lm.weights.pull import locate

    return str(locate(name, fetch=True, progress=lambda words: remark(f"{words} …")))


@models.callback()
def default(context: typer.Context, as_json: options.AsJson = False) -> None:
    if context.invoked_subcommand is None:
        list_models(as_json)


@models.command("list")
def list_models(as_json: options.AsJson = False) -> None:
    """The models openbook knows by name, and which of them are here."""
    from openbook.lm.weights.catalogue import CATALOGUE
    from openbook.lm.weights.pull import installed

    present = {model.name for model in installed()}
    if as_json:
        print_json([
            {
                "name": m.name, "full_name": m.full_name, "here": m.name in present, "what": m.what,
                "license": m.license, "terms": m.terms.url if m.terms else None,
                "path": str(m.path) if m.name in present else None,
            }
            for m in CATALOGUE
        ])  # fmt: skip
        return
    for model in CATALOGUE:
        terms = f"; {model.terms.name}, {model.terms.url}" if model.terms else ""
        print(f"{model.name:8} {'here' if model.name in present else 'not here':9} {model.what}{terms}")
    if len(present) < len(CATALOGUE):
        print("\nFetch one:  openbook models pull NAME")


@models.command()
def pull(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A name of `openbook models list`.")] = None,
    everything: Annotated[bool, typer.Option("--all", metavar="", help="All that openbook needs to answer.")] = False,
    accept_terms: Annotated[
        bool, typer.Option("--accept-terms", metavar="", help="You accept the model's own terms of use.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Say nothing unless it fails.")] = False,
) -> None:
    """Fetch a model and check it; one that is here already is left alone.

    A model with terms of its own is fetched by name alone, once they are accepted.
    """
    from openbook.lm.weights.catalogue import CATALOGUE
    from openbook.lm.weights.pull import pull as fetch

    if (name is None) == (not everything):
        raise typer.BadParameter("name one model, or give --all")
    if everything and accept_terms:
        raise typer.BadParameter("--all fetches no model that has terms to accept; name that model")
    names = [model.name for model in CATALOGUE if not model.terms] if everything else [str(name)]
    for each in names:
        accepted = _accepted(each, accept_terms, quiet)
        path = fetch(each, None if quiet else lambda words: remark(f"{words} …"), accept_terms=accepted)
        if not quiet:
            print(f"{each}: {path}")


def _accepted(name: str, said: bool, quiet: bool) -> bool:
    """Whether the person accepts the terms of a model that is not here; they are shown, and asked at a terminal."""
    from openbook.lm.weights.pull import find, installed

    model = find(name)
    if model is None or model.terms is None or model in installed():
        return said
    asks = not said and sys.stdin.isatty()
    if asks or (said and not quiet):  # where neither holds, the refusal shows them
        print(f"{model.full_name} is under the {model.terms.name}: {model.terms.url}", file=sys.stderr)
    return said or (asks and typer.confirm("Do you accept them?", err=True))


@models.command()
def show(
    name: Annotated[str, typer.Argument(help="A name, a .gguf file, or a folder of safetensors.")],
    check: Annotated[
        bool, typer.Option("--check", metavar="", help="Read all weights: none is NaN or infinite; its tokenizer fits.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """What a model is: size, attention, keys and values per token, tensor kinds, licence."""
    from openbook.lm.weights.pull import find, locate

    path = locate(name)
    from openbook.lm.weights.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path)
    known = find(name)
    facts = describe(checkpoint, known.rights if known else None)
    report = _checked(checkpoint) if check else None
    if report is not None:
        bad = {tensor: {"nan": nan, "infinite": infinite} for tensor, (nan, infinite) in report.not_finite.items()}
        facts["check"] = {"tensors": report.tensors, "not_finite": bad, "tokenizer": report.tokenizer}
    if as_json:
        print_json(facts)
    else:
        _print(facts)
    if report is not None and report.problem is not None:
        raise Fault(f"{path}: {report.problem}")


def _checked(checkpoint: Checkpoint) -> Report:
    from openbook.lm.weights.check import check

    with progress_bar() as bar:
        return check(checkpoint, bar)


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for key, value in _for_people(facts).items():
        table.add_row(key, Text(value, overflow="fold"))
    out().print(table)


def describe(checkpoint: Checkpoint, license: str | None) -> dict[str, Any]:
    """What `models show` says, as plain values."""
    import torch

    from openbook.lm.describe import describe as of_spec
    from openbook.lm.describe import kept
    from openbook.lm.spec import Seq2SeqSpec

    spec = checkpoint.spec
    writes = spec.decoder if isinstance(spec, Seq2SeqSpec) else spec
    facts = {
        "name": checkpoint.name,
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "bytes": checkpoint.bytes,
        "parameters": checkpoint.parameters,
        **of_spec(spec),
        "tensors": checkpoint.kinds,
        "license": license,
    }
    if writes.head:
        facts["kv_bytes_per_token"] = {"bf16": writes.kv_bytes_per_token(2), "fp32": writes.kv_bytes_per_token(4)}
        facts["kv_cache"] = kept(writes, torch.bfloat16)
    return facts


def _for_people(facts: dict[str, Any]) -> dict[str, str]:
    from openbook.lm.describe import attention_words, feed_forward_words

    said = {
        "name": f"{one_line(facts['name'])} ({facts['what']})",
        "file": f"{one_line(facts['path'])} ({facts['format']}, {facts['bytes'] / 2**20:.1f} MiB)",
        "tensors": ", ".join(f"{count} {kind}" for kind, count in facts["tensors"].items()),
        "parameters": f"{facts['parameters']:,}",
    }
    stacks = {"encoder ": facts["encoder"], "decoder ": facts} if "encoder" in facts else {"": facts}
    for which, stack in stacks.items():
        norms = {"rms": "RMSNorm", "layer": "LayerNorm"}[stack["norms"]["kind"]]
        said[f"{which}stack"] = (
            f"{stack['layers']} layers, {stack['width']} wide, {stack['vocabulary']:,} words, "
            f"{stack['max_positions']:,} tokens long, {norms} ({stack['norms']['place'].replace('_', ' ')})"
            + (f", {stack['positions']} positions" if stack["positions"] else "")
        )
        said[f"{which}attention"] = "\n".join(attention_words(a, stack["layers"]) for a in stack["attention"])
        said[f"{which}feed-forward"] = "\n".join(feed_forward_words(f) for f in stack["feed_forward"])
    if "labels" in facts:
        said["labels"] = one_line(", ".join(facts["labels"]))
    for row in facts.get("kv_cache", []):
        codec = {"raw": "bf16"}.get(row["codec"], row["codec"])
        said[f"K/V in {codec}"] = (
            f"{row['bytes_per_token']:,} bytes a token ({row['allocated_per_token']:,} allocated); for "
            f"{facts['max_positions']:,} tokens {row['bytes_at_longest'] / 2**20:,.1f} MiB "
            f"({row['allocated_at_longest'] / 2**20:,.1f} allocated, {row['layout']})"
        )
    if "check" in facts:
        bad, tokenizer = facts["check"]["not_finite"], facts["check"]["tokenizer"]
        weights = (
            f"{len(bad)} tensor{'s' if len(bad) > 1 else ''} with weights that are NaN or infinite"
            if bad
            else "all weights are finite"
        )
        said["check"] = f"{facts['check']['tensors']} tensors read, {weights}; " + (
            "the tokenizer fits" if tokenizer is None else "the tokenizer does not"
        )
        for tensor, counts in bad.items():
            said[f"  {one_line(tensor)}"] = f"{counts['nan']:,} NaN, {counts['infinite']:,} infinite"
    return said | {"licence": facts["license"] or "unknown; see where the file came from"}
