"""The way a question goes after a look into the book: the confusion, and what a wrong way costs.

    openbook add squad/ musique/ podcasts/ --book mixed.book && openbook faq --add stackfaq.csv --book mixed.book
    python bench/routing_read.py data/ --book mixed.book --json looked.json [--some 40] [--fit]

One book of SQuAD's and MuSiQue's paragraphs and Kevin Scott's podcasts as text and of StackFAQ's pairs; questions for
each, and NQ-open's, which hardly anything in it answers. Documents carry the name of their paragraph (`0-12.md`,
`p00006.md`). Looked at once and kept in --json; a second run only counts. Questions that the form's weights were fitted
to (bench/routing.py) are not asked. `--fit` fits the weights of what was measured: those printed to all, those that the
tables are made with to one half, for the other half, both ways round.

Costs: recall at 5 of supporting paragraphs with and without the graph (passages, graph); for StackFAQ how often the
stored answer is the thread's, and how often one of its thread stands first among passages.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import routing as forms

from openbook.answer import routing
from openbook.answer.faq import reply
from openbook.answer.looked import look
from openbook.book.faq.knowledge import open_knowledge
from openbook.book.retrieve import find
from openbook.book.store import open_book
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings

SETS = {
    "SQuAD": "passages",
    "MuSiQue, dev": "graph",
    "kevin-scott, other half": "global",
    "StackFAQ": "faq",
    "NQ-open": "closed",
}


def gold(data):
    """Supporting documents of a question, and the thread of a stored one."""
    found = {}
    squad = forms.json.loads(forms.gzip.decompress((data / "squad-dev-half/squad-dev-1.1-open.json.gz").read_bytes()))
    for a, article in enumerate(squad["data"]):
        for p, paragraph in enumerate(article["paragraphs"]):
            for q in paragraph["qas"]:
                found[q["question"].strip()] = [f"{a}-{p}"]
    for row in forms.lines(data / "musique-300/questions.jsonl"):
        found[row["question"]] = row["supporting_passages"]
    threads = {}
    for row in forms.lines(data / "stackfaq/stackfaq.jsonl"):
        for question in (row["question"], *row["paraphrases"]):
            threads[question] = row["question"]
    return found, threads


def recall(book, question, right, by, encoder):
    hits = find(book, question, 20, encoder, by=by)
    names = list(dict.fromkeys(Path(hit.passage.document).stem for hit in hits))[:5]
    return len(set(names) & set(right)) / len(right)


def looked_at(data, book, some):
    encoder = load_encoder()
    reader = Reader(book, load_model(), encoder, Settings())
    knowledge, (supports, threads) = open_knowledge(book, encoder), gold(data)
    _, measured = forms.questions(data)
    rows = []
    for name, way in SETS.items():
        stored = [q for q in measured[name][1] if name != "StackFAQ" or threads.get(q, q) != q]
        for question in stored[:some]:
            seen = look(reader, question)
            told = reply(question, knowledge)
            row = {"set": name, "way": way, "question": question, "faq": told.confidence}
            row |= {"threshold": told.calibration.threshold, **vars(seen)}
            if question in supports and way in ("passages", "graph"):
                row["R@5"] = {by: recall(book, question, supports[question], by, encoder) for by in ("fused", "graph")}
            if way == "faq":
                asked = told.match.entry.questions
                first = next(iter(find(book, question, 1, encoder)), None)
                row["stored"] = float(threads[question] in asked)
                row["read"] = float(first is not None and threads[question] in first.passage.text)
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def routed(row):
    known = {"lift_bits": row["lift_bits"], "margin": row["margin"], "spread": row["spread"], "said": row["said"]}
    return routing.route(row["question"], faq=(row["faq"], row["threshold"]), **known)


def measures(row):
    return np.array([1.0, *routing.measures(row["lift_bits"], row["spread"], row["said"]).values()])


def fit(rows, ridge=1.0, steps=4000, rate=0.2):
    """Weights of the measures for graph, global and closed against passages, beside the form's, which stay."""
    names = ("passages", "graph", "global", "closed")
    rows = [row for row in rows if row["way"] in names]
    y_N = np.array([names.index(row["way"]) for row in rows])
    x_NF = np.array([measures(row) for row in rows])
    form_NW = np.zeros((len(rows), 4))
    for n, row in enumerate(rows):
        shares = routing.by_form(row["question"]).shares
        form_NW[n, :3] = [math.log(shares[name]) for name in names[:3]]
        form_NW[n, 3] = math.log(max(shares["passages"], shares["graph"]))
    weight_N = (len(y_N) / 4 / np.bincount(y_N, minlength=4))[y_N]
    w_FW = np.zeros((x_NF.shape[1], 4))
    for _ in range(steps):
        score_NW = form_NW + x_NF @ w_FW
        p_NW = np.exp(score_NW - score_NW.max(1, keepdims=True))
        p_NW /= p_NW.sum(1, keepdims=True)
        w_FW -= rate / len(y_N) * (x_NF.T @ ((p_NW - np.eye(4)[y_N]) * weight_N[:, None]) + ridge * w_FW)
    w_FW -= w_FW[:, :1]
    keys = ["every question", *routing.measures(0.0, 1.0, 0.0)]
    return {key: tuple(round(v, 2) for v in row[1:]) for key, row in zip(keys, w_FW.tolist(), strict=True)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--some", type=int, default=40)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--no-look", dest="look", action="store_false", help="by form and pairs on file alone")
    given = parser.parse_args()
    if not given.json.exists():
        rows = looked_at(given.data, open_book(given.book, create=False), given.some)
        given.json.write_text(json.dumps(rows), encoding="utf-8")
    rows = json.loads(given.json.read_text())
    if given.fit:
        print(json.dumps(fit(rows), indent=1))
    if not given.look:
        for row in rows:
            row["lift_bits"] = row["spread"] = row["said"] = None
    parts = [(rows[::2], rows[1::2]), (rows[1::2], rows[::2])] if given.fit else [(None, rows)]
    told = []
    for fitted_to, measured in parts:
        if fitted_to is not None:
            routing.READ.update(fit(fitted_to))
        told += [(row, routed(row).way) for row in measured]
    ways = routing.WAYS
    print("| questions | to " + " | to ".join(ways) + " | right |\n|---|" + "--:|" * (len(ways) + 1))
    for name, way in SETS.items():
        here = [taken for row, taken in told if row["set"] == name]
        counts = " | ".join(str(here.count(each)) for each in ways)
        print(f"| {name} ({len(here)}) | {counts} | {100 * here.count(way) / max(1, len(here)):.0f} % |")
    costs(told)


