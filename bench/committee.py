"""What a committee is worth: members alone, mixed per token and over bytes, and choosing among whole answers.

`text`: bits per byte of a plain text under each member and under their Bayesian mixture over bytes (law 8).
`qa`: questions in SQuAD's format with the paragraph that answers each: every way of answering, its cost in tokens, and
self-consistency of each single member at as many tokens as the way took (a line a question, then the table).

.venv/bin/python bench/committee.py text wiki.txt [--skip 0] [--bytes 3072] [--chunk 1024] [--members smollm2 gemma3]
.venv/bin/python bench/committee.py qa squad-dev-1.1-open.json.gz [--questions 40] [--longest CHARACTERS]
.venv/bin/python bench/committee.py table FILE...   # the table of lines that runs of `qa` printed
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openbook.answer.committee import Together, write_together
from openbook.answer.deliberation import Deliberation, Said, affordable, least_risk, vote
from openbook.answer.seats import Passage, Seat
from openbook.lm.decoding.bytewise import Bytewise
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.decoding.spelt import TokenRows
from openbook.lm.model import LanguageModel, load_model
from openbook.measure.machine import processor
from openbook.measure.scores import contains, exact, f1
from openbook.measure.squad import Question, read_squad
from openbook.mix.mixture import Mixture, Weights
from openbook.mix.source import Label
from openbook.mix.sources.member import LEAST, WIDTH, BytewiseMember
from openbook.mix.weights import normalise

TERSE = "Copy the answer to the question from the text, in as few words as possible."
SAMPLES, MANY = 5, 56
"""Answers that each member draws, and that self-consistency may draw of one where it is given more tokens."""


def opening(model: LanguageModel) -> list[int]:
    """What stands before a text: a BOS where the tokenizer puts one, else the end of the text before."""
    tokens = model.tokenizer.encode("", special=True)
    return tokens or [min(model.tokenizer.eos_ids)]


def own_tokens(model: LanguageModel, text: str) -> float:
    """Bits of a text in the tokenizer's own tokens alone."""
    tokens = model.tokenizer.encode(text)
    log_p_TV = model.runner.forward(torch.tensor([[*opening(model), *tokens[:-1]]]))[0].log_softmax(-1)
    before = len(opening(model)) - 1
    return -sum(float(log_p_TV[before + t, token]) for t, token in enumerate(tokens)) / math.log(2)


def text_bits(models: list[LanguageModel], text: str) -> dict[str, Any]:
    """Bits of one text under every member and their mixture, and what was cut."""
    data = text.encode()
    sources = [
        BytewiseMember(Bytewise(TokenRows(m, opening(m), len(data)), width=WIDTH, least=LEAST), Label(m.name, "model"))
        for m in models
    ]
    mixture = Mixture(sources, Weights(normalise(np.zeros(len(models))), tau=1.0))
    bits, live, unknown = 0.0, [], []
    for byte in data:
        bits -= float(np.logaddexp.reduce(mixture.log_w_S + mixture.log_p_of(byte))) / math.log(2)
        live.append([source.bytewise.width for source in sources])
        unknown.append([source.bytewise.unknown for source in sources])
        mixture.advance(byte)
    names = [model.name for model in models]
    return {
        "bytes": len(data),
        "mixture": bits,
        "members": dict(zip(names, (-mixture.log_likelihood_S / math.log(2)).tolist(), strict=True)),
        "own tokens": {model.name: own_tokens(model, text) for model in models},
        "live": dict(zip(names, np.mean(live, axis=0).tolist(), strict=True)),
        "unknown": dict(zip(names, np.mean(unknown, axis=0).tolist(), strict=True)),
        "tokens read": {name: source.bytewise.tokens.written for name, source in zip(names, sources, strict=True)},
    }


def text_main(options: argparse.Namespace) -> None:
    models = [load_model(name) for name in options.members]
    data = options.file.read_bytes().strip()[options.skip :][: options.bytes]
    rows = []
    for start in range(0, len(data), options.chunk):
        began = time.perf_counter()
        text = data[start : start + options.chunk].decode("utf-8", "ignore")
        rows.append(text_bits(models, text) | {"seconds": time.perf_counter() - began})
        print(json.dumps(rows[-1]), flush=True)
    count = sum(row["bytes"] for row in rows)
    print(f"{options.file.name}, {count} bytes in {len(rows)} texts; {processor()}; width {WIDTH}, least {LEAST}")
    for model in models:
        total, own = (sum(row[key][model.name] for row in rows) for key in ("members", "own tokens"))
        print(f"{model.name:24} {total / count:.4f} bits per byte ({own / count:.4f} in its own tokens alone)")
    mixture = sum(row["mixture"] for row in rows)
    worst = max(row["mixture"] - min(row["members"].values()) for row in rows)
    print(f"{'mixture over bytes':24} {mixture / count:.4f} bits per byte; of a text at most {worst:+.3f} bits more")


