"""How a branch is put to the model: `[system; passage | question]`.

What stands before the `|` never depends on the question, so its keys and values can be kept. Template text is
tokenised with its control tokens; documents and questions are tokenised as plain text, so none of their characters
can become a control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from openbook.errors import Fault
from openbook.lm.tokenizer import Tokenizer

PASSAGE_TOKENS = 512
"""Of each passage at most so many tokens are put before a question."""

# Stand-ins that no template and no document contains; private-use characters.
_PASSAGE, _QUESTION = "\ue0f0passage\ue0f1", "\ue0f0question\ue0f1"


@dataclass(frozen=True)
class Prompt:
    """The words around a passage and a question. Fitted on SQuAD's open half; see docs/log.md."""

    system: str = "Read the text and answer the question with a short phrase copied from the text."
    before_question: str = "\n\nQuestion:"
    after_question: str = ""


@dataclass(frozen=True)
class Suffix:
    """The tokens after the `|`: the question's own, then the template's tail up to where the answer begins."""

    question: tuple[int, ...]
    tail: tuple[int, ...]


@dataclass(frozen=True)
class Framing:
    """A prompt under one model's chat template and tokenizer."""

    tokenizer: Tokenizer
    prompt: Prompt = field(default_factory=Prompt)

    @cached_property
    def _parts(self) -> tuple[str, str, str]:
        """Template text before the passage, between passage and question, and after the question."""
        prompt = self.prompt
        system = [{"role": "system", "content": prompt.system}] if prompt.system else []
        asked = _PASSAGE + prompt.before_question + _QUESTION + prompt.after_question
        text = self.tokenizer.render_chat([*system, {"role": "user", "content": asked}])
        before, found, rest = text.partition(_PASSAGE)
        between, found_too, after = rest.partition(_QUESTION)
        if not (found and found_too):
            raise Fault("this model's chat template does not carry the user's message; openbook cannot prompt it")
        return before, between, after

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
        words = " " + question.strip()
        return Suffix(tuple(self.tokenizer.encode(words)), tuple(self.tokenizer.encode_template(after)))
