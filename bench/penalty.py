"""Does a repetition penalty help answers? The same questions under several penalties, greedy, from the same mixture.

.venv/bin/python bench/penalty.py squad-dev-1.1-open.json.gz [--questions 40] [--tokens 48] [--penalties 1 1.1 1.3]
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import torch

from openbook.book.retrieve import Hit
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.measure.machine import processor
from openbook.measure.scores import contains, f1
from openbook.measure.squad import Question, book_of, read_squad
from openbook.mix.decode import generate
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings


def answered(reader: Reader, question: Question, hits: list[Hit], penalty: float) -> dict[str, float]:
    """One question under one penalty; `repeated` is the share of trigrams of tokens that stood before."""
    tokenizer, limit = reader.model.tokenizer, reader.settings.max_tokens
    mixture = reader.begin(question.text, hits).mixture
    draft = Draft(tokenizer.eos_ids, zero=-math.log(reader.model.spec.vocabulary))
    steps = list(generate(mixture, Sampling(repetition_penalty=penalty), draft, limit))
    tokens = [step.token for step in steps]
    trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    text = tokenizer.decode(tokens)
    return {
        "contains %": 100 * contains(text, question.golds),
        "F1 %": 100 * f1(text, question.golds),
        "repeated %": 100 * (1 - len(set(trigrams)) / len(trigrams)) if trigrams else 0.0,
        "ended %": 100.0 * (draft.reason == "end"),
        "tokens": len(tokens),
        "log p a token": statistics.fmean(step.log_p for step in steps) if steps else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("squad", type=Path)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--penalties", type=float, nargs="+", default=[1.0, 1.1, 1.3])
    options = parser.parse_args()
    squad = read_squad(options.squad)
    encoder, model = load_encoder(), load_model()
    reader = Reader(book_of(squad, encoder), model, encoder, Settings(max_tokens=options.tokens))
    rows: dict[float, list[dict[str, float]]] = {penalty: [] for penalty in options.penalties}
    for question in squad.sample(options.questions):
        hits = reader.find(question.text)
        for penalty in options.penalties:
            rows[penalty].append(answered(reader, question, hits, penalty))
    print(f"{processor()}, {torch.get_num_threads()} threads, {model.name}, {options.questions} questions\n")
    names = list(rows[options.penalties[0]][0])
    print("| penalty | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for penalty, found in rows.items():
        means = (statistics.fmean(row[name] for row in found) for name in names)
        print(f"| {penalty:g} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")


if __name__ == "__main__":
    main()
