"""Global answers: what a summary covers, by what was read for it, beside plain retrieval and sentences drawn by chance.

    openbook add transcripts/ --book kevin.book
    python bench/summarize.py questions.jsonl --book kevin.book --questions 125 --json answers.json
    python bench/summarize.py questions.jsonl --book kevin.book --questions 15 --write [--model FOLDER]

`passages` (graph-free map-reduce), `reports` (of communities) and `retrieval` (what `find` brings) are `summarize` over
so many context tokens, `plain` is the sentence nearest to the question of each of the best passages, `random` are
sentences of the book. All answers have at most `--words` words, whole points.

The questions have no reference answers, and judgements by a model are biased (2506.06331), so what is counted can be
counted: context tokens read; points; words; entities of the graph that they name; claims (Edge 2024: clusters of points
by complete linkage over 1 − ROUGE-L, the mean of four thresholds); documents; diversity, 1 minus the mean cosine of two
points; *own*: the share of the points of all questions' answers that no other question got; *leans*: points that begin
as a sentence does that goes on from another; *held*: of a point's words that say something, at least `HELD` stand in
the places it cites (extracted ones do by construction).

Much can be covered by saying anything, so another model is asked whether it is an answer: *bits*, by which the whole
answer makes the question likelier, and *told*, how often the question is likelier under its own answer than under those
to nine other questions (chance: 0.1). `random` must lose there, or the measure says nothing.
"""

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np

from openbook.answer.citations import says_something, words
from openbook.answer.summarize import Plan, summarize_with
from openbook.answer.summarize.gather import claims_of
from openbook.answer.summarize.points import leans, lifts
from openbook.book.retrieve import find
from openbook.book.store import open_book
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.mix.reading import Reader

HELD = 0.8
CLUSTERS = (0.5, 0.6, 0.7, 0.8)
OTHERS = 9


def content(text):
    return {word.folded for word in words(text) if says_something(word)}


def held(point):
    """Whether the words of a point stand in the places that it cites."""
    said = content(point["text"])
    places = set().union(*(content(text) for text in point["cited"]))
    return len(said & places) >= HELD * len(said)


def rouge_l(one, other):
    """F1 of the longest common subsequence of two lists of words."""
    row = [0] * (len(other) + 1)
    for a in one:
        before = 0
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], before + 1 if a == b else max(row[j], row[j - 1])
    return 2 * row[-1] / max(1, len(one) + len(other))


def claims(texts):
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(texts) < 2:
        return float(len(texts))
    said = [[word.folded for word in words(text)] for text in texts]
    far = np.array([[0.0 if a is b else 1 - rouge_l(a, b) for b in said] for a in said])
    tree = linkage(squareform(far, checks=False), "complete")
    return float(np.mean([fcluster(tree, cut, "distance").max() for cut in CLUSTERS]))


def cut(points, most):
    kept, said = [], 0
    for point in points:
        said += len(point["text"].split())
        if said > most and kept:
            break
        kept.append(point)
    return kept


class Ways:
    """Answers to a question by each way: points, and the context tokens they were made from."""

    def __init__(self, reader, given):
        self.reader, self.given = reader, given
        self.sentences = [claim for passage in reader.book.passages() for claim in claims_of(passage)]

    def answer(self, way, number, question):
        if way == "random":
            drawn = random.Random(number).sample(self.sentences, self.given.points)
            return [self.point(c.text, [c.text], [c.passage.document]) for c in drawn], 0
        if way == "plain":
            return self.plain(question)
        plan = Plan(way, self.given.points, self.given.budget, self.given.write)
        summary = summarize_with(self.reader, question, plan)
        found = [self.point(p.text, [h.cited_text for h in p.evidence], p.documents) for p in summary.points]
        return found, summary.read["tokens"]

    def plain(self, question):
        encoder = self.reader.encoder
        hits = find(self.reader.book, question, self.given.points, encoder)
        asked_M, points = np.asarray(encoder.embed([question])[0]), []
        for hit in hits:
            said = list(claims_of(hit.passage))
            if said:
                near = np.asarray(encoder.embed([c.text for c in said])) @ asked_M
                best = said[int(near.argmax())]
                points.append(self.point(best.text, [best.text], [best.passage.document]))
        return points, sum(encoder.count_tokens([hit.passage.text for hit in hits]))

    @staticmethod
    def point(text, cited, documents):
        return {"text": " ".join(text.split()), "cited": list(cited), "documents": list(documents)}


