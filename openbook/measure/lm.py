"""Language modelling: how well held-out text is foretold, under several ways of foretelling it, in one run.

A *way* is a function from a text cut into windows to log p of every token that counts. All ways are given the same
windows, so that their figures compare token by token. Another way is a function in a module of `openbook.measure.ways`
(one line in that package's `__init__` imports it):

    @lm_way("mine", needs_book=True)
    def mine(subject: Subject, windows: Sequence[Window]) -> Iterator[Array]:
        for window in windows:
            yield log_p_T  # natural, float64, `window.count` numbers: of the last `count` tokens of `window.tokens`

To foretell a token a way may look at all tokens before it, of its window or (`window.text`) of the whole text, and at
none after it. `subject.settings` says how to mix; `score` gives the model's own log p of a row's last tokens, so that
a mixture with another source is `np.logaddexp(np.log1p(-share) + log_p_T, np.log(share) + log_p_other_T)`.

Shapes: T predicted tokens of a window, R rows, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise
from typing import TypedDict

import numpy as np
import torch

from openbook.book.embedder import Embedder
from openbook.book.store import Book
from openbook.errors import Fault
from openbook.lm.backends.runner import Runner
from openbook.lm.cache.prefixes import Prefix, PrefixStore
from openbook.lm.model import LanguageModel
from openbook.measure.held_out import Mask, Said
from openbook.mix.mixing import normalisers
from openbook.mix.settings import Settings
from openbook.mix.sources.retrieved import opening
from openbook.mix.weights import Array

WINDOW, OVERLAP = 256, 128
ROWS, LOGIT_NUMBERS = 8, 1 << 25
"""Windows that are read at once, and logits that are held meanwhile: 128 MiB in fp32."""


@dataclass(frozen=True)
class Window:
    """`text[start:stop]`, of which the last `count` tokens are predicted; `start` is where its context begins."""

    text: Sequence[int] = field(repr=False)
    start: int
    stop: int
    count: int

    @property
    def tokens(self) -> list[int]:
        """Context and predicted tokens."""
        return list(self.text[self.start : self.stop])

    @property
    def first(self) -> int:
        """Where the predicted tokens begin in the text."""
        return self.stop - self.count


def windows(text: Sequence[int], length: int = WINDOW, overlap: int = OVERLAP) -> list[Window]:
    """A text in windows of at most `length` tokens; each begins with the last `overlap` of the one before, its context.

    Every token but the text's first is predicted exactly once, after `overlap` tokens or more wherever the text has so
    many.
    """
    if not 1 <= overlap < length:
        raise Fault(f"windows of {length} tokens cannot overlap by {overlap}; it must be from 1 to below the length")
    made, done = list[Window](), 1
    while done < len(text):
        start = max(0, done - overlap)
        stop = min(len(text), start + length)
        made.append(Window(text, start, stop, stop - done))
        done = stop
    return made


@dataclass
class Subject:
    """What is measured: a model, and if given a book with its encoder; `kept` holds passages' keys and values."""

    model: LanguageModel
    book: Book | None = None
    encoder: Embedder | None = None
    settings: Settings = field(default_factory=Settings)
    kept: PrefixStore | None = None

    @property
    def runner(self) -> Runner:
        return self.model.runner

    @cached_property
    def opening(self) -> list[int]:
        """What stands before every text: a BOS where the model wants one."""
        return opening(self.model.tokenizer)


Way = Callable[[Subject, Sequence[Window]], Iterator[Array]]
"""Natural log p of each window's predicted tokens, window by window in their order."""
_WAYS: dict[str, tuple[Way, bool, bool]] = {}


def lm_way(name: str, *, needs_book: bool = False, usual: bool = True) -> Callable[[Way], Way]:
    """Register a way of foretelling text. One that needs a book is left out where none is given, one that is not usual
    where it is not named."""

    def register(function: Way) -> Way:
        _WAYS[name] = (function, needs_book, usual)
        return function

    return register


