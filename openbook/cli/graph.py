"""`graph`: who and what the documents name, what stands together, and in which sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.books import open_for
from openbook.cli.output import one_line, out, plural, print_json, progress_bar, remark
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.book.communities import Communities, Community, Report
    from openbook.book.embedder import Embedder
    from openbook.book.graph import Entity, Graph, Sentence
    from openbook.config import Config

MODEL = "Asking a model"
CARRYING, RELATED, SHOWN = 3, 10, 10
"""Sentences of a community, relations and sentences of an entity that are shown."""


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog="Example:  openbook graph 'Kevin Scott' --docs transcripts/")(graph)


def graph(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A name or phrase: what it is related to.")] = None,
    book: options.Book = None,
    docs: options.Docs = None,
    at: options.At = None,
    level: Annotated[
        int, typer.Option("--level", metavar="N", min=0, help="How finely communities are divided; else 0: coarsely.")
    ] = 0,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, max=10_000, help="How many are shown.")] = SHOWN,
    extract: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="From now on names are found as in print (built-in), by spaCy (spacy), by a language model (llm), or "
            "in print and by one (both); a model is asked about what it was not asked yet.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    extract_model: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            help="Which model: a name, .gguf file or folder, or http://HOST/v1#NAME on a server, which is sent the "
            "documents; else smollm2.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS", min=1, help="Stop before more are read and written; go on later.", rich_help_panel=MODEL
        ),
    ] = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write", metavar="", help="A model writes a report of each that is shown.", rich_help_panel=MODEL
        ),
    ] = False,
    model: options.Model = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", metavar="", help="Only say what the model would read and write.", rich_help_panel=MODEL
        ),
    ] = False,
    as_json: options.AsJson = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Draw it all on a web page.", rich_help_panel=options.OUTPUT),
    ] = None,
) -> None:
    """Show the communities of what the documents name, or of one name what it is related to.

    No model is asked without --extract llm or both, or --write. What one has said is kept: it is asked again only about
    what is new or changed.
    """
    config = options.configure(book=book, model=model)
    opened, encoder = open_for(config, docs, at)
    if extract is not None:
        from openbook.cli.graph_extract import extract as extracted

        extracted(config, opened, extract, extract_model, budget, dry_run, as_json)
    elif extract_model is not None or ((budget is not None or dry_run) and not write):
        raise typer.BadParameter(
            "--extract-model is of --extract llm or both, --budget and --dry-run of that or --write"
        )
    with progress_bar() as progress:
        found = opened.graph(progress)
    if not len(found):
        raise Fault(f"{one_line(opened.path)} names nothing yet; add documents with: openbook add PATH")
    if name is not None:
        _entity(found, name, k, as_json)
        return
    from openbook.book.communities import communities

    divided = communities(found)
    if html is not None:
        from openbook.answer.graph_page import save_graph

        remark(f"the picture is written to {save_graph(found, divided, html)}")
    chosen = divided.level(min(level, max(divided.levels - 1, 0)))[:k]
    reports = [divided.report(community, CARRYING) for community in chosen]
    texts = _written(config, encoder, divided, chosen, budget, dry_run, as_json) if write else {}
    if as_json:
        print_json(_facts(found, divided, reports, k, texts))
        return
    console = out()
    console.print(
        f"{plural(len(found), 'name')}, {plural(found.weights_EE.nnz // 2, 'relation')}, "
        f"{len(divided):,} communit{'y' if len(divided) == 1 else 'ies'} on {plural(divided.levels, 'level')}",
        style="dim",
    )
    for report in reports:
        _show(report, texts.get(report.community.number))


def _written(
    config: Config,
    encoder: Embedder,
    divided: Communities,
    chosen: list[Community],
    budget: int | None,
    dry_run: bool,
    as_json: bool,
) -> dict[int, dict[str, Any]]:
    """What the model wrote of these communities, by their numbers."""
    from openbook.answer.reports import made_by, written_of
    from openbook.cli.graph_extract import report

    model = report(config, encoder, divided, chosen, budget, dry_run, as_json)
    found = {community.number: written_of(divided, community, made_by(model)) for community in chosen}
    return {number: text for number, text in found.items() if text is not None}


def _show(report: Report, written: dict[str, Any] | None = None) -> None:
    from rich.text import Text

    console = out()
    heading = Text(one_line(report.title), "bold cyan")
    heading.append(f"  {plural(len(report.community.entities), 'name')}", "dim")
    console.print(heading, soft_wrap=True)
    console.print(Text("  " + one_line(", ".join(report.entities[3:])), "dim"), soft_wrap=True)
    if written is not None:
        from openbook.cli.graph_extract import show_report

        show_report(written)
    for sentence in report.sentences:
        _say(sentence)
    console.print()


def _say(sentence: Sentence) -> None:
    from rich.text import Text

    text = Text("  ").append(one_line(sentence.text)).append(f"  {one_line(sentence.document)}", "dim")
    out().print(text.append(f" {sentence.start}–{sentence.end}", "dim"), soft_wrap=True)


def _entity(found: Graph, name: str, k: int, as_json: bool) -> None:
    """One entity, what it is related to, and the sentences that say so."""
    entity = found.find(name)
    if entity is None:
        raise Fault(f"no document names {name!r}; see what they name with: openbook graph")
    relations = found.relations(entity.number, k)
    others = [found.entity(r.b if r.a == entity.number else r.a) for r in relations]
    made = [found.sentences(found.sentences_of(r.a, r.b)[:CARRYING]) for r in relations]
    if as_json:
        related = [
            {
                "name": other.name,
                "weight": round(r.weight, 4),
                "count": r.sentences,
                "sentences": list(map(_place, s)),
                "told": _told(found, r.a, r.b),
            }
            for other, r, s in zip(others, relations, made, strict=True)
        ]
        print_json({"book": _seen(found), "entity": _named(entity), "relations": related})
        return
    from rich.text import Text

    title = Text(one_line(entity.name), "bold cyan")
    counts = f"  {plural(entity.sentences, 'sentence')}, {plural(entity.passages, 'passage')}"
    out().print(title.append(counts, "dim"), soft_wrap=True)
    for other, relation, sentences in zip(others, relations, made, strict=True):
        line = Text(one_line(other.name), "bold").append(f"  {relation.weight:.1f} bits", "dim")
        out().print(line, soft_wrap=True)
        for told in _told(found, relation.a, relation.b)[:1]:
            said = one_line(f"{told['a']} {told['relation']} {told['b']}")
            out().print(Text("  ").append(said, "italic").append("  in a model's words", "dim"), soft_wrap=True)
        for sentence in sentences[:1]:
            _say(sentence)


def _told(found: Graph, a: int, b: int) -> list[dict[str, Any]]:
    """What a model said of a relation, with the sentences that it is tied to."""
    names = found.derived.shown
    return [
        {
            "a": names[t.a], "relation": t.what, "b": names[t.b],
            "sentences": list(map(_place, found.sentences(sorted({t.first, t.last})))),
        }
        for t in found.told(a, b)
    ]  # fmt: skip


def _facts(
    found: Graph, divided: Communities, reports: list[Report], k: int, texts: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    order = sorted(range(len(found)), key=lambda e: (-found.strength_E[e], e))[:k]
    names = found.derived.shown
    return {
        "book": _seen(found),
        "counts": {
            "entities": len(found),
            "relations": found.weights_EE.nnz // 2,
            "communities": len(divided),
            "levels": divided.levels,
        },
        "entities": [_named(found.entity(e)) for e in order],
        "relations": [
            {"a": names[r.a], "b": names[r.b], "weight": round(r.weight, 4), "count": r.sentences}
            for r in found.relations(most=k)
        ],
        "communities": [_report(report) | _text(texts.get(report.community.number)) for report in reports],
    }


def _report(report: Report) -> dict[str, Any]:
    community = report.community
    return {
        "number": community.number,
        "level": community.level,
        "parent": community.parent,
        "children": list(community.children),
        "title": report.title,
        "size": len(community.entities),
        "entities": list(report.entities),
        "covered": round(report.covered, 4),
        "sentences": [_place(sentence) for sentence in report.sentences],
    }


def _text(written: dict[str, Any] | None) -> dict[str, Any]:
    from openbook.answer.reports import told_by_sentence

    return {} if written is None else {"written": {**written, "sentences": told_by_sentence(written)}}


def _seen(found: Graph) -> dict[str, Any]:
    return {"path": str(found.book.path), "version": found.book.version}


def _named(entity: Entity) -> dict[str, Any]:
    return {
        "name": entity.name,
        "kind": entity.kind,
        "forms": list(entity.forms),
        "sentences": entity.sentences,
        "passages": entity.passages,
        "informative": round(entity.informative, 4),
        **({"type": entity.type} if entity.type else {}),
    }


def _place(sentence: Sentence) -> dict[str, Any]:
    return {
        "document": sentence.document,
        "span": [sentence.start, sentence.end],
        "text": sentence.text,
        "passage": sentence.passage,
    }
