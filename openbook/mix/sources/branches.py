"""The model with a passage before the question, once for every passage and once for none: rows of one batch.

Shapes: S branches, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openbook.errors import Fault
from openbook.lm.cache.dense import Prefix
from openbook.lm.cache.prefixes import PrefixStore
from openbook.lm.model import LanguageModel
from openbook.mix.prompt import Framing, Suffix
from openbook.mix.source import Label
from openbook.mix.weights import Array

# Texts are prefilled in batches of at most this many padded tokens: bounded memory, and it can be interrupted.
PREFILL_TOKENS = 4096


@dataclass(frozen=True)
class Branch:
    """One row: who it is, the name its keys are kept under, the passages in front of the question (none: closed)."""

    label: Label
    name: str
    passages: tuple[str, ...] = ()


CLOSED_BOOK = Branch(Label("closed", "closed_book"), "closed")


class Branches:
    """A `Source` of S branches over one model, run in one batched forward a step.

    `question_log_p_S` is log p(question | branch), natural: the prefill of the question yields it at no extra cost.
    """

    def __init__(
        self,
        model: LanguageModel,
        framing: Framing,
        branches: Sequence[Branch],
        question: str,
        *,
        room: int,
        store: PrefixStore | None = None,
    ) -> None:
        self.labels = tuple(branch.label for branch in branches)
        self._runner = model.runner
        suffix = framing.suffix(question)
        texts = [framing.prefix(branch.passages) for branch in branches]
        self._refuse_too_long(max(map(len, texts)), suffix, room)
        # The last token before the question is run again with it: its output predicts the question's first token.
        prefixes = self._prefixes([branch.name for branch in branches], [text[:-1] for text in texts], store)
        rows = [[text[-1], *suffix.question, *suffix.tail] for text in texts]
        self._cache = self._runner.cache(prefixes, room=len(rows[0]) + room)
        asked = len(suffix.question)
        logits_STV = self._runner.forward(torch.tensor(rows), self._cache)
        log_p_StV = logits_STV[:, :asked].log_softmax(-1)
        targets = torch.tensor(suffix.question, device=logits_STV.device).expand(len(rows), asked)
        log_p_S = log_p_StV.gather(-1, targets[..., None])[..., 0].double().sum(-1)
        self.question_log_p_S: Array = log_p_S.cpu().numpy()
        self._first_SV = logits_STV[:, -1].log_softmax(-1)

    def _refuse_too_long(self, longest: int, suffix: Suffix, room: int) -> None:
        needed = longest + len(suffix.question) + len(suffix.tail) + room
        limit = self._runner.spec.max_positions
        if needed > limit:
            raise Fault(
                f"the question has {len(suffix.question)} tokens and needs, with a passage and the answer, {needed}; "
                f"this model's context is {limit}: ask a shorter question"
            )

    def _prefixes(
        self, names: Sequence[str], texts: Sequence[list[int]], store: PrefixStore | None
    ) -> list[Prefix | None]:
        """Each text's keys and values: from the store, else computed in batches of similar length and kept there."""
        found = [store.get(name, text) if store else None for name, text in zip(names, texts, strict=True)]
        missing = [i for i in range(len(texts)) if found[i] is None and texts[i]]
        batch: list[int] = []
        for index in [*sorted(missing, key=lambda i: len(texts[i])), None]:
            if batch and (index is None or (len(batch) + 1) * len(texts[index]) > PREFILL_TOKENS):
                for i, prefix in zip(batch, self._runner.prefill([texts[i] for i in batch]), strict=True):
                    found[i] = prefix
                    if store:
                        store.put(names[i], texts[i], prefix)
                batch = []
            if index is not None:
                batch.append(index)
        return found

    def keep(self, rows: Sequence[int], labels: Sequence[Label] | None = None) -> None:
        """Go on with these branches only, in this order, under new labels if given."""
        self._cache.select(rows)
        self.labels = tuple(labels or (self.labels[row] for row in rows))
        self.question_log_p_S = self.question_log_p_S[list(rows)]
        self._first_SV = self._first_SV[list(rows)]

    def start(self) -> Tensor:
        return self._first_SV

    def step(self, token: int) -> Tensor:
        return self.step_each([token] * len(self.labels))

    def step_each(self, tokens: Sequence[int]) -> Tensor:
        """As `step`, with a token of its own for every row: rows may belong to different mixtures."""
        tokens_S1 = torch.tensor(tokens, dtype=torch.long)[:, None]
        return self._runner.forward(tokens_S1, self._cache)[:, -1].log_softmax(-1)