def ways(book: bool = True, *, named: Sequence[str] = ()) -> dict[str, Way]:
    """The ways by name, in the order they were registered; `book`: whether there is one.

    `named`: those whose names match one of these patterns (`ralm-bm25-*`), else the usual ones. Raises `Fault` where a
    pattern matches nothing.
    """
    import openbook.measure.ways  # noqa: F401  (registers the ways that come with openbook)

    there = {name: way for name, (way, needs, _) in _WAYS.items() if book or not needs}
    for pattern in named:
        if not any(fnmatchcase(name, pattern) for name in there):
            raise Fault(f"no way is called {pattern!r} here; there are: {', '.join(there)} (some need --book DIR)")
    if named:
        return {name: way for name, way in there.items() if any(fnmatchcase(name, pattern) for pattern in named)}
    return {name: way for name, way in there.items() if _WAYS[name][2]}


@dataclass(frozen=True)
class Row:
    """Tokens to be read after `prefix` (None: from nothing), of which the last `count` are scored."""

    tokens: Sequence[int]
    count: int
    prefix: Prefix | None = None


def score(runner: Runner, rows: Sequence[Row]) -> list[Array]:
    """Natural log p of the last `count` tokens of each row, given all before them: one forward for all rows.

    Rows are padded on the left to one length. The token before a scored one stands in the same row.
    """
    read = [list(row.tokens[:-1]) for row in rows]
    if any(len(tokens) < row.count for tokens, row in zip(read, rows, strict=True)):
        raise ValueError("the first token of a text is predicted by nothing")
    length, most = max(map(len, read)), max(row.count for row in rows)
    tokens_RT, positions_RT = torch.zeros(len(rows), length, dtype=torch.long), torch.full((len(rows), length), -1)
    for r, (tokens, row) in enumerate(zip(read, rows, strict=True)):
        begin = 0 if row.prefix is None else row.prefix.length
        tokens_RT[r, length - len(tokens) :] = torch.tensor(tokens)
        positions_RT[r, length - len(tokens) :] = torch.arange(begin, begin + len(tokens))
    cache = runner.cache([row.prefix for row in rows], room=length)
    next_RT = torch.tensor([[*[0] * (most - row.count), *row.tokens[len(row.tokens) - row.count :]] for row in rows])
    found_RT = np.zeros((len(rows), most))
    # In pieces, so that the logits of many columns never stand in memory all at once.
    piece = max(1, LOGIT_NUMBERS // (len(rows) * runner.spec.vocabulary))
    bounds = [0, *range(length - most + piece, length, piece), length]
    for start, stop in pairwise(bounds):
        columns = range(max(start, length - most), stop)
        logits_RtV = runner.forward(
            tokens_RT[:, start:stop], cache, positions_BT=positions_RT[:, start:stop], keep=[c - start for c in columns]
        )
        log_z_Rt = normalisers(logits_RtV.flatten(0, 1)).reshape(len(rows), len(columns))
        at = slice(columns[0] - length + most, columns[-1] + 1 - length + most)
        next_Rt1 = next_RT[:, at, None].to(logits_RtV.device)
        found_RT[:, at] = logits_RtV.gather(-1, next_Rt1)[..., 0].double().cpu().numpy() - log_z_Rt
    scored = [log_p_T[most - row.count :] for log_p_T, row in zip(found_RT, rows, strict=True)]
    if not all(np.isfinite(log_p_T).all() for log_p_T in scored):
        raise Fault("the model's numbers are not finite; its file is damaged: fetch or convert it again")
    return scored


class Figures(TypedDict):
    """Of one way: perplexity a token; bits a byte of text, which compares models of different tokenizers too.

    `against` is the perplexity over that of the first way; `error` the standard error of its logarithm, windows being
    drawn together for both. `new` and `new_against` are the same over the tokens that the book does not say word for
    word (`openbook.measure.held_out`); None where it says all.
    """

    perplexity: float
    bits_per_byte: float
    against: float
    error: float
    new: float | None
    new_against: float | None
    seconds: float


@dataclass
class Measured:
    """Log p of all predicted tokens of all texts, window by window, for every way that was run."""

    tokens: int = 0
    bytes: int = 0
    copied: list[Mask] = field(default_factory=list)
    log_p: dict[str, list[Array]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def share_copied(self) -> float:
        """The part of the tokens that lie in what the book says word for word."""
        return float(np.concatenate(self.copied).mean())

    def figures(self) -> dict[str, Figures]:
        """What comes of it, in the order the ways were run."""
        first = next(iter(self.log_p.values()))
        return {name: self._of(log_p, first, self.seconds[name]) for name, log_p in self.log_p.items()}

    def _of(self, log_p: Sequence[Array], first: Sequence[Array], seconds: float) -> Figures:
        nats = -sum(float(part.sum()) for part in log_p)
        sums = np.array([float(b.sum() - a.sum()) for a, b in zip(log_p, first, strict=True)])
        counts = np.array([len(part) for part in log_p])
        # A ratio of two means (log p gained, tokens) over windows: its error to first order.
        rest = sums - counts * sums.sum() / counts.sum()
        error = math.sqrt(float(rest @ rest) * len(rest) / max(len(rest) - 1, 1)) / counts.sum()
        new = ~np.concatenate(self.copied)
        one, other = (float(np.concatenate(list(parts))[new].mean()) if new.any() else 0.0 for parts in (log_p, first))
        return Figures(
            perplexity=math.exp(nats / self.tokens),
            bits_per_byte=nats / math.log(2) / self.bytes,
            against=math.exp(float(sums.sum()) / self.tokens),
            error=error,
            new=math.exp(-one) if new.any() else None,
            new_against=math.exp(other - one) if new.any() else None,
            seconds=seconds,
        )


Progress = Callable[[int, int, str], None]


def measure(
    subject: Subject,
    texts: Sequence[str],
    chosen: Sequence[tuple[str, Way]],
    *,
    length: int = WINDOW,
    overlap: int = OVERLAP,
    tokens: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Foretell the texts in every way; of each text at most the first `tokens` predicted ones count.

    Raises `Fault` where a text is too short to foretell anything, or the windows do not fit the model's context.
    """
    room = subject.model.spec.max_positions - len(subject.opening)
    if length > room:
        raise Fault(f"windows of {length} tokens do not fit this model's context of {room}; take shorter ones")
    tokenizer = subject.model.tokenizer
    encoded = [tokenizer.encode(text)[: None if tokens is None else tokens + 1] for text in texts]
    cut_each = [windows(text, length, overlap) for text in encoded]
    cut = [window for of_text in cut_each for window in of_text]
    if not cut:
        raise Fault("the texts are too short: at least two tokens are needed to foretell one")
    made = Measured(sum(window.count for window in cut))
    made.bytes = sum(len(tokenizer.token_bytes(token)) for text in encoded for token in text[1:])
    said = Said.by(subject.book)
    for text, ids, of_text in zip(texts, encoded, cut_each, strict=True):
        copied_T = said.copied(text, ids, tokenizer)
        made.copied += [copied_T[window.first : window.stop] for window in of_text]
    for name, way in chosen:
        began = time.perf_counter()
        made.log_p[name] = []
        with subject.runner.alone():
            for window, log_p_T in zip(cut, way(subject, cut), strict=True):
                if log_p_T.shape != (window.count,):
                    raise ValueError(f"{name} gave {log_p_T.shape} numbers for a window of {window.count}")
                made.log_p[name].append(log_p_T)
                if progress is not None:
                    progress(len(made.log_p[name]), len(cut), f"windows, {name}")
        made.seconds[name] = time.perf_counter() - began
    return made
