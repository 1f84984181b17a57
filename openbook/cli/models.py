"""Commands on models: which are here, fetch one, what one is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.output import one_line, out, print_json, remark

if TYPE_CHECKING:
    from openbook.lm.spec import ModelSpec
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
    from openbook.lm.weights.pull import CATALOGUE, installed

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
    from openbook.lm.weights.pull import CATALOGUE
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
    as_json: options.AsJson = False,
) -> None:
    """What a model is: size, attention, keys and values per token, tensor kinds, licence."""
    from openbook.lm.weights.pull import find, locate

    path = locate(name)
    from openbook.lm.weights.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path)
    known = find(name)
    facts = describe(checkpoint, known.license if known else None)
    if as_json:
        print_json(facts)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for key, value in _for_people(facts).items():
        table.add_row(key, Text(value, overflow="fold"))
    out().print(table)


def describe(checkpoint: Checkpoint, license: str | None) -> dict[str, Any]:
    """What `models show` says, as plain values."""
    spec = checkpoint.spec
    first = spec.layers[0]
    return {
        "name": checkpoint.name,
        "what": "writes text" if spec.head else "embeds text",
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "bytes": checkpoint.bytes,
        "parameters": checkpoint.parameters,
        "vocabulary": spec.vocabulary,
        "width": spec.width,
        "layers": len(spec.layers),
        "max_positions": spec.max_positions,
        "attention": attention(spec),
        "feed_forward": {
            "width": first.feed_forward.width,
            "activation": first.feed_forward.activation,
            "gated": first.feed_forward.gated,
        },
        "kv_bytes_per_token": {"bf16": spec.kv_bytes_per_token(2), "fp32": spec.kv_bytes_per_token(4)},
        "tensors": checkpoint.kinds,
        "license": license,
    }


def attention(spec: ModelSpec) -> list[dict[str, Any]]:
    """The kinds of attention in the stack, each with how many layers have it, in order of appearance."""
    kinds: dict[tuple[Any, ...], int] = {}
    for layer in spec.layers:
        a = layer.attention
        kind = "MHA" if a.kv_heads == a.heads else "MQA" if a.kv_heads == 1 else "GQA"
        key = (kind, a.heads, a.kv_heads, a.head_dim, a.window, a.causal, a.kv_from is not None)
        kinds[key] = kinds.get(key, 0) + 1
    names = ("kind", "heads", "kv_heads", "head_dim", "window", "causal", "shares_kv")
    return [{**dict(zip(names, key, strict=True)), "layers": count} for key, count in kinds.items()]


def _for_people(facts: dict[str, Any]) -> dict[str, str]:
    ways = []
    for a in facts["attention"]:
        heads = f"{a['heads']} heads of {a['head_dim']}, {a['kv_heads']} for keys and values"
        reach = f"window {a['window']}" if a["window"] else "sees all before it" if a["causal"] else "sees all"
        shared = ", reads an earlier layer's keys" if a["shares_kv"] else ""
        ways.append(f"{a['kind']}: {heads}, {reach}{shared} ({a['layers']} of {facts['layers']} layers)")
    mlp = facts["feed_forward"]
    kept = facts["kv_bytes_per_token"]
    return {
        "name": f"{one_line(facts['name'])} ({facts['what']})",
        "file": f"{one_line(facts['path'])} ({facts['format']}, {facts['bytes'] / 2**20:.1f} MiB)",
        "tensors": ", ".join(f"{count} {kind}" for kind, count in facts["tensors"].items()),
        "parameters": f"{facts['parameters']:,}",
        "stack": f"{facts['layers']} layers, {facts['width']} wide, {facts['vocabulary']:,} words, "
        f"{facts['max_positions']:,} tokens long",
        "attention": "\n".join(ways),
        "feed-forward": f"{mlp['width']} wide, {mlp['activation']}{', gated' if mlp['gated'] else ''}",
        "kept a token": f"{kept['bf16']:,} bytes of keys and values in bf16, {kept['fp32']:,} in fp32",
        "licence": facts["license"] or "unknown; see where the file came from",
    }
