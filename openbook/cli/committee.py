"""`committee`: several models, or one under several prompts, answer one question together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from openbook.cli import options
from openbook.cli.answers import ABSTAINED, keep_answer, save_page
from openbook.cli.books import check_there, open_for
from openbook.cli.output import one_line, out, print_json
from openbook.errors import Fault

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from openbook.answer.committee import How, Piece, Together
    from openbook.answer.seats import Passage, Seat
    from openbook.book.store import Book
    from openbook.config import Config
    from openbook.lm.decoding.sampling import Sampling
    from openbook.lm.model import LanguageModel
    from openbook.lm.remote import Remote

MOST = 16
"""Members that are taken."""
KEY = "OPENBOOK_MEMBER_KEY"
TOGETHER = {"mix": "auto", "tokens": "tokens", "bytes": "bytes"}
CHOSEN = ("vote", "mbr", "debate")


def register(app: typer.Typer) -> None:
    """Add this command to the app."""
    app.command(
        epilog="Example:  openbook committee 'What is the capital of France?' --member smollm2 --member gemma3"
    )(committee)


def committee(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    member: Annotated[
        list[str],
        typer.Option(
            "--member",
            "-m",
            metavar="M[=TEXT]",
            help="A model's name, .gguf file or folder, or http://HOST/v1#NAME on a server; after = what this member "
            "is told instead of the others' instruction. More than once.",
        ),
    ],
    book: options.Book = None,
    docs: options.Docs = None,
    passages: Annotated[int, typer.Option(metavar="K", min=1, max=16, help="Passages each member reads.")] = 2,
    how: Annotated[
        str,
        typer.Option(
            metavar="WAY",
            help="Write together (mix: by tokens where vocabularies allow, else by bytes; or tokens, or bytes), or "
            "choose among whole answers: vote, mbr (minimum Bayes risk), debate.",
        ),
    ] = "mix",
    samples: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Of vote and mbr: answers each member gives.")
    ] = 5,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, max=8, help="Of a debate: rounds.")] = 2,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="Longest answer.")] = 64,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="T", min=0, help="Above 0 words are drawn; else 0, and 0.7 for several answers."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Same seed, same answer.")] = 0,
    precision: options.Precision = None,
    backend: options.Backend = None,
    as_json: options.AsJson = False,
    html: options.Html = None,
) -> None:
    """Let several models answer together, and show which of them each word comes from.

    With --book or --docs every member reads the best passages; without, members answer from what they know. Members on
    a server are sent the question and the passages; OPENBOOK_MEMBER_KEY is sent along if it is set. What is written
    together from a book is kept there for `openbook why`.
    """
    if how not in (*TOGETHER, *CHOSEN):
        raise typer.BadParameter(f"--how is {how!r}; it is one of {', '.join((*TOGETHER, *CHOSEN))}")
    if how in CHOSEN and html is not None:
        raise typer.BadParameter(f"--html shows whose each word is; by {how} an answer is one member's: leave it out")
    config = options.configure(book=book, precision=precision, backend=backend)
    if not question.strip():
        raise Fault("the question is empty; ask something, for example: openbook committee 'Who wrote this?'")
    given = book is not None or docs is not None
    if given:
        check_there(config, docs)
    from openbook.lm.decoding.sampling import Sampling

    seats = seats_of(config, member)
    opened, read = _passages(config, docs, question, passages) if given else (None, ())
    if how in CHOSEN:
        drawn = Sampling(0.7 if temperature is None else temperature, seed=seed)
        _deliberate(seats, question.strip(), read, how, drawn, max_tokens, samples, rounds, as_json)
    else:
        from openbook.answer.committee import Together

        sampling = Sampling(temperature or 0.0, seed=seed)
        together = Together(seats, question.strip(), read, cast("How", TOGETHER[how]), sampling, max_tokens)
        if opened is not None:
            together.book = {"path": str(opened.path), "version": opened.version}
        _write(together, as_json)
        if opened is not None:
            keep_answer(opened.path, together.to_dict())
        if html is not None:
            save_page(together.to_dict(), html)
        if not together.text:
            raise typer.Exit(ABSTAINED)


def seats_of(config: Config, named: list[str]) -> list[Seat]:
    """The members, each model loaded once."""
    from openbook.answer.seats import Seat

    if not 1 <= len(named) <= MOST:
        raise Fault(f"a committee of {len(named)}; give --member from 1 to {MOST} times")
    models: dict[str, LanguageModel | Remote] = {}
    seats: list[Seat] = []
    for each in named:
        name, _, told = each.partition("=")
        if name not in models:
            models[name] = _model(config, name)
        short = (name.partition("#")[2] if "://" in name else Path(name).name.removesuffix(".gguf")) or name
        names = (short, *(f"{short}~{n}" for n in range(2, MOST + 1)))
        free = next(name for name in names if all(name != seat.name for seat in seats))
        seats.append(Seat(free, models[name], told or None))
    return seats


def _model(config: Config, name: str) -> LanguageModel | Remote:
    if "://" in name:
        from openbook.lm.remote import Remote

        return Remote.named(name, os.environ.get(KEY) or None)
    from openbook.cli.models import here

    return options.model_of(config, here(name))


def _passages(config: Config, docs: Path | None, question: str, count: int) -> tuple[Book, tuple[Passage, ...]]:
    from openbook.answer.seats import Passage
    from openbook.book.retrieve import find
    from openbook.mix.reading import passage_text
    from openbook.mix.settings import Settings

    opened, encoder = open_for(config, docs)
    hits = find(opened, question, count, encoder, temperature=Settings().prior_temperature)
    read = [
        Passage(f"p{i}", passage_text(hit), hit.prior, hit.passage.document, hit.passage.page, hit.passage.line)
        for i, hit in enumerate(hits, 1)
    ]
    return opened, tuple(read)


def _deliberate(
    seats: list[Seat],
    question: str,
    read: tuple[Passage, ...],
    how: str,
    sampling: Sampling,
    max_tokens: int,
    samples: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Whole answers, and the one that is chosen."""
    from openbook.answer.deliberation import Deliberation, least_risk, vote

    asked = Deliberation(seats, question, [passage.text for passage in read], sampling, max_tokens)
    said = asked.debate(rounds) if how == "debate" else asked.draw(samples)
    chosen = (vote if how == "vote" else least_risk)(said)
    facts = asked.to_dict(how, chosen)
    if as_json:
        print_json(facts)
        return
    console = out()
    _show_answers(console, facts, [seat.name for seat in seats])
    for passage in read:
        console.print(_dim(f"    {passage.id}  {one_line(passage.place)}"), soft_wrap=True)
    cost = facts["cost"]
    console.print(_dim(f"chosen by {how}; {cost['read']:,} tokens read, {cost['written']:,} written"), soft_wrap=True)