def measured(points, tokens, graph, encoder):
    texts = [point["text"] for point in points]
    named = {e for text in texts for e in graph.mentioned(text)}
    vectors_NM = np.asarray(encoder.embed(texts)) if texts else np.zeros((0, 1))
    apart = 1 - (vectors_NM @ vectors_NM.T)[np.triu_indices(len(texts), 1)]
    return {
        "read": tokens,
        "points": len(texts),
        "words": sum(len(text.split()) for text in texts),
        "entities": len(named),
        "claims": claims(texts),
        "documents": len({d for point in points for d in point["documents"]}),
        "diversity": float(apart.mean()) if len(apart) else 0.0,
        "leans": float(np.mean([leans(text) for text in texts])) if texts else 0.0,
        "held": float(np.mean([held(point) for point in points])) if texts else 0.0,
    }


def judged(judge, questions, answers, some):
    """(bits, told) of the first answers: each question under its own answer and those of nine others."""
    chance, bits, told = random.Random(0), [], []
    texts = [" ".join(point["text"] for point in points) for points in answers]
    for number, question in enumerate(questions[:some]):
        if not texts[number]:
            bits.append(0.0), told.append(0.0)
            continue
        others = [i for i in range(len(texts)) if i != number and texts[i]]
        drawn = chance.sample(others, min(OTHERS, len(others)))
        found = lifts(judge, question, [texts[i] for i in (number, *drawn)])
        bits.append(found[0])
        told.append(float(found[0] > found[1:].max(initial=-np.inf)))
    return float(np.mean(bits)), float(np.mean(told))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--book", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=10)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--budget", type=int, default=4_000)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--words", type=int, default=250)
    parser.add_argument("--over", default="passages,reports,retrieval,plain,random")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--judge", default="gemma3", help="another model than --model; none: nothing is judged")
    parser.add_argument("--judged", type=int, default=40, help="questions that it judges")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--json", type=Path, help="every answer")
    given = parser.parse_args()
    lines = given.file.read_text("utf-8").splitlines()[given.skip : given.skip + given.questions]
    questions = [json.loads(line)["question"] for line in lines]
    book, encoder = open_book(given.book, create=False), load_encoder()
    ways, graph = Ways(Reader(book, load_model(given.model), encoder), given), book.graph()
    judge = None if given.judge == "none" else Reader(book, load_model(given.judge), encoder)
    kept = {}
    for way in given.over.split(","):
        found, answers, began = [], [], time.process_time()
        for number, question in enumerate(questions):
            points, tokens = ways.answer(way, number, question)
            if tokens > given.budget:
                raise SystemExit(f"{way} read {tokens} tokens for {question!r}; the budget is {given.budget}")
            answers.append(cut(points, given.words))
            found.append(measured(answers[-1], tokens, graph, encoder))
        took = (time.process_time() - began) / len(found)
        row = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
        said = [point["text"] for points in answers for point in points]
        row["own"] = float(np.mean([said.count(text) == 1 for text in said])) if said else 0.0
        row["CPU seconds"] = took
        if judge is not None:
            row["bits"], row["told"] = judged(judge, questions, answers, given.judged)
        if way == given.over.split(",")[0]:
            print("| over | " + " | ".join(row) + " |\n|---|" + "--:|" * len(row))
        print(f"| {way} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |", flush=True)
        kept[way] = [{"question": q, "points": a} for q, a in zip(questions, answers, strict=True)]
        if given.json is not None:
            given.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
