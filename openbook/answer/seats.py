"""Who sits in a committee: a local model or one on a server, what it is told, and the passages that all read."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from openbook.errors import Fault
from openbook.lm.decoding.asked import AskedRows
from openbook.lm.decoding.bytewise import Bytewise
from openbook.lm.model import LanguageModel
from openbook.lm.remote import Remote
from openbook.lm.weights import chat
from openbook.mix.prompt import Framing, Prompt
from openbook.mix.source import Label
from openbook.mix.sources.member import BytewiseMember

OPEN = Prompt()
CLOSED = replace(OPEN, system="Answer the question with a short phrase.")
"""What members are told where no passage is given."""
ASKED = 0.02
"""A server is asked what follows a text if that text's share is no less: about once a token."""


@dataclass(frozen=True)
class Passage:
    """A passage that members read: the answer then has a row for every member under every passage."""

    id: str
    text: str
    prior: float = 1.0
    document: str | None = None
    page: int | None = None
    line: int | None = None

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.document}, page {self.page}" if self.page else f"{self.document}:{self.line}"


@dataclass(frozen=True)
class Seat:
    """A member: its name, the model, and what it is told (None: as the others, `OPEN` or `CLOSED`)."""

    name: str
    model: LanguageModel | Remote
    system: str | None = None

    @property
    def address(self) -> str | None:
        """The server's, if it is on one."""
        return self.model.address if isinstance(self.model, Remote) else None

    @property
    def turn_ends(self) -> tuple[str, ...]:
        """Strings that end its answer besides its end tokens."""
        return ("\n\n",) if isinstance(self.model, Remote) else self.model.tokenizer.turn_ends

    def alone(self) -> AbstractContextManager[None]:
        """Within, its model has the cores (`openbook.lm.backends.runner.Runner.alone`)."""
        return nullcontext() if isinstance(self.model, Remote) else self.model.runner.alone()

    def told(self, passages: Sequence[str]) -> Prompt:
        """The words around passages and question."""
        told = OPEN if passages else CLOSED
        return told if self.system is None else replace(told, system=self.system)

    def prompt(self, question: str, passages: Sequence[str]) -> list[int]:
        """The tokens after which a local model's answer begins."""
        framing = Framing(local(self).tokenizer, self.told(passages))
        suffix = framing.suffix(question)
        return [*framing.prefix(passages), *suffix.question, *suffix.tail]

    def messages(self, question: str, passages: Sequence[str]) -> list[dict[str, str]]:
        """The same as chat messages, which a server puts into its own template."""
        told = self.told(passages)
        text = "\n\n".join(passages)
        cue = told.before_question if text else told.before_question.lstrip("\n")
        user = f"{text}{cue} {question.strip()}{told.after_question}"
        system = [{"role": "system", "content": told.system}] if told.system else []
        return [*system, {"role": "user", "content": user}]

    def bytewise(self, question: str, passages: Sequence[str], label: Label, limit: int) -> BytewiseMember:
        """It as a source over bytes, where the answer begins; `limit` bytes may follow."""
        if not isinstance(self.model, Remote):
            return BytewiseMember.of(self.model, self.prompt(question, passages), label, limit)
        rows = AskedRows(self.model, chat.plain(self.messages(question, passages), True))
        bytewise = Bytewise(rows, least=ASKED)
        bytewise.step(0x20)  # after "Answer:"
        return BytewiseMember(bytewise, label)


def local(seat: Seat) -> LanguageModel:
    """Its model, which must be here."""
    if isinstance(seat.model, Remote):
        raise Fault(f"{seat.name} is on a server, which tells its likeliest tokens only; mix it over bytes")
    return seat.model