def _show_answers(console: Console, facts: dict[str, Any], names: list[str]) -> None:
    from rich.style import Style
    from rich.text import Text

    from openbook.answer import palette
    from openbook.answer.page.values import clean
    from openbook.answer.terminal import is_plain

    console.print(Text(clean(facts["answer"]) or "Nobody answered."), soft_wrap=True)
    console.print()
    for answer in facts["answers"]:
        i = names.index(answer["member"])
        line = Text(f"{i + 1:>2}  ", Style() if is_plain(console) else Style(color=palette.hue(i).either, bold=True))
        line.append(f"{one_line(answer['member'])[:20]:<20}")
        if facts["how"] == "debate":
            line.append(f" round {answer['round'] + 1} ", "dim")
        console.print(line.append(one_line(answer["text"])[:160], "dim"), soft_wrap=True)


def _dim(text: str) -> Text:
    from rich.text import Text

    return Text(text, "dim")


def _write(together: Together, as_json: bool) -> None:
    """The answer, on a terminal while it is written."""
    from openbook.answer.committee import write_together

    console = out()
    live = console.is_terminal and not as_json
    write_together(together, (lambda piece: _print_piece(console, together, piece)) if live else None)
    if as_json:
        print_json(together.to_dict())
        return
    if not live:
        for piece in together.pieces:
            _print_piece(console, together, piece)
    _under(console, together)


def _print_piece(console: Console, together: Together, piece: Piece) -> None:
    """A piece in the colour of the member it mostly comes from, underlined where it is nearly all that one's."""
    from rich.style import Style
    from rich.text import Text

    from openbook.answer import palette
    from openbook.answer.page.values import clean
    from openbook.answer.terminal import is_plain

    share_M = together.by_seat(piece.share_S)
    owner = int(share_M.argmax())
    style = Style(color=palette.hue(owner).either, underline=bool(share_M[owner] > 0.9))
    text = piece.text if piece is not together.pieces[0] else piece.text.lstrip()
    console.print(Text(clean(text), Style() if is_plain(console) else style), end="", soft_wrap=True)


def _under(console: Console, together: Together) -> None:
    """Who the members were, how far each carried the answer, and what the committee cost beside its best member."""
    import numpy as np
    from rich.style import Style
    from rich.text import Text

    from openbook.answer import palette
    from openbook.answer.terminal import is_plain

    facts, plain = together.to_dict(), is_plain(console)
    console.print("\n" if together.text else f"Not answered: {facts['reason']}.\n")
    shares, weights = (
        together.by_seat(np.array([row[key] for row in facts["sources"]])) for key in ("responsibility", "weight")
    )
    for i, (seat, share, weight) in enumerate(zip(together.seats, shares, weights, strict=True)):
        line = Text(f"{i + 1:>2}  ", Style() if plain else Style(color=palette.hue(i).either, bold=True))
        line.append(f"{one_line(seat.name)[:40]:<24}").append(f" {share:>5.0%} of the answer, weight now {weight:.0%}")
        if seat.system:
            line.append(f"  told: {one_line(seat.system)[:60]}", "dim")
        console.print(line, soft_wrap=True)
    for passage in together.passages:
        console.print(_dim(f"    {passage.id}  {one_line(passage.place)}"), soft_wrap=True)
    if together.pieces:
        bits = facts["bits"]
        said = (
            f"{bits['mixture']:.1f} bits by {facts['how']}; the best row alone ({bits['best']}) "
            f"{bits['members'][bits['best']]:.1f}, at most {bits['allowed']:.1f} are possible"
        )
        if (untold := facts["untold"]) > 0.0005:
            said += f"; up to {untold:.1%} of a word's probability is what a server did not tell"
        console.print(_dim(said), soft_wrap=True)
