"""Commands on answers: `ask`, `why`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.options import WRITING
from openbook.cli.output import bar_if_told, complain, out, print_json, remark
from openbook.cli.ready import reader_for
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.answer.answer import Answer, Token
    from openbook.mix.reading import Reader

    OnToken = Callable[[Token], None]

ABSTAINED = 3


def register(app: typer.Typer) -> None:
    """Add these commands to the app."""
    app.command(epilog="Example:  openbook ask 'Who led the comet team?' --docs notes/ --html why.html")(ask)
    app.command(epilog="Example:  openbook why --html why.html")(why)


def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    book: options.Book = None,
    docs: options.Docs = None,
    at: options.At = None,
    model: options.Model = None,
    passages: Annotated[int | None, typer.Option(metavar="K", help="Passages that may speak, 1 to 64; else 5.")] = None,
    rerank: Annotated[
        int | None, typer.Option(metavar="K", help="Find K passages, look at each again, and read the best of them.")
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(metavar="R", help="By what: likelihood of the question, or a cross-encoder's folder."),
    ] = None,
    paths: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Read together: single, behind, sets, neighbours, graph; else single."),
    ] = None,
    hops: Annotated[
        int | None, typer.Option(metavar="N", help="Read up to N passages together, 2 to 4; else 2.")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(metavar="BITS", help="Abstain unless a passage makes the question so much likelier; else 5."),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", metavar="", help="Never abstain: answer even from passages that do not fit.")
    ] = False,
    way: Annotated[
        str | None,
        typer.Option(
            metavar="WAY",
            help="passages, graph, global, faq, closed, or auto: by the question's form and the book's pairs; "
            "else passages.",
        ),
    ] = None,
    persistence: Annotated[
        float | None,
        typer.Option(
            metavar="τ",
            help="How much a passage's past words earn it trust, 0 (RAG-Token) to 1 (RAG-Sequence); else 0.5.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    cap: Annotated[
        float | None,
        typer.Option(metavar="W", help="No source weighs more than this; else 0.98.", rich_help_panel=WRITING),
    ] = None,
    lambda_knn: Annotated[
        str | None,
        typer.Option(
            metavar="λ",
            help="The share of neighbours (add --neighbours): a number, or auto: by their distances; else 0.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_k: Annotated[
        int | None, typer.Option(metavar="K", help="Draw from the K likeliest only.", rich_help_panel=WRITING)
    ] = None,
    top_p: options.TopP = None,
    min_p: Annotated[
        float | None,
        typer.Option(metavar="P", help="Draw from those P times as likely as the likeliest.", rich_help_panel=WRITING),
    ] = None,
    repetition_penalty: options.RepetitionPenalty = None,
    beams: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Search with N answers at once for the likeliest, 1 to 64.", rich_help_panel=WRITING
        ),
    ] = None,
    answers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="N answers that differ, each with its evidence, 1 to 16.", rich_help_panel=WRITING
        ),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(metavar="α", help="Of beams: above 0 favours longer answers; else 1.", rich_help_panel=WRITING),
    ] = None,
    early_stopping: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Of beams: search no further once N answers have ended (yes), the others fall behind (no), "
            "or none can win any more (never); else no.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    stop: options.Stop = None,
    json_schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answer in JSON of the schema in this file.", rich_help_panel=WRITING),
    ] = None,
    regex: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Answer with what this matches as a whole.", rich_help_panel=WRITING),
    ] = None,
    speculate: Annotated[
        bool | None,
        typer.Option(
            "--speculate/--no-speculate",
            metavar="",
            help="Read ahead what is being copied, in one step; else where that cannot change the answer.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    cut_repeats: options.CutRepeats = None,
    robust: Annotated[
        int | None,
        typer.Option(
            metavar="J",
            help="Every word withstands J arbitrary bad passages among those found; cut or withheld where not. "
            "0: equal votes, nothing cut.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    seed: options.Seed = None,
    precision: options.Precision = None,
    backend: options.Backend = None,
    stride: Annotated[
        int | None,
        typer.Option(
            metavar="S",
            min=1,
            help="One passage at a time, looked up anew every S tokens of the answer.",
            rich_help_panel=WRITING,
        ),
    ] = None,
    kv_codec: options.KvCodec = None,
    kv_layout: options.KvLayout = None,
    as_json: options.AsJson = False,
    html: options.Html = None,
    report: options.Report = None,
) -> None:
    """Answer a question from your documents, and show which passage each word came from.

    It abstains, with exit status 3, where no passage has to do with the question, or the model only repeated itself.
    """
    config = options.configure(
        book=book, model=model, passages=passages, rerank=rerank, reranker=reranker, paths=paths, hops=hops,
        answers=answers, persistence=persistence, max_tokens=max_tokens, margin=margin,
        anyway=anyway or None, cap=cap, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
        precision=precision, backend=backend, kv_codec=kv_codec, kv_layout=kv_layout,
        lambda_knn=lambda_knn, min_p=min_p, repetition_penalty=repetition_penalty, beams=beams,
        length_penalty=length_penalty, early_stopping=early_stopping, stop=tuple(stop) if stop else None,
        json_schema=json_schema, regex=regex, speculate=speculate, cut_repeats=cut_repeats,
        robust=robust,
    )  # fmt: skip
    if not question.strip():
        raise Fault("the question is empty; ask something, for example: openbook ask 'Who wrote this?'")
    check_report(report)
    reader, routed = reader_for(config, docs, at), dict[str, Any]()
    if way is not None:
        from openbook.cli.ways import go

        going = go(way, reader, question, as_json, html, report)
        if going.done:
            return
        reader, routed = going.reader, going.told
    if stride is None:
        answer = _write(reader, question, show=not as_json)
    else:
        from openbook.cli.complete import again

        answer = again(reader, question, stride, show=not as_json)
    facts = answer.to_dict() | routed
    if as_json:
        print_json(facts)
    from openbook.answer.replay import run_of

    keep_answer(reader.book.path, {**facts, "run": run_of(reader.model, config.model_dump(mode="json"))})
    if html is not None:
        save_page(facts, html)
    if report is not None:
        save_report(facts, report)
    if answer.abstained:
        raise typer.Exit(ABSTAINED)


def why(
    number: Annotated[
        int | None, typer.Argument(metavar="N", min=1, help="Which answer of the book; else the last.")
    ] = None,
    book: Annotated[
        Path | None,
        typer.Option("--book", "-b", metavar="DIR", help="The book's folder; else the book asked last."),
    ] = None,
    replay: Annotated[
        bool,
        typer.Option("--replay", metavar="", help="Ask again at the answer's version: is it the same?"),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="M", help="Replay with this model: needed where it has no known name."),
    ] = None,
    as_json: options.AsJson = False,
    html: options.Html = None,
    report: options.Report = None,
) -> None:
    """Show the evidence of the last answer again, or of the N-th of its book."""
    if replay and (html is not None or report is not None):
        named = "--html" if html is not None else "--report"
        raise typer.BadParameter(f"--replay compares two answers and makes no page; leave {named} out")
    check_report(report)
    if model is not None and not replay:
        raise typer.BadParameter("--model is of --replay; what is kept is shown without a model")
    from openbook.answer.history import last_book, recall

    folder = last_book() if book is None else book.expanduser()
    answer = recall(folder, number)
    if replay:
        from openbook.cli.replay import replayed

        replayed(folder, answer, model, as_json)
        return
    if as_json:
        print_json(answer)
    elif html is None and report is None:
        print_answer(answer)
    if html is not None:
        save_page(answer, html)
    if report is not None:
        save_report(answer, report)


def _write(reader: Reader, question: str, show: bool) -> Answer:
    from openbook.answer.ask import write
    from openbook.book.documents import tidy

    with bar_if_told() as reader.progress:
        return shown(lambda on_token: write(reader, tidy(question), on_token), show)


def shown(write: Callable[[OnToken | None], Answer], show: bool, sources: Sequence[Mapping[str, Any]] = ()) -> Answer:
    """The answer that `write` gives; where `show`, printed with its evidence, on a terminal while it is written.

    `sources`: those there can be, in their order, where not all are known at the first token.
    """
    console = out()
    if not (show and console.is_terminal):
        answer = write(None)
        if show:
            print_answer(answer.to_dict())
        return answer
    from openbook.answer.terminal import Stream

    live = Stream(console, sources)
    answer = write(lambda token: live.token(token.text, token.responsibility, token.bits))
    live.finish(answer.to_dict())
    return answer


def print_answer(answer: dict[str, Any]) -> None:
    """Print an answer with its evidence."""
    from openbook.answer.terminal import show

    show(answer, out())


def keep_answer(book: Path, answer: dict[str, Any]) -> None:
    """Remember the answer for `openbook why`; where that cannot be, the answer was given all the same."""
    from openbook.answer.history import keep

    try:
        number = keep(book, answer)
    except (OSError, Fault) as error:
        complain(f"this answer is not kept for `openbook why`: {getattr(error, 'strerror', None) or error}")
        return
    remark(f"answer {number}; its evidence again: openbook why {number}")


def save_page(answer: dict[str, Any], path: Path) -> None:
    """Write an answer and its evidence as a page."""
    from openbook.answer.html import save_html

    remark(f"evidence written to {save_html(answer, path)}")


def check_report(path: Path | None) -> None:
    """Raise bad usage for a report of no known kind: before anything slow is done."""
    from openbook.answer.report.save import MEDIA

    if path is not None and path.suffix.lower().removeprefix(".") not in MEDIA:
        raise typer.BadParameter(f"--report writes what the ending says: .{', .'.join(MEDIA)}; {path} has none of them")


def save_report(answer: dict[str, Any], path: Path) -> None:
    """Write an answer and its evidence as the path's ending says."""
    from openbook.answer.report.save import save

    remark(f"report written to {save(answer, path)}")
