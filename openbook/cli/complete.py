"""The command that goes on with a text: `complete`."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from openbook.cli import options
from openbook.cli.answers import keep_answer, save_page, shown
from openbook.cli.output import bar_if_told, print_json, remark
from openbook.cli.ready import reader_for, settings_of
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.answer.answer import Answer
    from openbook.config import Config
    from openbook.lm.model import LanguageModel
    from openbook.mix.reading import Reader
    from openbook.mix.sources.retrieved import Retrieval

LOOKING = "How passages are looked up"
LONGEST = 1 << 20
"""Bytes of a file that are read: no model reads as much."""


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(epilog="Example:  openbook complete 'The comet was first seen' --book notes.book --stride 8")(complete)


def complete(
    text: Annotated[str, typer.Argument(metavar="TEXT|FILE", help="The text to go on with, or a file that holds it.")],
    book: options.Book = None,
    docs: options.Docs = None,
    model: options.Model = None,
    stride: Annotated[
        int, typer.Option(metavar="S", min=1, help="Look up anew every S tokens.", rich_help_panel=LOOKING)
    ] = 4,
    query_tokens: Annotated[
        int | None,
        typer.Option(metavar="L", min=1, help="With the last L; else 32, dense 64.", rich_help_panel=LOOKING),
    ] = None,
    by: Annotated[str, typer.Option(metavar="HOW", help="bm25, dense or fused.", rich_help_panel=LOOKING)] = "bm25",
    rerank: Annotated[
        int,
        typer.Option(
            metavar="K",
            min=1,
            help="Of K passages take the one under which the last words are likeliest; else the first.",
            rich_help_panel=LOOKING,
        ),
    ] = 1,
    closed_share: Annotated[
        float,
        typer.Option(metavar="W", help="Weight of the text with no passage before it.", rich_help_panel=LOOKING),
    ] = 0.0,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    stop: options.Stop = None,
    cut_repeats: options.CutRepeats = None,
    seed: options.Seed = None,
    precision: options.Precision = None,
    backend: options.Backend = None,
    kv_codec: options.KvCodec = None,
    as_json: options.AsJson = False,
    html: options.Html = None,
) -> None:
    """Go on with a text from your documents: the passage before it is looked up anew every few words.

    The evidence says which passage was in force for each word, and what it added. With no book the model writes alone.
    """
    config = options.configure(
        book=book, model=model, max_tokens=max_tokens, temperature=temperature, top_p=top_p,
        repetition_penalty=repetition_penalty, stop=tuple(stop) if stop else None, cut_repeats=cut_repeats, seed=seed,
        precision=precision, backend=backend, kv_codec=kv_codec,
    )  # fmt: skip
    text = text_or_file(text)
    from openbook.mix.sources.retrieved import Retrieval

    retrieval = Retrieval(stride, query_tokens, by, rerank)
    named = "book" in config.model_fields_set
    answer, model_used = _write(config, docs, named, text, retrieval, closed_share, not as_json)
    facts = answer.to_dict()
    if as_json:
        print_json(facts)
    if (path := answer.book["path"]) is not None:
        from openbook.answer.replay import run_of

        keep_answer(Path(path), {**facts, "run": run_of(model_used, config.model_dump(mode="json"))})
    if html is not None:
        save_page(facts, html)


def text_or_file(given: str) -> str:
    """The text, or that of the file with this name."""
    file, text = Path(given), given
    try:
        if file.is_file():
            with file.open("rb") as opened:
                text = opened.read(LONGEST).decode("utf-8", "replace")
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # what is too long for a name is a text
            raise Fault(f"{given} cannot be read: {error.strerror}; check its permissions") from error
    if text == given and not re.search(r"\s", given) and file.suffix in (".txt", ".md", ".rst", ".py", ".html"):
        remark(f"there is no file {given}: it is taken as the text itself")
    if not text.strip():
        raise Fault(f"{given if text != given else 'the text'} is empty; give some words to go on with")
    return text


def _write(
    config: Config, docs: Path | None, named: bool, text: str, retrieval: Retrieval, closed_share: float, show: bool
) -> tuple[Answer, LanguageModel]:
    from openbook.answer.complete import complete

    how: dict[str, Any] = {"retrieval": retrieval, "closed_share": closed_share}
    if docs is None and not named and not (config.book / "HEAD").exists():
        from openbook.cli.models import here

        remark(f"there is no book at {config.book}: the model writes alone")
        how |= {"model": options.model_of(config, here(config.model or "smollm2")), "settings": settings_of(config)}
    else:
        reader = reader_for(config, docs)
        how |= {name: getattr(reader, name) for name in ("book", "model", "encoder", "settings", "kept")}
    colours = _colours(config.max_tokens or 64, retrieval.stride)
    return shown(lambda on_token: complete(text, on_token=on_token, **how), show, colours), how["model"]


def again(reader: Reader, question: str, stride: int, show: bool) -> Answer:
    """The answer to a question from one passage at a time, looked up anew every `stride` tokens."""
    from openbook.answer.complete import ask_again
    from openbook.book.documents import tidy
    from openbook.mix.prompt import PASSAGE_TOKENS
    from openbook.mix.sources.retrieved import Retrieval

    settings, question = reader.settings, tidy(question).strip()
    retrieval = Retrieval(stride, by="fused", rerank=settings.passages, passage_tokens=PASSAGE_TOKENS)
    colours = _colours(settings.max_tokens, stride)
    with bar_if_told() as reader.progress:
        return shown(lambda on_token: ask_again(reader, question, retrieval, on_token), show, colours)


def _colours(tokens: int, stride: int) -> list[dict[str, str]]:
    """The sources there can be, in their order: a colour is given out before the passage is known."""
    lookups = tokens // stride + 1
    return [*({"id": f"p{i + 1}", "kind": "passage"} for i in range(lookups)), {"id": "closed", "kind": "closed_book"}]
