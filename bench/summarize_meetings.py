"""Questions about a whole meeting that people have answered: how much of their answers the points have.

    python bench/summarize_meetings.py ../shared/data/qmsum/qmsum-val.jsonl.gz --books FOLDER [--meetings 15]

QMSum (Zhong 2021): of each meeting "Summarize the whole meeting" and some questions about a topic of it. Every way has
the same context tokens and as many words (`--words`); ROUGE-1, ROUGE-2 and ROUGE-L (F1, no stemming) against what a
person wrote. People sum up in their own words and points are sentences as they were said, so nobody gets far here; what
counts is what is above `random` and `plain`.
"""

import argparse
import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import summarize as global_answers

from openbook.book.store import open_book
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.mix.reading import Reader

WAYS = ("passages", "retrieval", "plain", "random")


def tokens(text):
    return re.findall(r"[a-z0-9]+", text.lower())


def rouge_n(said, gold, n):
    one, other = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (said, gold))
    return 2 * sum((one & other).values()) / max(1, sum(one.values()) + sum(other.values()))


def scores(text, gold):
    said, wanted = tokens(text), tokens(gold)
    return rouge_n(said, wanted, 1), rouge_n(said, wanted, 2), global_answers.rouge_l(said, wanted)


def meetings(path, count, folder, encoder):
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    random.Random(0).shuffle(rows)
    for row in rows[:count]:
        book, notes = open_book(folder / f"{row['id']}.book"), folder / row["id"]
        if not book.count:
            notes.mkdir(parents=True, exist_ok=True)
            turns = "".join(f"{turn['speaker']}: {turn['content']}\n" for turn in row["meeting_transcripts"])
            (notes / "meeting.txt").write_text(turns, encoding="utf-8")
            book.add(notes, encoder=encoder)
        general = [("general", q["query"], q["answer"]) for q in row["general_query_list"][:1]]
        specific = [("of a topic", q["query"], q["answer"]) for q in row["specific_query_list"]]
        yield book, general + random.Random(1).sample(specific, min(2, len(specific)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--books", type=Path, required=True)
    parser.add_argument("--meetings", type=int, default=15)
    parser.add_argument("--budget", type=int, default=2_000)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--words", type=int, default=120)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--over", default=",".join(WAYS))
    given = parser.parse_args()
    encoder, model = load_encoder(), load_model(given.model)
    found = {(kind, way): [] for kind in ("general", "of a topic") for way in given.over.split(",")}
    for book, asked in meetings(given.file, given.meetings, given.books, encoder):
        ways = global_answers.Ways(Reader(book, model, encoder), given)
        for number, (kind, question, gold) in enumerate(asked):
            for way in given.over.split(","):
                points, read = ways.answer(way, number, question)
                assert read <= given.budget, (way, read)
                text = " ".join(point["text"] for point in global_answers.cut(points, given.words))
                found[kind, way].append((*scores(text, gold), len(text.split())))
    print("| questions | over | ROUGE-1 | ROUGE-2 | ROUGE-L | words |\n|---|---|--:|--:|--:|--:|")
    for (kind, way), rows in found.items():
        cells = " | ".join(f"{100 * value:.1f}" for value in np.mean(rows, axis=0)[:3])
        print(f"| {kind} ({len(rows)}) | {way} | {cells} | {np.mean([row[3] for row in rows]):.0f} |")


if __name__ == "__main__":
    main()