def costs(told):
    print("\n| questions | always passages | always graph | as routed | the better of both |\n|---|--:|--:|--:|--:|")
    for name in ("SQuAD", "MuSiQue, dev"):
        found = [(row["R@5"], way) for row, way in told if row["set"] == name and "R@5" in row]
        fused, graph = ([each[by] for each, _ in found] for by in ("fused", "graph"))
        # The other ways read no passages: what they would have found is not found.
        taken = [each.get({"passages": "fused", "graph": "graph"}.get(way), 0.0) for each, way in found]
        best = [max(a, b) for a, b in zip(fused, graph, strict=True)]
        print(
            f"| {name}, R@5 | "
            + " | ".join(f"{100 * np.mean(each):.1f}" for each in (fused, graph, taken, best))
            + " |"
        )
    found = [(row, way) for row, way in told if row["set"] == "StackFAQ"]
    taken = [row["stored"] if way == "faq" else row["read"] if way == "passages" else 0.0 for row, way in found]
    print(
        f"\nStackFAQ: stored answer right {np.mean([row['stored'] for row, _ in found]):.3f}, first passage of the "
        f"thread {np.mean([row['read'] for row, _ in found]):.3f}, as routed {np.mean(taken):.3f}"
    )


if __name__ == "__main__":
    main()
