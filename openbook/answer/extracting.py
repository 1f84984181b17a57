"""Models that say what a text names, for a book's graph (`openbook.book.graph.asking`): one here, or one on a server.

A model here writes under a grammar that is made of the text (`openbook.answer.naming`): what it writes is JSON at every
length it is cut at, goes round in no circle, and names nothing that is not there. A server is sent a JSON schema; what
it answers is read as it comes.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from openbook.answer.naming import Naming, as_json
from openbook.book.graph.asking import Reply
from openbook.errors import Fault
from openbook.lm.decoding.constrain import Unwritable
from openbook.lm.decoding.generate import Writing
from openbook.lm.decoding.hypotheses import Text
from openbook.lm.model import LanguageModel
from openbook.lm.remote import Remote

PROMPT = 1
"""Raised when the prompt or the grammar changes: what was said under another does not count."""
WRITTEN = 256
"""Tokens that a reply may have."""
SYSTEM = (
    "List who and what the text names, and how they are related, as JSON. Use only names that stand in the text, "
    "the most important first."
)
SHOWN = "Marta Lund founded the Polar Institute in Tromsø in 1928. It studies sea ice."
SAID = {
    "names": [["Marta Lund", "person"], ["Polar Institute", "organization"], ["Tromsø", "place"], ["sea ice", "thing"]],
    "relations": [["Marta Lund", "founded", "Polar Institute"], ["Polar Institute", "is in", "Tromsø"]],
}


def messages(text: str) -> list[dict[str, str]]:
    """What a model is asked: one example, then the text."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": SHOWN},
        {"role": "assistant", "content": json.dumps(SAID, ensure_ascii=False)},
        {"role": "user", "content": text},
    ]


@dataclass
class Local:
    """A model of this machine as an `openbook.book.graph.asking.Modeller`."""

    model: LanguageModel

    @property
    def made(self) -> str:
        """The model, its weights and precision, and the prompt."""
        return f"{self.model.name} {self.model.fingerprint} prompt {PROMPT}"

    def prompt(self, text: str) -> list[int]:
        """The tokens after which the reply begins."""
        return self.model.tokenizer.encode_chat(messages(text))

    def cost(self, text: str) -> tuple[int, int]:
        """Tokens of the prompt, and of the longest reply."""
        return len(self.prompt(text)), WRITTEN

    def __call__(self, text: str) -> Reply:
        """What the model writes under the text's grammar, and means."""
        prompt = self.prompt(text)
        try:
            guide = Naming(self.model.guides, text)
        except Unwritable:  # no word that could be a name
            return Reply(as_json([], []), 0, 0)
        written, marks = 0, list[float]()
        # What no grammar is left for ends the reply: nothing more can be named.
        with self.model.runner.alone(), suppress(Unwritable):
            begun = Text(self.model.runner, [prompt], WRITTEN)
            for piece in Writing(begun, self.model.tokenizer, max_tokens=WRITTEN, guide=guide):
                marks += [piece.log_p] * len(piece.text)
                guide.judge(marks)
                written += 1
        return Reply(guide.said(), len(prompt), written, len(guide.unsure))


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "names": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "type": {"type": "string"}},
                "required": ["name", "type"],
                "additionalProperties": False,
            },
        },
        "relations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {each: {"type": "string"} for each in ("a", "relation", "b")},
                "required": ["a", "relation", "b"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["names", "relations"],
    "additionalProperties": False,
}
"""What a server is to answer."""


@dataclass
class OnServer:
    """A model behind an OpenAI-compatible server as an `openbook.book.graph.asking.Modeller`.

    A server that knows no `response_format` is asked without; of its answer every whole item is taken anyhow.
    """

    remote: Remote
    plain: bool = field(default=False, init=False)

    @property
    def made(self) -> str:
        """The server's address, the model's name there, and the prompt."""
        return f"{self.remote.address}#{self.remote.name} prompt {PROMPT}"

    def cost(self, text: str) -> tuple[int, int]:
        """At most: a token has a byte or more."""
        return sum(len(message["content"].encode()) for message in messages(text)), 2 * WRITTEN

    def __call__(self, text: str) -> Reply:
        """What the server answers, in tokens as it counts them; else as `cost` does."""
        shape = {"type": "json_schema", "json_schema": {"name": "named", "strict": True, "schema": SCHEMA}}
        try:
            reply = self._ask(text, None if self.plain else shape)
        except Fault as error:
            if self.plain or "status 4" not in str(error):
                raise
            reply = self._ask(text, None)
            self.plain = True
        most = self.cost(text)
        return Reply(reply.text, reply.read or most[0], reply.written or most[1])

    def _ask(self, text: str, shape: dict[str, Any] | None) -> Any:
        return self.remote.chat(messages(text), temperature=0, seed=0, max_tokens=2 * WRITTEN, response_format=shape)
