"""Whether the passage that a token is owed to holds the token's word.

Shapes: T tokens, P passages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np

from openbook.lm.tokenizer import Tokenizer
from openbook.mix.weights import Array

_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # of these scripts a character is a word of its own
_WORD = re.compile(f"[{_ALONE}]|[^\\W_{_ALONE}]+")
BINS = (0.0, 0.2, 0.4, 0.6, 0.8)
"""Where bins of responsibility begin; the last one ends at 1, which it holds."""


class Owed(NamedTuple):
    """A token and a passage: how responsible it is, the token's bits, whether the passage holds the token's words, the
    share of the other passages that do, and whether the question does."""

    responsibility: float
    bits: float
    held: bool
    others: float
    asked: bool


def words(text: str) -> set[str]:
    """Runs of letters and digits, in one case."""
    return {found[0].casefold() for found in _WORD.finditer(text)}


def words_of_tokens(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[set[str]]:
    """The whole words of the text that each token has a part in; none for what is no word."""
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokens]
    text, ends = "".join(pieces), np.cumsum([len(piece) for piece in pieces])
    found = [(*match.span(), match[0].casefold()) for match in _WORD.finditer(text)]
    spans = zip(ends - [len(piece) for piece in pieces], ends, strict=True)
    return [{word for start, end, word in found if start < stop and begin < end} for begin, stop in spans]


def owed(
    words_T: Sequence[set[str]], responsibility_TP: Array, bits_T: Array, passages: Sequence[str], question: str
) -> list[Owed]:
    """Every token that has a word, with every passage."""
    held_P, asked, made = [words(text) for text in passages], words(question), []
    for said, share_P, bits in zip(words_T, responsibility_TP, bits_T, strict=True):
        if said:
            holds = np.array([said <= held for held in held_P])
            others = (holds.sum() - holds) / max(1, len(holds) - 1)
            rows = zip(share_P.tolist(), holds.tolist(), others.tolist(), strict=True)
            made += [Owed(share, float(bits), held, other, said <= asked) for share, held, other in rows]
    return made


class Bin(TypedDict):
    """Tokens whose responsibility for a passage lies in the bin: in how many per cent it holds their words, in how many
    another of the passages does on average, in how many it does not but the question does."""

    least: float
    tokens: int
    held: float
    others: float
    question_only: float


@dataclass(frozen=True)
class Calibration:
    """How often a passage holds the words it is responsible for."""

    pairs: Sequence[Owed]

    def bins(self, least_bits: float = -np.inf) -> list[Bin]:
        """By responsibility, of tokens with at least so many bits."""
        chosen = [pair for pair in self.pairs if pair.bits >= least_bits]
        at = np.digitize([pair.responsibility for pair in chosen], BINS) - 1
        made = []
        for i, least in enumerate(BINS):
            here = [pair for pair, bin in zip(chosen, at, strict=True) if bin == i]
            made.append(
                Bin(
                    least=least,
                    tokens=len(here),
                    held=_share([p.held for p in here]),
                    others=_share([p.others for p in here]),
                    question_only=_share([p.asked and not p.held for p in here]),
                )
            )
        return made


def _share(values: Sequence[float]) -> float:
    return 100 * float(np.mean(values)) if values else 0.0
