"""Beams on questions with known answers: likelier texts, but better ones? and what they cost.

`openbook ask`'s reading of each SQuAD question, once a width; only the writing is timed. Medians for times, means for
the rest, over the questions.

    .venv/bin/python bench/beam.py squad-dev-1.1-open.json.gz [--questions 40] [--tokens 32] [--widths 1 2 4 8]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from openbook.book.retrieve import Hit
from openbook.lm.cache.make import CacheSpec
from openbook.lm.decoding.beam import Beams
from openbook.lm.decoding.draft import Draft
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.measure.machine import processor
from openbook.measure.scores import contains, f1
from openbook.measure.squad import Question, book_of, read_squad
from openbook.mix.beam import search
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings


def measured(reader: Reader, question: Question, hits: list[Hit], beams: Beams) -> dict[str, float | str]:
    """One question at one width."""
    tokenizer, mixture = reader.model.tokenizer, reader.begin(question.text, hits).mixture
    began = time.perf_counter()
    best = search(mixture, beams, Draft(tokenizer.eos_ids), reader.settings.max_tokens)[0]
    seconds = time.perf_counter() - began
    tokens = len(best.steps) + (best.reason == "end")
    text = tokenizer.decode([step.token for step in best.steps]).strip()
    return {
        "text": text,
        "log_p": best.log_p,
        "per_token": best.log_p / tokens,
        "tokens": tokens,
        "ended": float(best.reason == "end"),
        "contains": contains(text, question.golds),
        "f1": f1(text, question.golds),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("squad", type=Path)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--penalty", type=float, default=1.0, help="length penalty")
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--show", action="store_true", help="print the texts")
    options = parser.parse_args()

    squad = read_squad(options.squad)
    encoder, model = load_encoder(), load_model(cache=CacheSpec(options.layout))
    reader = Reader(book_of(squad, encoder), model, encoder, Settings(max_tokens=options.tokens))
    rows: dict[int, list[dict[str, float | str]]] = {width: [] for width in options.widths}
    questions = squad.sample(options.questions)
    for index, question in enumerate(questions):
        hits = reader.find(question.text)
        reader.begin(question.text, hits)  # its passages are kept from here on
        shift = index % len(options.widths)  # no width is always first
        for width in options.widths[shift:] + options.widths[:shift]:
            rows[width].append(measured(reader, question, hits, Beams(width, options.penalty)))
            if options.show:
                print(f"{width}: {rows[width][-1]['log_p']:.1f} {rows[width][-1]['text']!r}", flush=True)
    print(f"{processor()}, {torch.get_num_threads()} threads, {model.name}, {model.runner.dtype}, {options}")
    head = ("beams", "log p", "log p a token", "tokens", "ended %", "contains %", "F1", "as greedy %", "s", "quartiles")
    print(" | ".join(head))
    for width, found in rows.items():
        mean = {name: statistics.fmean(float(row[name]) for row in found) for name in found[0] if name != "text"}
        same = statistics.fmean(row["text"] == first["text"] for row, first in zip(found, rows[min(rows)], strict=True))
        low, middle, high = statistics.quantiles([float(row["seconds"]) for row in found], n=4)
        print(
            f"{width} | {mean['log_p']:.2f} | {mean['per_token']:.3f} | {mean['tokens']:.1f} | "
            f"{100 * mean['ended']:.0f} | {100 * mean['contains']:.1f} | {100 * mean['f1']:.1f} | "
            f"{100 * same:.0f} | {middle:.2f} | {low:.2f}–{high:.2f}"
        )


if __name__ == "__main__":
    main()
