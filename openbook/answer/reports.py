"""Reports of communities in a model's words: each sentence with the passages that made the model write it.

A report is an answer of a mixture of the passages that carry the community (`openbook.book.communities.Report`), to a
question that names its key entities: so it has an answer's evidence, token by token, and its citations. Kept beside the
graph (`openbook.book.graph.written`), written again only where the community or a document it was read from changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openbook.answer.ask import write
from openbook.answer.summarize.gather import TOGETHER, by_id
from openbook.answer.summarize.points import Told
from openbook.answer.summarize.written import Given
from openbook.book.communities import Communities, Community, Report
from openbook.book.graph.build import contents, named
from openbook.book.graph.stored import FOLDER, Key
from openbook.book.graph.written import keep, key_of_report, recall
from openbook.book.passages import Passage
from openbook.book.retrieve import Hit
from openbook.book.sentences import sentences
from openbook.lm.model import LanguageModel
from openbook.mix.prompt import Framing, Prompt
from openbook.mix.reading import Reader, passage_text

PROMPT = Prompt(system="Answer from the text in two or three sentences, and say only what the text says.")
VERSION = 1
"""Raised where the prompt or the question changes: what was written of another does not count."""
WRITTEN = 96
"""Tokens of a report, at most."""
NAMED = 3
"""Key entities that the question names."""


@dataclass
class Reporting:
    """What is to be written, or what was: reports, tokens read (each passage once) and written. `kept` were there
    already, `left` are still to be written."""

    reports: int = 0
    read: int = 0
    written: int = 0
    kept: int = 0
    left: int = 0
    seconds: float = 0.0


def made_by(model: LanguageModel) -> str:
    """Names the model and the prompt: under it reports are kept."""
    return f"{model.name} {model.fingerprint} report {VERSION} {WRITTEN}"


def question_of(report: Report) -> str:
    """What the model is asked."""
    *others, last = report.entities[:NAMED] or [report.title]
    return f"What do the texts say about {', '.join(others)}{' and ' if others else ''}{last}?"


class _Planned:
    """One community, and what its report would be read from."""

    def __init__(self, divided: Communities, community: Community, key: str) -> None:
        self.community, self.key = community, key
        self.report = divided.report(community)
        read = by_id(divided.graph.book, [sentence.passage for sentence in self.report.sentences])
        ids = dict.fromkeys(sentence.passage for sentence in self.report.sentences)
        self.passages: list[Passage] = [read[id] for id in ids if id in read][:TOGETHER]

    @property
    def hits(self) -> list[Hit]:
        """The passages, each believed the same beforehand."""
        return [Hit(passage, 1.0, 0.0, 0.0, 1 / len(self.passages)) for passage in self.passages]


def _planned(divided: Communities, chosen: Sequence[Community], made: str) -> Iterator[_Planned]:
    documents = contents(divided.graph.book)
    for community in chosen:
        key = key_of_report(divided.graph, community, made)
        if _kept(divided, key, documents) is None:
            planned = _Planned(divided, community, key)
            if planned.passages:
                yield planned


def written_of(divided: Communities, community: Community, made: str) -> dict[str, Any] | None:
    """The report of a community as an answer's JSON, where one is kept and counts."""
    return _kept(divided, key_of_report(divided.graph, community, made), contents(divided.graph.book))


def _kept(divided: Communities, key: str, documents: set[Key]) -> dict[str, Any] | None:
    """A report that is kept, if it has what is shown of one: a book may come from anybody."""
    report = recall(divided.graph.book.path / FOLDER, key, documents)
    try:
        if report is not None:
            shown = [(source["id"], source.get("document")) for source in report["sources"]]
            cited = [c for sentence in told_by_sentence(report) for c in sentence["citations"]]
            dict(shown), [(*c["source_span"], c["source"]) for c in cited]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None  # it can be written again
    return report


def estimate(divided: Communities, chosen: Sequence[Community], model: LanguageModel) -> Reporting:
    """What writing the reports that are left would take, at most; nothing is written."""
    found, made = Reporting(), made_by(model)
    for planned in _planned(divided, chosen, made):
        read, written = _cost(model, planned)
        found.reports, found.read, found.written = found.reports + 1, found.read + read, found.written + written
    found.left, found.kept = found.reports, len(chosen) - found.reports
    return found


def _cost(model: LanguageModel, planned: _Planned) -> tuple[int, int]:
    framing = Framing(model.tokenizer, PROMPT)
    suffix = framing.suffix(question_of(planned.report))
    texts = [passage_text(hit) for hit in planned.hits]
    rows = len(texts) + 1  # and the closed book
    read = sum(len(framing.prefix([text])) for text in texts) + len(framing.prefix([]))
    return read + rows * (len(suffix.question) + len(suffix.tail)), rows * WRITTEN


def write_reports(
    reader: Reader, divided: Communities, chosen: Sequence[Community], budget: int | None = None, told: Told = None
) -> Reporting:
    """Write the reports that are left, until done or until the next could take more than `budget` tokens in all.

    Each is on the disk before the next is begun. Called again it goes on.
    """
    began, made, done = time.monotonic(), made_by(reader.model), Reporting()
    left = list(_planned(divided, chosen, made))
    documents = named(divided.graph.book)
    for planned in left:
        read, written = _cost(reader.model, planned)
        if budget is not None and done.read + done.written + read + written > budget:
            break
        if told is not None:
            told(done.reports, len(left), planned.report.title)
        answer = _write(reader, planned).to_dict()
        rows = len(planned.passages) + 1
        done.reports, done.read = done.reports + 1, done.read + read
        done.written += rows * len(answer["tokens"])
        rests = {documents[passage.document] for passage in planned.passages}
        names = [divided.graph.derived.normals[e] for e in planned.community.entities[:NAMED]]
        keep(divided.graph.book, planned.key, rests, names, answer)
    if told is not None:
        told(len(left), len(left), "")
    done.kept, done.left = len(chosen) - len(left), len(left) - done.reports
    done.seconds = time.monotonic() - began
    return done


def told_by_sentence(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The whole sentences of a report, each with the bits that the passages added to it, every source's mean
    responsibility, and the places it is cited for: none where it is the model's own."""
    found: list[dict[str, Any]] = []
    text, ended = report["answer"], report.get("ended")
    for start, end in sentences(text, 0, len(text)):
        if end == len(text) and ended == "limit" and found:
            break  # it was cut off
        within = [token for token in report["tokens"] if start <= token["span"][0] < end]
        shares = [token["responsibility"] for token in within]
        means = {id: sum(share[id] for share in shares) / len(shares) for id in (shares[0] if shares else ())}
        cited = [c for c in report["citations"] if start <= c["span"][0] < end]
        bits = sum(token["bits"] or 0.0 for token in within)
        found.append(
            {"span": [start, end], "text": text[start:end], "bits": bits, "responsibility": means, "citations": cited}
        )
    return found


def _write(reader: Reader, planned: _Planned) -> Any:
    settings = replace(
        reader.settings, prompt=PROMPT, max_tokens=WRITTEN, answers=1, beams=None, constraint=None, margin=None
    )
    given = Given(reader.book, reader.model, reader.encoder, settings, reader.kept, hits=planned.hits)
    return write(given, question_of(planned.report))
