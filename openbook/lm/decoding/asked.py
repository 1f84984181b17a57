"""A server's model for `openbook.lm.decoding.bytewise`: what may follow is asked for, text by text.

A server reads a text in its own tokens, so a row is its text, and tokenisations of one text are one. It tells its
likeliest tokens; the rest of the mass is unknown. Where a text goes on with what was not told, the server is asked
what follows there, as if a token had ended: the mass of what was untold is taken for that text's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from openbook.lm.decoding.bytewise import Next
from openbook.lm.decoding.trie import Trie
from openbook.lm.remote import Remote, Told


class _Row(NamedTuple):
    text: bytes
    spelled: tuple[bytes, ...]  # what may follow, in its trie's order


class AskedRows:
    """See `openbook.lm.decoding.bytewise.Tokens`: a server going on from a prompt.

    `written` counts the requests, a token each; what a server reads for them it does not say, so `read` is 0.
    """

    merges = True

    def __init__(self, remote: Remote, prompt: str) -> None:
        self._remote, self._prompt = remote, prompt
        self._rows: list[_Row] = []
        self.read = self.written = 0

    def first(self) -> Next:
        next_, row = self._ask(b"")
        self._rows = [row]
        return next_

    def follow(self, parents: Sequence[int], tokens: Sequence[int | None]) -> list[Next]:
        rows, found = [], []
        for parent, token in zip(parents, tokens, strict=True):
            row = self._rows[parent]
            if token is not None:
                next_, row = self._ask(row.text + row.spelled[token])
                found.append(next_)
            rows.append(row)
        self._rows = rows
        return found

    def again(self, text: bytes) -> tuple[Next, None]:
        next_, row = self._ask(text)
        self._rows = [row]
        return next_, None

    def _ask(self, text: bytes) -> tuple[Next, _Row]:
        try:
            said = text.decode()
        except UnicodeDecodeError:  # within a character: no text can ask
            told = Told({}, -math.inf, 0.0)
        else:
            self.written += 1
            told = self._remote.told(self._prompt + said)
        spelled = list(told.tokens) or [b"\0"]
        trie = Trie(spelled)
        log_p_V = np.array([told.tokens.get(spelled[i], -math.inf) for i in trie.order_V])
        return Next(trie, log_p_V, told.log_end, told.log_rest), _Row(text, tuple(spelled[i] for i in trie.order_V))
