"""What `graph` does with a model: names that it finds in the documents, reports that it writes, and what that takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from openbook.cli import options
from openbook.cli.output import complain, err, one_line, out, plural, print_json, progress_bar
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.answer.reports import Reporting
    from openbook.book.communities import Communities, Community
    from openbook.book.embedder import Embedder
    from openbook.book.graph.asking import Asking, Modeller
    from openbook.book.store import Book
    from openbook.config import Config
    from openbook.lm.model import LanguageModel

KEY = "OPENBOOK_MEMBER_KEY"


def extract(
    config: Config, book: Book, how: str, model: str | None, budget: int | None, dry_run: bool, as_json: bool
) -> None:
    """Choose how the names of a book are extracted; by a model: ask it about what is left, or tell what that costs.

    After a dry run, exits.
    """
    from openbook.book.graph.asking import Extracting, ask, choose, estimate
    from openbook.book.graph.extract import extractors
    from openbook.book.graph.modelled import WAYS

    if how not in WAYS:
        if model is not None or budget is not None or dry_run:
            raise typer.BadParameter(f"--extract {how} asks no model; --extract-model, --budget, --dry-run are of one")
        if how not in extractors():
            raise Fault(f"no extractor is called {how!r}; there are: {', '.join([*extractors(), *WAYS])}")
        choose(book, Extracting(how))
        return
    modeller = modeller_of(config, model)
    if dry_run:
        planned = estimate(book, modeller)
        _tell_plan(planned, modeller.made, as_json)
        raise typer.Exit
    choose(book, Extracting(how=how, made=modeller.made))
    with progress_bar() as progress:
        done = ask(book, modeller, budget, progress)
    if done.calls or done.left:
        _tell(done)


def modeller_of(config: Config, name: str | None) -> Modeller:
    """The model here, or on a server, that is to say what texts name."""
    from openbook.answer.extracting import Local, OnServer

    if name is not None and "://" in name:
        from openbook.lm.remote import Remote

        return OnServer(Remote.named(name, os.environ.get(KEY) or None))
    from openbook.cli.models import here

    return Local(options.model_of(config, here(name or config.model or "smollm2")))


def report(
    config: Config,
    encoder: Embedder,
    divided: Communities,
    chosen: Sequence[Community],
    budget: int | None,
    dry_run: bool,
    as_json: bool,
) -> LanguageModel:
    """Let the model write the reports of communities that are not written yet, or tell what that takes and exit."""
    from openbook.answer.reports import estimate, write_reports
    from openbook.cli.models import here
    from openbook.mix.reading import Reader, passage_cache

    model = options.model_of(config, here(config.model or "smollm2"))
    if dry_run:
        planned = estimate(divided, chosen, model)
        if as_json:
            print_json({"model": model.name, **_cost(planned), "reports": planned.reports, "kept": planned.kept})
        else:
            out().print(f"{plural(planned.reports, 'report')} to write, {planned.kept:,} kept: {_tokens(planned)}")
        raise typer.Exit
    book = divided.graph.book
    reader = Reader(book, model, encoder, kept=passage_cache(book, model, config.kv_memory, config.kv_disk))
    with progress_bar() as progress:
        done = write_reports(reader, divided, chosen, budget, progress)
    if done.reports or done.left:
        told = f"{plural(done.reports, 'report')} in {done.seconds:.0f} s"
        complain(f"{told}, {done.read:,} tokens read, {done.written:,} written; {done.kept:,} were written already")
    if done.left:
        complain(f"the budget is spent, {plural(done.left, 'report')} left: the same command goes on with them")
    return model


def show_report(written: dict[str, Any]) -> None:
    """What the model wrote, each sentence with the places it comes from; without those that no passage adds to."""
    from rich.text import Text

    from openbook.answer.account import LEAST_BITS
    from openbook.answer.reports import told_by_sentence

    console, documents = out(), {source["id"]: source.get("document") for source in written["sources"]}
    told = told_by_sentence(written) if written["answer"] else []
    shown = [sentence for sentence in told if sentence["bits"] >= LEAST_BITS]
    for sentence in shown:
        console.print(Text("  " + one_line(sentence["text"]), "italic"), soft_wrap=True)
        places = [
            f"{one_line(documents.get(cited['source']))} {cited['source_span'][0]}–{cited['source_span'][1]}"
            for cited in sentence["citations"]
        ]
        console.print(Text(f"    {sentence['bits']:.1f} bits  {', '.join(places)}".rstrip(), "dim"), soft_wrap=True)
    if len(told) > len(shown) or not told:
        left = f"{plural(len(told) - len(shown), 'sentence')} left out to which the passages add nothing"
        console.print(Text("    " + (left if told else "the model wrote nothing"), "dim"), soft_wrap=True)


def _tokens(planned: Asking | Reporting) -> str:
    return f"{planned.read:,} tokens read and {planned.written:,} written, at most"


def _tell_plan(planned: Asking, made: str, as_json: bool) -> None:
    if as_json:
        print_json({"model": made, "calls": planned.calls, **_cost(planned), "documents": planned.documents})
        return
    told = f"{plural(planned.calls, 'call')} about {plural(planned.documents, 'document')}"
    out().print(f"{told}: {_tokens(planned)}", soft_wrap=True)


def _cost(planned: Asking | Reporting) -> dict[str, Any]:
    return {"read": planned.read, "written": planned.written}


def _tell(done: Asking) -> None:
    complain(
        f"{plural(done.calls, 'call')} in {done.seconds:.0f} s, {done.read:,} tokens read, {done.written:,} written; "
        f"{plural(done.names, 'name')} and {plural(done.relations, 'relation')} kept, {done.dropped_names:,} and "
        f"{done.dropped_relations:,} dropped that the text does not say or the model did not mean"
    )
    if done.left:
        complain(f"the budget is spent, {plural(done.left, 'call')} left: the same command goes on with them")


def shown_choice(book: Book) -> None:
    """One line where a model names things: which, for what part of the documents."""
    from openbook.book.graph.asking import chosen, covered
    from openbook.book.graph.stored import FOLDER

    extracting = chosen(book.path / FOLDER)
    if extracting.how:
        done, documents = covered(book, extracting.made)
        err_line = f"names by {extracting.made.split()[0]}, {done:,} of {plural(documents, 'document')} whole"
        err().print(one_line(err_line), style="dim", markup=False)
