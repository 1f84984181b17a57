"""What is to be done about answers that repeat themselves? The same questions, greedy, from the same mixture.

Every answer under each repetition penalty, as it was written and (`cut`) without what only repeats.

.venv/bin/python bench/penalty.py squad-dev-1.1-open.json.gz [--questions 40] [--tokens 48] [--penalties 1 1.1 1.3]
.venv/bin/python bench/penalty.py --folder docs --ask bench/docs-questions.txt   # questions without gold answers
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from openbook.book.embedder import Embedder
from openbook.book.retrieve import Hit
from openbook.book.store import Book, open_book
from openbook.lm.decoding.draft import Draft
from openbook.lm.decoding.repeats import Repeats, unrepeated
from openbook.lm.decoding.sampling import Sampling
from openbook.lm.decoding.stops import Spelling, spelled
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.measure.machine import processor
from openbook.measure.scores import contains, f1
from openbook.measure.squad import Question, book_of, read_squad
from openbook.mix.decode import Step, generate
from openbook.mix.reading import Reader
from openbook.mix.settings import Settings

Row = dict[str, float]


def answered(reader: Reader, question: Question, hits: list[Hit], penalty: float) -> tuple[Row, Row]:
    """One question under one penalty: as it was written, and cut."""
    tokenizer, limit = reader.model.tokenizer, reader.settings.max_tokens
    reading = reader.begin(question.text, hits)
    draft = Draft(tokenizer.eos_ids, zero=-math.log(reader.model.spec.vocabulary))
    sampling = Sampling(repetition_penalty=penalty)
    steps = list(generate(reading.mixture, sampling, draft, limit, speculation=reading.speculation))
    written = list(spelled(steps, lambda step: step.token, Spelling(tokenizer)))
    repeats = Repeats()
    cut = list(unrepeated(written, lambda step: step.token, repeats))
    over = 100.0 * (repeats.withdrawn > 0)
    ended = 100.0 * (draft.reason == "end")
    return scored(written, question, ended, over), scored(cut, question, ended, 0.0)


def scored(written: list[tuple[Step, str]], question: Question, ended: float, over: float) -> Row:
    """`circles`: a repetition would be withdrawn; `repeated`: the share of trigrams of tokens that stood before."""
    text, tokens = "".join(text for _, text in written), [step.token for step, _ in written]
    trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    known = {"contains %": 100 * contains(text, question.golds), "F1 %": 100 * f1(text, question.golds)}
    return (known if question.golds else {}) | {
        "circles %": over,
        "repeated %": 100 * (1 - len(set(trigrams)) / len(trigrams)) if trigrams else 0.0,
        "ended %": ended,
        "tokens": len(tokens),
        "log p a token": statistics.fmean(step.log_p for step, _ in written) if written else 0.0,
    }


def asked(options: argparse.Namespace, encoder: Embedder, scratch: Path) -> tuple[Book, list[Question]]:
    """A book and questions to it: SQuAD's, or those of a file about a folder."""
    if options.squad is not None:
        squad = read_squad(options.squad)
        return book_of(squad, encoder), squad.sample(options.questions)
    book = open_book(scratch / "book")
    book.add(options.folder, encoder=encoder)
    lines: Iterable[str] = options.ask.read_text(encoding="utf-8").splitlines()
    return book, [Question(line, (), "") for line in lines if line][: options.questions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("squad", type=Path, nargs="?")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--ask", type=Path, help="a question a line")
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--penalties", type=float, nargs="+", default=[1.0, 1.1, 1.3])
    options = parser.parse_args()
    if (options.squad is None) == (options.folder is None) or (options.folder is None) != (options.ask is None):
        parser.error("give a SQuAD file, or --folder and --ask")
    encoder, model = load_encoder(), load_model()
    rows: dict[tuple[float, str], list[Row]] = {}
    with TemporaryDirectory() as scratch:
        book, questions = asked(options, encoder, Path(scratch))
        reader = Reader(book, model, encoder, Settings(max_tokens=options.tokens))
        for question in questions:
            hits = reader.find(question.text)
            for penalty in options.penalties:
                for way, row in zip(("", ", cut"), answered(reader, question, hits, penalty), strict=True):
                    rows.setdefault((penalty, way), []).append(row)
    print(f"{processor()}, {torch.get_num_threads()} threads, {model.name}, {len(questions)} questions\n")
    names = list(next(iter(rows.values()))[0])
    print("| penalty | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for (penalty, way), found in rows.items():
        means = (statistics.fmean(row[name] for row in found) for name in names)
        print(f"| {penalty:g}{way} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")


if __name__ == "__main__":
    main()
