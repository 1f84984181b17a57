"""A local model's tokens for `openbook.lm.decoding.bytewise`: each live tokenisation is a row of one paged cache.

A tokenisation that parts in two shares the blocks of its beginning, and rows that wait cost nothing in a forward.

Shapes: V tokens that spell something, in the trie's order; N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from openbook.errors import Fault
from openbook.lm.cache.make import CacheSpec, make_cache
from openbook.lm.decoding.bytewise import Next
from openbook.lm.decoding.trie import Trie
from openbook.lm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from openbook.lm.model import LanguageModel

ROWS = 8
"""Tokenisations that there is memory for at once; to make room for more, all of it is copied."""
AT_ONCE = 64
"""Tokens whose logits are held at once while a text is read again."""


class Spelt:
    """The bytes of a vocabulary: `trie`, the token ids `ids_V` in its order, and those that end a text."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        if not tokenizer.spells_bytes:
            raise Fault(
                "this model's tokenizer joins words by rules, not by bytes (WordPiece); "
                "only byte-level and SentencePiece vocabularies can be read over bytes"
            )
        count = min(tokenizer.vocabulary, vocabulary)
        spelled = {
            i: text for i in range(count) if i not in tokenizer.control_ids and (text := tokenizer.token_bytes(i))
        }
        ids = np.array(list(spelled), dtype=np.int64)
        self.trie = Trie(list(spelled.values()))
        self.ids_V = ids[self.trie.order_V]
        self.ends = np.array(sorted(i for i in tokenizer.eos_ids if i < count), dtype=np.int64)

    def next(self, scores: torch.Tensor) -> Next:
        """What may follow by a row of scores over token ids."""
        s = scores.cpu().numpy()
        s_V, s_ends = s[self.ids_V].astype(np.float64), s[self.ends].astype(np.float64)
        top = max(float(s_V.max()), float(s_ends.max(initial=-np.inf)))
        log_z = top + float(np.log(np.exp(s_V - top).sum() + np.exp(s_ends - top).sum()))
        log_end = float(np.logaddexp.reduce(s_ends - log_z)) if len(s_ends) else -np.inf
        return Next(self.trie, s_V - log_z, log_end)


class TokenRows:
    """See `openbook.lm.decoding.bytewise.Tokens`: a model going on from the tokens of a prompt, `room` bytes at most.

    `read` tokens came first, `written` tokens of live tokenisations since, in `steps` forwards.
    """

    merges = False

    def __init__(self, model: LanguageModel, prompt: Sequence[int], room: int) -> None:
        most = model.spec.max_positions
        if not prompt:
            raise Fault("there is nothing to go on from: give a prompt of one token or more")
        if room < 1 or len(prompt) + room > most:
            raise Fault(
                f"{room} bytes are asked for after a prompt of {len(prompt)} tokens; a byte may take a token, "
                f"and this model's context is {most}"
            )
        self._runner, self._tokenizer, self._spelt = model.runner, model.tokenizer, model.spelt
        self._prompt, self._room = list(prompt), room
        self.read, self.written, self.steps = len(self._prompt), 0, 0

    def first(self) -> Next:
        return self._spelt.next(self._begin())

    def _begin(self) -> torch.Tensor:
        runner = self._runner
        kind = CacheSpec("paged", runner.caching.codec, runner.caching.block)
        capacity = len(self._prompt) + self._room
        self._cache = make_cache(runner.spec, kind, ROWS, capacity, runner.dtype, runner.device)
        self._cache.select([0])
        scores_V = runner.read(torch.tensor([self._prompt]), self._cache)[0]
        if not bool(torch.isfinite(scores_V).all()):
            raise Fault("the model's numbers are not finite; its file is damaged: fetch or convert it again")
        return scores_V

    def follow(self, parents: Sequence[int], tokens: Sequence[int | None]) -> list[Next]:
        if list(parents) != list(range(self._cache.batch)):
            self._cache.select(parents)
        reading = [n for n, token in enumerate(tokens) if token is not None]
        if not reading:
            return []
        tokens_N = np.array([0 if token is None else self._spelt.ids_V[token] for token in tokens])
        at_N = self._cache.next_positions_B
        waits_N = torch.tensor([token is None for token in tokens], device=at_N.device)
        positions_N = torch.where(waits_N, -1, at_N)
        scores_N1V = self._runner.forward(
            torch.from_numpy(tokens_N)[:, None], self._cache, positions_BT=positions_N[:, None]
        )
        self.steps += 1
        self.written += len(reading)
        return [self._spelt.next(scores_N1V[n, 0]) for n in reading]

    def again(self, text: bytes) -> tuple[Next, float] | None:
        tokens = self._tokenizer.encode(text.decode())
        if b"".join(map(self._tokenizer.token_bytes, tokens)) != text or len(tokens) > self._room:
            return None
        scores_V, log_p = self._begin(), 0.0
        where = {int(token): v for v, token in enumerate(self._spelt.ids_V)}
        for start in range(0, len(tokens), AT_ONCE):
            chunk = tokens[start : start + AT_ONCE]
            scores_TV = self._runner.forward(torch.tensor([chunk]), self._cache)[0]
            for token, row in zip(chunk, [scores_V, *scores_TV], strict=False):
                log_p += float(self._spelt.next(row).log_p_V[where[token]])
            scores_V = scores_TV[-1]
        self.read += len(self._prompt) + len(tokens)
        return self._spelt.next(scores_V), log_p