def qa_main(options: argparse.Namespace) -> None:
    small, gemma = load_model("smollm2"), load_model("gemma3")
    seats = [Seat("smollm2", small), Seat("smollm2 terse", small, TERSE), Seat("gemma3", gemma)]
    squad = read_squad(options.file)
    rows = []
    began = time.perf_counter()
    sampled = squad.sample(len(squad.questions), skip=options.skip)
    short = [question for question in sampled if len(squad.paragraphs[question.document]) <= options.longest]
    for question in short[: options.questions]:
        if time.perf_counter() - began > options.seconds:
            break
        rows.append(one_question(seats, question, squad.paragraphs[question.document], options.tokens))
        print(json.dumps(rows[-1]), flush=True)
    table(rows)


def table_main(options: argparse.Namespace) -> None:
    lines = [line for file in options.files for line in file.read_text().splitlines()]
    table([json.loads(line) for line in lines if line.startswith("{")])


def one_question(seats: list[Seat], question: Question, paragraph: str, most: int) -> dict[str, Any]:
    """Every way's answer, scores and tokens."""
    passages = [Passage("p1", paragraph)]
    found: dict[str, tuple[str, int]] = {}

    def together(name: str, members: list[Seat], how: str) -> None:
        done = write_together(Together(members, question.text, passages, how, max_tokens=most))  # type: ignore[arg-type]
        found[name] = done.text, sum(done.cost().values())

    together("mixture per token, two prompts", seats[:2], "tokens")
    together("mixture over bytes, two models", [seats[0], seats[2]], "bytes")
    together("mixture over bytes, all three", seats, "bytes")
    drawn = {seat.name: Deliberation([seat], question.text, [paragraph], Sampling(0.7), most) for seat in seats}
    said = {name: asked.draw(MANY) for name, asked in drawn.items()}
    read = {name: asked.cost.read for name, asked in drawn.items()}
    for name, answers in said.items():
        found[f"{name} alone"] = answers[0].text, read[name] + answers[0].tokens
    few = [answer for answers in said.values() for answer in answers[:SAMPLES]]
    cost = sum(read.values()) + sum(answer.tokens for answer in few)
    found["vote, 5 answers each"] = chosen(vote(few)), cost
    found["least risk, 5 answers each"] = chosen(least_risk(few)), cost
    debate = Deliberation(seats, question.text, [paragraph], Sampling(0.7), most)
    found["debate, 2 rounds, least risk"] = chosen(least_risk(debate.debate(2))), debate.cost.tokens
    for way in ("least risk, 5 answers each", "debate, 2 rounds, least risk", "mixture over bytes, all three"):
        for name, answers in said.items():
            bought = affordable(answers, read[name], found[way][1])
            tokens = read[name] + sum(answer.tokens for answer in bought)
            found[f"{name}, self-consistency, tokens of {way.partition(',')[0]}"] = chosen(least_risk(bought)), tokens
    scored = {
        name: {"contains": contains(text, question.golds), "f1": f1(text, question.golds),
               "exact": exact(text, question.golds), "tokens": tokens}
        for name, (text, tokens) in found.items()
    }  # fmt: skip
    return {"question": question.text, "golds": question.golds, "answers": found, "scored": scored}


def chosen(said: Said | None) -> str:
    """The text of what was chosen, if anything was."""
    return "" if said is None else said.text


def table(rows: list[dict[str, Any]]) -> None:
    """Means over the questions, in per cent, and tokens a question."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        for name, scores in row["scored"].items():
            for key, value in scores.items():
                sums[name][key] += value / len(rows)
    print(f"{len(rows)} questions, each with its paragraph; {processor()}")
    for name, mean in sums.items():
        figures = f"{100 * mean['contains']:5.1f} {100 * mean['f1']:5.1f} {100 * mean['exact']:5.1f}"
        print(f"{name:70} {figures} {mean['tokens']:7.0f}")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(required=True)
    text = ways.add_parser("text")
    text.add_argument("file", type=Path)
    text.add_argument("--bytes", type=int, default=3072)
    text.add_argument("--skip", type=int, default=0)
    text.add_argument("--chunk", type=int, default=1024)
    text.add_argument("--members", nargs="+", default=["smollm2", "gemma3"])
    text.set_defaults(run=text_main)
    qa = ways.add_parser("qa")
    qa.add_argument("file", type=Path)
    qa.add_argument("--questions", type=int, default=40)
    qa.add_argument("--skip", type=int, default=0)
    qa.add_argument("--longest", type=int, default=10_000)
    qa.add_argument("--tokens", type=int, default=20)
    qa.add_argument("--seconds", type=float, default=1300)
    qa.set_defaults(run=qa_main)
    again = ways.add_parser("table")
    again.add_argument("files", type=Path, nargs="+")
    again.set_defaults(run=table_main)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
