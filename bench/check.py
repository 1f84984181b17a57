"""How well `openbook check` tells right sentences from the same with one answer exchanged (docs/check.md).

    python bench/check.py ../shared/data/squad-dev-half/squad-dev-1.1-open.json.gz --skip 700 --questions 40

Of each question whose answer is a number or a name: the sentence of the paragraph that holds it; the same with another
answer of the same kind in its place, of the same paragraph if there is one, else of the same article. *Copied*
sentences are the paragraph's own, *told* ones the question put as a statement ("Who led X?" → "Y led X."), *short*
ones the answer alone under its question.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from openbook.answer.check import Check, check
from openbook.book.sentences import sentences
from openbook.lm.encoder import load_encoder
from openbook.lm.model import load_model
from openbook.measure.squad import Question, Squad, book_of, read_squad
from openbook.mix.reading import Reader

HELPING = "did|do|does|were|was|is|are|has|have|had|can|could|will|would|should"
WHO = re.compile(rf"^(?:Who|What|Which \w+) ((?!(?:{HELPING}) )[a-z]+ .*)\?$")
KINDS = ("copied", "told", "short")


def kind(answer: str) -> str:
    if re.search(r"\d", answer):
        return "number"
    return "name" if answer[:1].isupper() else "other"


def other_answer(squad: Squad, question: Question) -> str | None:
    """Another answer of the same kind: of the same paragraph, else of the same article; always the same one."""
    gold = question.golds[0]
    for near in (question.document, question.document[:3]):
        golds = {q.golds[0] for q in squad.questions if q.golds and q.document.startswith(near)}
        alike = sorted(
            other for other in golds
            if kind(other) == kind(gold) and abs(len(other.split()) - len(gold.split())) <= 3
            and not any(other.lower() in g.lower() or g.lower() in other.lower() for g in question.golds)
        )  # fmt: skip
        if alike:
            return random.Random(question.text).choice(alike)
    return None


def pairs(squad: Squad, question: Question) -> Iterator[tuple[str, str | None, str, str]]:
    """Kind, the question to give, the right text, the wrong one."""
    gold = question.golds[0] if question.golds else ""
    if not gold or kind(gold) == "other" or (wrong := other_answer(squad, question)) is None:
        return
    paragraph = squad.paragraphs[question.document].split("\n\n", 1)[1]
    spans = sentences(paragraph, 0, len(paragraph))
    said = next((paragraph[a:b] for a, b in spans if gold in paragraph[a:b]), None)
    if said:
        yield "copied", None, said, said.replace(gold, wrong)
    if told := WHO.match(question.text):
        yield "told", None, *(f"{a[:1].upper()}{a[1:]} {told[1]}." for a in (gold, wrong))
    yield "short", question.text, f"{gold}.", f"{wrong}."


def score(checked: Check) -> float:
    """The least supported word of a text."""
    return min((word.support for one in checked.sentences for word in one.words), default=0.0)


def auc(right: np.ndarray, wrong: np.ndarray) -> float:
    """How often a right text scores above a wrong one."""
    over = right[:, None] > wrong[None]
    return float((over + 0.5 * (right[:, None] == wrong[None])).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--skip", type=int, default=700)
    given = parser.parse_args()
    squad, encoder = read_squad(given.file), load_encoder("minilm")
    reader = Reader(book_of(squad, encoder), load_model(), encoder)
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    flagged: dict[str, list[tuple[bool, bool]]] = {name: [] for name in KINDS}
    false_words: list[bool] = []
    for question in squad.sample(given.questions, skip=given.skip):
        for name, asked, right, wrong in pairs(squad, question):
            good, bad = (check(text, reader, asked) for text in (right, wrong))
            scores[name].append((score(good), score(bad)))
            flagged[name].append((not good.supported, not bad.supported))
            if name == "copied":
                false_words += [word.unsupported for one in good.sentences for word in one.words]
    for name in KINDS:
        right, wrong = np.array(scores[name]).reshape(-1, 2).T
        if len(right):
            alarms, found = (100 * np.array(flagged[name]).mean(0)).tolist()
            told = f"AUC {auc(right, wrong):.3f}  found {found:.0f} %  false {alarms:.0f} %"
            print(f"{name:<7} {len(right):3} pairs  {told}")
    print(f"right words called unsupported: {100 * np.mean(false_words):.1f} % of {len(false_words)}")


if __name__ == "__main__":
    main()
