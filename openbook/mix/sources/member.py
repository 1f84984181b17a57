"""Members of a committee: models, or one model under several prompts, that write one text together.

Members with one vocabulary are mixed per token (`Members`), any others over bytes (`BytewiseMember`, whose vocabulary
is 256 bytes and the end). Their weights are Bayesian: `Weights(log_prior, tau=1)`. Then the mixture of K members
assigns any text at least prior × what its best member assigns: it costs at most log2 K bits more (law 8).

Shapes: S members of one source, V vocabulary, 257 bytes and the end.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.decoding.bytewise import END, Bytewise
from openbook.lm.decoding.hypotheses import Text
from openbook.lm.decoding.spelt import TokenRows
from openbook.lm.model import LanguageModel
from openbook.lm.tokenizer import Tokenizer
from openbook.mix.source import Label

WIDTH, LEAST = 8, 1e-4
"""Tokenisations of a text that a member keeps, and the share below which one is cut."""


class Members:
    """One model under S prompts of any lengths, a row of one batch each; `limit` tokens may follow.

    `read` tokens of prompts and `written` tokens of rows have gone through the model.

    `width` cuts scores to a vocabulary that several models share (`common_vocabulary`): rows that no token spells.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        labels: Sequence[Label],
        limit: int,
        *,
        width: int | None = None,
    ) -> None:
        if len(prompts) != len(labels):
            raise ValueError(f"{len(prompts)} prompts for {len(labels)} labels")
        self.labels = tuple(labels)
        self.read, self.written = sum(map(len, prompts)), 0
        self._text = Text(model.runner, prompts, limit)
        self._width = width

    def start(self) -> Tensor:
        return self._text.start()[:, : self._width]

    def step(self, token: int) -> Tensor:
        rows = range(len(self.labels))
        self.written += len(rows)
        return self._text.step(rows, [token for _ in rows])[:, : self._width]

    def step_beams(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """`[N, S, V]` (`openbook.mix.beam.Forking`)."""
        count = len(self.labels)
        rows = [parent * count + s for parent in parents for s in range(count)]
        self.written += len(rows)
        scores_RV = self._text.step(rows, [token for token in tokens for _ in range(count)])
        return scores_RV[:, : self._width].reshape(len(tokens), count, -1)


class BytewiseMember:
    """Any reader of bytes as a source over 257: one row. Scores are log-probabilities."""

    def __init__(self, bytewise: Bytewise, label: Label) -> None:
        self.bytewise = bytewise
        self.labels: tuple[Label, ...] = (label,)

    @classmethod
    def of(cls, model: LanguageModel, prompt: Sequence[int], label: Label, limit: int) -> BytewiseMember:
        """A local model going on from the tokens of a prompt with `limit` bytes at most.

        Where it would begin an answer with a space (`opens_with_space`), its distribution is the one after that space:
        members must not differ in how they write nothing.
        """
        bytewise = Bytewise(TokenRows(model, prompt, limit + 1), width=WIDTH, least=LEAST)
        if opens_with_space(model.tokenizer):
            bytewise.step(0x20)
        return cls(bytewise, label)

    def start(self) -> Tensor:
        return torch.from_numpy(self.bytewise.log_p()).float()[None]

    def step(self, token: int) -> Tensor:
        self.bytewise.step(token)
        return self.start()


def common_vocabulary(models: Sequence[LanguageModel]) -> int:
    """How many ids all models spell alike. Raises `Fault` naming the first two that differ, and where.

    Their weights may have more rows than the tokenizer has tokens, and not equally many: nothing spells those.
    """
    first = models[0]
    for other in models[1:]:
        if other.tokenizer is first.tokenizer:
            continue
        one, two = first.tokenizer, other.tokenizer
        sizes = f"{first.name} has {one.vocabulary} tokens, {other.name} has {two.vocabulary}"
        if one.vocabulary != two.vocabulary:
            raise Fault(f"these members have not one vocabulary: {sizes}; mix them over bytes")
        for index in range(one.vocabulary):
            if one.spelling(index) != two.spelling(index):
                told = f"{one.spelling(index)!r} for {first.name}, {two.spelling(index)!r} for {other.name}"
                raise Fault(f"these members have not one vocabulary: token {index} is {told}; mix them over bytes")
        if one.eos_ids != two.eos_ids:
            raise Fault(f"{first.name} and {other.name} end a text with other tokens; mix them over bytes")
    return first.tokenizer.vocabulary


def opens_with_space(tokenizer: Tokenizer) -> bool:
    """Whether a model's answer begins with a space: after the "Answer:" of models without a chat template, and where
    the tokenizer puts a space before every text."""
    return tokenizer.chat_template is None or tokenizer.strips_space


class ByteText:
    """What spells a text of bytes, as a tokenizer does one of tokens: for `Spelling` and stop strings."""

    eos_ids = frozenset({END})

    def stream(self) -> ByteStream:
        """A decoder that is given one byte at a time."""
        return ByteStream()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of bytes; what is not UTF-8 is U+FFFD, the end nothing."""
        return bytes(i for i in ids if i < END).decode("utf-8", "replace")


class ByteStream:
    """Text of a growing sequence of bytes (`openbook.lm.tokenizer.Stream`)."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """The text that a byte completes."""
        return self._utf8.decode(b"" if index == END else bytes([index]))

    @property
    def pending(self) -> bool:
        """Whether the text so far ends within a character."""
        return bool(self._utf8.getstate()[0])

    def fork(self) -> ByteStream:
        """The same text so far, to be continued otherwise."""
        other = ByteStream()
        other._utf8.setstate(self._utf8.getstate())
        return other

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed."""
        return self._utf8.decode(b"", final=True)
