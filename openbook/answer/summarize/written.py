"""Points that the model writes: of each group of passages one, as a mixture of them, with an answer's evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from openbook.answer.answer import Answer
from openbook.answer.ask import write
from openbook.answer.summarize.gather import Group
from openbook.answer.summarize.points import Told
from openbook.book.retrieve import Hit
from openbook.mix.prompt import Prompt
from openbook.mix.reading import Reader

PROMPT = Prompt(system="Read the text and answer the question in one sentence that the text supports.")


@dataclass
class Given(Reader):
    """A reader that is handed its passages instead of finding them; each is believed the same beforehand."""

    hits: Sequence[Hit] = ()

    def find(self, question: str) -> list[Hit]:
        """The passages that were given, whatever the question."""
        return list(self.hits)


def written(reader: Reader, question: str, groups: Sequence[Group], max_tokens: int, told: Told = None) -> list[Answer]:
    """An answer of each group to the question; a group that has nothing to do with it abstains (`Settings.margin`)."""
    settings = replace(reader.settings, prompt=PROMPT, max_tokens=max_tokens, answers=1, beams=None, constraint=None)
    made = []
    for done, group in enumerate(groups, 1):
        hits = [Hit(p, 1.0, 0.0, 0.0, 1 / len(group.passages)) for p in group.passages]
        given = Given(reader.book, reader.model, reader.encoder, settings, reader.kept, hits=hits)
        made.append(write(given, question))
        if told is not None:
            told(done, len(groups), "groups of passages read")
    return made
