"""Reports of communities in a model's words: what they take, and how much of them the passages carry.

    python bench/graph_reports.py BOOK [--model smollm2] [--most 20]

Of the sentences of all reports: how many have a bit or more from the passages, how many are cited to one, and what
share of their words that say something stands in the passages that were read; the same of sentences that have less
than a bit.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from openbook.answer.account import LEAST_BITS
from openbook.answer.citations import says_something, words
from openbook.answer.reports import made_by, told_by_sentence, write_reports, written_of
from openbook.book import open_book
from openbook.book.communities import communities
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.mix.reading import Reader


def held(sentence: str, report: dict[str, Any]) -> float:
    """The share of a sentence's words that the passages have."""
    read = (source["text"] for source in report["sources"] if source.get("text"))
    there = {word.folded for text in read for word in words(text)}
    said = [word for word in words(sentence) if says_something(word)]
    return sum(word.folded in there for word in said) / max(1, len(said))


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("book", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--most", type=int, default=20)
    given = parser.parse_args()
    book, model = open_book(given.book, create=False), load_model(given.model)
    divided = communities(book.graph())
    chosen = divided.level(0)[: given.most]
    done = write_reports(Reader(book, model, load_encoder()), divided, chosen)
    print(f"{done.reports} reports in {done.seconds:.0f} s, {done.read} tokens read, {done.written} written")
    reports = [report for c in chosen if (report := written_of(divided, c, made_by(model)))]
    told = [(each, held(each["text"], report)) for report in reports for each in told_by_sentence(report)]
    sure = [pair for pair in told if pair[0]["bits"] >= LEAST_BITS]
    unsure = [pair for pair in told if pair[0]["bits"] < LEAST_BITS]
    print(f"{len(reports)} reports, {len(told)} sentences, {100 * len(sure) / len(told):.0f} % with a bit or more")
    for name, some in (("with a bit", sure), ("without", unsure)):
        cited = statistics.mean(bool(each["citations"]) for each, _ in some) if some else float("nan")
        words_held = statistics.mean(share for _, share in some) if some else float("nan")
        print(f"{name}: {100 * cited:.0f} % cited, {100 * words_held:.0f} % of words in the passages")


if __name__ == "__main__":
    run()
