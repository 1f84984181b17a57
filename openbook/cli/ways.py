"""`ask --way`: the way a question goes, as it was asked for or by its form and the pairs on file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from openbook.cli.output import complain, print_json
from openbook.errors import Fault

if TYPE_CHECKING:
    from openbook.answer.faq import Reply
    from openbook.answer.routing import Route
    from openbook.mix.reading import Reader

ABSTAINED = 3


@dataclass(frozen=True)
class Going:
    """Who answers, and what is told of the way; `done`: the answer was given already, by another command's means."""

    reader: Reader
    told: dict[str, Any]
    done: bool = False


def go(way: str, reader: Reader, question: str, as_json: bool, html: Path | None, report: Path | None = None) -> Going:
    """Take the way, or with `auto` find it; what is no answer of passages is given here."""
    from openbook.answer.routing import WAYS, Route, route

    if way not in (*WAYS, "auto"):
        raise typer.BadParameter(f"--way is {way!r}; there are: auto, {', '.join(WAYS)}")
    reply = _reply(reader, question) if way in ("faq", "auto") else None
    if way == "auto":
        faq = None if reply is None else (reply.confidence, reply.calibration.threshold)
        stored = route(question, faq=faq)
        taken = stored if stored.way == "faq" else route(question, **_looked(reader, question))
    else:
        taken = Route(way, 1.0, "it was asked for", asked=True)  # type: ignore[arg-type]
    if not as_json and not taken.asked:
        complain(f"way: {taken.way} ({taken.confidence:.2f}): {taken.why}; another: --way {_other(taken)}")
    told = {"route": taken.to_dict()}
    if taken.way == "faq":
        if reply is None:
            raise Fault(
                f"{reader.book.path} holds no questions with answers; add a file of them: "
                f"openbook faq --add FILE --book {reader.book.path}"
            )
        _give(reply, told, as_json, report)
        return Going(reader, told, done=True)
    if taken.way == "global":
        from openbook.answer.summarize import Plan
        from openbook.cli.summarize import summarized

        summarized(reader, question, Plan(), as_json, html, told, report)
        return Going(reader, told, done=True)
    return Going(_reader_of(taken, reader), told)


def _looked(reader: Reader, question: str) -> dict[str, Any]:
    """What a look into the book says, as `route` wants it."""
    from openbook.answer.looked import look

    if not reader.book.count or not question.strip():
        return {}  # what comes next says what is wrong
    return asdict(look(reader, question))


def _reader_of(taken: Route, reader: Reader) -> Reader:
    if taken.way == "graph":
        return replace(reader, settings=replace(reader.settings, paths="graph"))
    if taken.way == "closed":
        from openbook.answer.closed import Closed

        settings = replace(reader.settings, margin=None)
        return Closed(reader.book, reader.model, reader.encoder, settings, reader.kept)
    return reader


def _other(taken: Route) -> str:
    rest = {way: share for way, share in taken.shares.items() if way != taken.way}
    return max(rest, key=lambda way: rest[way], default="passages")


def _reply(reader: Reader, question: str) -> Reply | None:
    """What the book's pairs say; None where it has none."""
    from openbook.answer.faq import reply
    from openbook.book.faq.knowledge import open_knowledge
    from openbook.book.faq.read import pairs_of

    if next(iter(pairs_of(reader.book)), None) is None:
        return None
    return reply(question, open_knowledge(reader.book, reader.encoder), book=reader.book)


def _give(reply: Reply, told: dict[str, Any], as_json: bool, report: Path | None) -> None:
    from openbook.cli.answers import save_report
    from openbook.cli.faq import show

    facts = reply.to_dict() | told
    if as_json:
        print_json(facts)
    else:
        show(reply)
    if report is not None:
        save_report(facts, report)
    if reply.abstained:
        raise typer.Exit(ABSTAINED)
