"""What reading ahead saves: answers to SQuAD's questions with and without it, the same tokens in fewer forwards.

The passages' keys are kept beforehand; only the writing is timed, from the first token to the last, alternating who
goes first. On a backend whose numbers do not depend on the batch both must write the same tokens.

    .venv/bin/python bench/speculation.py squad-dev-1.1-open.json.gz [--questions 100] [--tokens 64]
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from openbook.book.retrieve import Hit
from openbook.lm.decoding.draft import Draft
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.measure.machine import processor
from openbook.measure.squad import book_of, read_squad
from openbook.mix.decode import generate
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings
from openbook.mix.sources.branches import Tally


@dataclass(frozen=True)
class Run:
    """One answer: its tokens, what it took."""

    tokens: list[int]
    tally: Tally
    seconds: float


def answered(reader: Reader, question: str, hits: list[Hit], row_cost: float | None) -> Run:
    """Read the question, then write under the clock."""
    settings, ends = reader.settings, reader.model.tokenizer.eos_ids
    reading = reader.begin(question, hits)
    if reading.speculation is not None and row_cost is not None:
        reading.speculation.row_cost = row_cost
    began = time.perf_counter()
    steps = generate(
        reading.mixture, settings.sampling, Draft(ends), settings.max_tokens, speculation=reading.speculation
    )
    tokens = [step.token for step in steps]
    return Run(tokens, reading.tally, time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("squad", type=Path)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--skip", type=int, default=0, help="the first of the shuffle that are left out")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--passages", type=int, default=5)
    parser.add_argument("--row-cost", type=float, help="what a token of a row is taken to cost")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--backend", choices=("auto", "native", "torch"), default="auto")
    options = parser.parse_args()

    squad = read_squad(options.squad)
    encoder, model = load_encoder(), load_model(options.model, backend=options.backend)
    settings = Settings(max_tokens=options.tokens, passages=options.passages, margin=None)
    reader = Reader(book_of(squad, encoder), model, encoder, settings)
    plainly = replace(reader, settings=replace(settings, speculate=False))
    ahead = replace(reader, settings=replace(settings, speculate=True))
    pairs: list[tuple[Run, Run]] = []
    for index, question in enumerate(squad.sample(options.questions, skip=options.skip)):
        hits = reader.find(question.text)
        reader.begin(question.text, hits)  # its passages are kept from here on
        order = [plainly, ahead] if index % 2 else [ahead, plainly]
        runs = {id(one): answered(one, question.text, hits, options.row_cost) for one in order}
        pairs.append((runs[id(plainly)], runs[id(ahead)]))
        exact = model.runner.batch_invariant
        assert not exact or pairs[-1][0].tokens == pairs[-1][1].tokens, f"other tokens: {question.text}"
    report(pairs, f"{processor()}, {torch.get_num_threads()} threads, {model.name}, {type(model.runner).__name__}")


def report(pairs: list[tuple[Run, Run]], machine: str) -> None:
    """Sums over the answers, and the ratio of each."""
    same = [pair for pair in pairs if pair[0].tokens == pair[1].tokens and pair[0].tally.steps]
    plain, ahead = [pair[0] for pair in same], [pair[1] for pair in same]
    tokens = sum(len(run.tokens) for run in plain)
    proposed, accepted = (sum(getattr(run.tally, name) for run in ahead) for name in ("proposed", "accepted"))
    ratios = sorted(one.seconds / other.seconds for one, other in same)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{machine}: {len(pairs)} answers, {len(same)} with the same tokens, {tokens} tokens")
    for name, runs in (("plain", plain), ("read ahead", ahead)):
        forwards, seconds = sum(run.tally.steps for run in runs), sum(run.seconds for run in runs)
        print(f"  {name:<10} {tokens / forwards:5.2f} tokens a forward  {tokens / seconds:7.1f} tokens/s")
    print(f"  read ahead: {proposed} tokens, {accepted} of them written ({100 * accepted / max(1, proposed):.0f} %)")
    whole = sum(run.seconds for run in plain) / sum(run.seconds for run in ahead)
    print(
        f"  faster by {whole:.2f}× in all; an answer by {middle:.2f}× ({low:.2f} to {high:.2f}; worst {ratios[0]:.2f})"
    )


if __name__ == "__main__":
    main()
