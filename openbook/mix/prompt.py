"""How a branch is put to the model: `[system; passage | question]`.

What stands before the `|` never depends on the question, so its keys and values can be kept: what was said before the
question, and what the asker wants to be minded, stand after the passage too. Template text is tokenised with its
control tokens; documents, questions and what was said are tokenised as plain text, so none of their characters can
become a control token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from openbook.errors import Fault
from openbook.lm.tokenizer import Tokenizer
from openbook.lm.weights.chat import Message

PASSAGE_TOKENS = 512
"""Of each passage at most so many tokens are put before a question."""

# Stand-ins that no template and no document contains; private-use characters.
_PASSAGE, _QUESTION = "\ue0f0passage\ue0f1", "\ue0f0question\ue0f1"
_SAID = re.compile("\ue0f0said(\\d+)\ue0f1")


class Turn(NamedTuple):
    """A question that was asked before, and what was answered."""

    question: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """The words around a passage and a question. Fitted on SQuAD's open half; see docs/log.md.

    `turns` are what was said before the question, `instructions` what whoever asks wants to be minded: both stand after
    the passage, where they change no key that is kept.
    """

    system: str = "Read the text and answer the question with a short phrase copied from the text."
    before_question: str = "\n\nQuestion:"
    after_question: str = ""
    turns: tuple[Turn, ...] = ()
    instructions: str = ""

    def summary(self) -> dict[str, object]:
        """What an answer records of it: what was said by others."""
        said: dict[str, object] = {"turns": [list(turn) for turn in self.turns]} if self.turns else {}
        return said | ({"instructions": self.instructions} if self.instructions else {})


@dataclass(frozen=True)
class Suffix:
    """The tokens after the `|`: what was said before the question, the question's own, then the template's tail up to
    where the answer begins."""

    question: tuple[int, ...]
    tail: tuple[int, ...]
    before: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.question) + len(self.tail)

    @property
    def tokens(self) -> tuple[int, ...]:
        """All of them."""
        return (*self.before, *self.question, *self.tail)


@dataclass(frozen=True)
class Framing:
    """A prompt under one model's chat template and tokenizer."""

    tokenizer: Tokenizer
    prompt: Prompt = field(default_factory=Prompt)

    @cached_property
    def _parts(self) -> tuple[str, str, str]:
        """Template text before the passage, between it and the first thing asked, and after that."""
        before, found, rest = self.tokenizer.render_chat(self._messages).partition(_PASSAGE)
        between, found_too, after = rest.partition(self._asked_first)
        if not (found and found_too):
            raise Fault("this model's chat template does not carry the user's message; openbook cannot prompt it")
        return before, between, after

    @property
    def _asked_first(self) -> str:
        return _said(0) if self.prompt.turns else _QUESTION

    @cached_property
    def _words(self) -> list[str]:
        """What was said by others besides the question, in the order of its stand-ins."""
        said = [word.strip() for turn in self.prompt.turns for word in turn]
        return [*said, self.prompt.instructions.strip()]

    @cached_property
    def _messages(self) -> list[Message]:
        """The conversation with a stand-in for each thing that was said."""
        prompt = self.prompt
        minded = "\n\n" + _said(len(self._words) - 1) if prompt.instructions.strip() else ""
        cues = [_PASSAGE + prompt.before_question, *[prompt.before_question.lstrip("\n")] * len(prompt.turns)]
        messages: list[Message] = [{"role": "system", "content": prompt.system}] if prompt.system else []
        for i in range(len(prompt.turns)):
            messages += [
                {"role": "user", "content": cues[i] + _said(2 * i) + prompt.after_question},
                {"role": "assistant", "content": _said(2 * i + 1)},
            ]
        return [*messages, {"role": "user", "content": cues[-1] + _QUESTION + prompt.after_question + minded}]

    def prefix(self, passages: Sequence[str], limit: int = PASSAGE_TOKENS) -> list[int]:
        """Tokens before the `|`: template, passages (none: the closed book), and the cue for the question.

        Of the passages no more than `limit` tokens are read: a script the model was not made for can take several
        tokens a character.
        """
        _, between, _ = self._parts
        text = "\n\n".join(passages)
        cue = between if text else between.lstrip("\n")
        body = self.tokenizer.encode(text + cue)
        if len(body) > limit + len(self.tokenizer.encode(cue)):
            body = self.tokenizer.encode(text)[:limit] + self.tokenizer.encode(cue)
        return [*self._opening, *body]

    @cached_property
    def _opening(self) -> list[int]:
        """The template's beginning, after a BOS where the model wants one; most templates write it themselves."""
        opening = self.tokenizer.encode_template(self._parts[0])
        bos = self.tokenizer.bos_id
        wanted = bos is not None and self.tokenizer.encode("", special=True)[:1] == [bos]
        return opening if not wanted or opening[:1] == [bos] else [bos or 0, *opening]

    def suffix(self, question: str) -> Suffix:
        """Tokens after the `|`."""
        _, _, after = self._parts
        words = tuple(self.tokenizer.encode(" " + question.strip()))
        if not self.prompt.turns:
            return Suffix(words, self._encoded(after))
        earlier, found, tail = after.partition(_QUESTION)
        if not found:
            raise Fault("this model's chat template does not carry a conversation; ask without what was said before")
        return Suffix(words, self._encoded(tail), self._encoded(_said(0) + earlier))

    def _encoded(self, text: str) -> tuple[int, ...]:
        """Template text with what was said in the place of its stand-ins; a question of it begins with a space."""
        ids: list[int] = []
        for place, piece in enumerate(_SAID.split(text)):
            if place % 2 == 0:
                ids += self.tokenizer.encode_template(piece) if piece else []
            else:
                number = int(piece)
                question = number % 2 == 0 and number < 2 * len(self.prompt.turns)
                ids += self.tokenizer.encode((" " if question else "") + self._words[number])
        return tuple(ids)


def _said(number: int) -> str:
    return f"\ue0f0said{number}\ue0f1"
