"""Several answers to a question: how much they differ, and whether one of them holds the gold answer.

Groups of a search with a penalty λ against as many answers drawn at a temperature, on SQuAD questions, over the same
reading of each. "given" counts answers whose words differ, `distinct-2` is Li 2016's, over all texts of a question.

    .venv/bin/python bench/diverse.py squad-dev-1.1-open.json.gz [--questions 20] [--answers 4] [--tokens 24]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.measure.machine import processor
from openbook.measure.scores import contains
from openbook.measure.squad import book_of, read_squad
from openbook.mix.decode import generate
from openbook.mix.diverse import distinct, distinctness, diverse
from openbook.mix.mixture import Mixture
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings

Begin = Callable[[], Mixture]


def searched(begin: Begin, draft: Draft, count: int, tokens: int, strength: float) -> list[list[int]]:
    """Token ids of `count` groups."""
    return [[s.token for s in one.steps] for one in diverse(begin(), draft, count, tokens, strength=strength)]


def drawn(begin: Begin, draft: Draft, count: int, tokens: int, temperature: float) -> list[list[int]]:
    """Token ids of `count` draws, one after the other."""
    samplings = [Sampling(temperature, seed=seed) for seed in range(count)]
    return [[s.token for s in generate(begin(), sampling, draft.fork(), tokens)] for sampling in samplings]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("squad", type=Path)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--skip", type=int, default=240)
    parser.add_argument("--answers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.5, 1.0, 2.0, 4.0])
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.7, 1.0])
    given = parser.parse_args()
    data = read_squad(given.squad)
    encoder, model = load_encoder(), load_model()
    reader = Reader(book_of(data, encoder), model, encoder, Settings(max_tokens=given.tokens))
    even = -math.log(model.spec.vocabulary)
    ways = {f"λ = {x:g}": (searched, x) for x in given.strengths}
    ways |= {f"drawn, T = {x:g}": (drawn, x) for x in given.temperatures}
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for question in data.sample(given.questions, skip=given.skip):
        hits = reader.find(question.text)
        for name, (write, amount) in ways.items():
            draft = Draft(model.tokenizer.eos_ids, zero=even)
            found = write(
                lambda q=question, h=hits: reader.begin(q.text, h).mixture, draft, given.answers, given.tokens, amount
            )
            texts = [model.tokenizer.decode(ids).strip() for ids in found]
            kept = [texts[i] for i in distinct(texts, given.answers)]
            held = max((contains(text, question.golds) for text in kept), default=0.0)
            rows[name].append((len(kept), distinctness(texts), held))
    print(f"{given.questions} questions, {given.answers} answers of {given.tokens} tokens; {processor()}")
    for name, row in rows.items():
        if row:
            count, runs, held = (fmean(column) for column in zip(*row, strict=True))
            print(
                f"{name:<15} given {count:.2f}   distinct-2 {runs:.2f}   one holds the gold answer {100 * held:.0f} %"
            )


if __name__ == "__main__":
    main()
