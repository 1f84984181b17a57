"""The way a question goes by its form: the weights of the clues fitted, and the confusion on questions kept apart.

    python bench/routing.py data/

with the folders musique-300, graphrag-kevin-scott, squad-dev-half, nq-open-dev, stackfaq and qmsum.

Balanced multinomial logistic regression with a ridge of 1. MuSiQue's own train and dev; of the global questions of
graphrag-kevin-scott a half; QMSum's "Summarize …" from train and from val, which is other meetings. Only the forms
are looked at, so no book is needed; `--refit` measures weights fitted here instead of those in the code.
"""

import argparse
import gzip
import json
import random
from pathlib import Path

import numpy as np

from openbook.answer import routing
from openbook.answer.routing import clues, route

WAYS = ("passages", "graph", "global")


def lines(path):
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file]


def questions(data):
    """(to fit, to measure by name): lists of (question, place of its way)."""
    chance = random.Random(0)
    musique = lines(data / "musique-300/questions.jsonl")
    whole = [row["question"] for row in lines(data / "graphrag-kevin-scott/questions.jsonl")]
    with gzip.open(data / "squad-dev-half/squad-dev-1.1-open.json.gz") as file:
        articles = json.load(file)["data"]
    squad = [q["question"].strip() for a in articles for p in a["paragraphs"] for q in p["qas"]]
    nq = [row["question"] for row in lines(data / "nq-open-dev/NQ-open.dev.jsonl")]
    stack = [q for row in lines(data / "stackfaq/stackfaq.jsonl") for q in (row["question"], *row["paraphrases"])]
    sums = {
        part: [q["query"] for row in lines(data / f"qmsum/qmsum-{part}.jsonl.gz") for q in row["general_query_list"]]
        for part in ("train", "val")
    }
    for each in (whole, squad, nq, stack, sums["train"]):
        chance.shuffle(each)
    fit = {1: [q["question"] for q in musique if q["split"] == "train"], 2: whole[:62] + sums["train"][:30]}
    fit[0] = squad[:150] + nq[:50] + stack[:50]
    measured = {
        "SQuAD": (0, squad[150:450]),
        "NQ-open": (0, nq[50:350]),
        "StackFAQ": (0, stack[50:350]),
        "MuSiQue, dev": (1, [q["question"] for q in musique if q["split"] != "train"]),
        "kevin-scott, other half": (2, whole[62:]),
        "QMSum, other meetings": (2, sums["val"]),
    }
    return fit, measured


def refit(fit, ridge=1.0, steps=6000, rate=0.3):
    names = list(clues(""))
    x_NF = np.array([[clues(q)[name] for name in names] for way in range(3) for q in fit[way]])
    y_N = np.array([way for way in range(3) for _ in fit[way]])
    weight_N = (len(y_N) / 3 / np.bincount(y_N))[y_N]
    w_FW = np.zeros((len(names), 3))
    for _ in range(steps):
        score_NW = x_NF @ w_FW
        p_NW = np.exp(score_NW - score_NW.max(1, keepdims=True))
        p_NW /= p_NW.sum(1, keepdims=True)
        w_FW -= rate / len(y_N) * (x_NF.T @ ((p_NW - np.eye(3)[y_N]) * weight_N[:, None]) + ridge * w_FW)
    w_FW -= w_FW[:, :1]
    return {name: (round(row[1], 2), round(row[2], 2)) for name, row in zip(names, w_FW.tolist(), strict=True)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--refit", action="store_true")
    parser.add_argument("--clear", type=float, default=routing.CLEAR)
    given = parser.parse_args()
    fit, measured = questions(given.data)
    if given.refit:
        routing.WEIGHTS.update(refit(fit))
        print(json.dumps(routing.WEIGHTS, indent=1))
    print("| questions | to " + " | to ".join(WAYS) + " | right |\n|---|--:|--:|--:|--:|")
    shares = []
    for name, (way, asked) in measured.items():
        counts = np.bincount([WAYS.index(route(q, clear=given.clear).way) for q in asked], minlength=3)
        shares.append(counts[way] / counts.sum())
        print(f"| {name} ({len(asked)}) | " + " | ".join(map(str, counts)) + f" | {100 * shares[-1]:.1f} % |")
    print(f"mean of the rows: {100 * np.mean(shares):.1f} %")


if __name__ == "__main__":
    main()
